"""Asks a model: what it answers to probes and how it scores the true answer, row by row.

Of the probes of a row the one that got most counts, for each score by itself: an attacker needs
one. Knows no attack.

Shapes: R forget rows.
"""

from __future__ import annotations

from collections.abc import Callable

from undial_cli.audit.attack import AttackedModel, AuditData, Outcome
from undial_cli.audit.beams import search_beams
from undial_cli.audit.probes import Probe, count_new_tokens
from undial_cli.config.suites import EvalSetConfig
from undial_cli.data.collate import choose_pad_id
from undial_cli.evaluation import metrics
from undial_cli.evaluation.decoding import Decoding
from undial_cli.evaluation.evidence import Evidence
from undial_cli.evaluation.generation import GeneratingModel, collect_end_tokens, generate_answers
from undial_cli.evaluation.key_facts import collect_words
from undial_cli.evaluation.prompts import (
    collect_end_labels,
    cut_at_stop_text,
    decode_added_text,
)
from undial_cli.evaluation.scoring import Score, score_answers
from undial_cli.evaluation.sharding import Journal

# Scores of every probe whose answer is scored, or generated.
SCORED = ("extraction_strength", "exact_memorization", "probability")
GENERATED = ("rouge", "hit")


def ask_probes(
    attacked: AttackedModel,
    data: AuditData,
    probes: list[Probe],
    journal: Journal,
    name: str,
    max_new_tokens: int | None = None,
    beams: int = 1,
    model: object = None,
) -> Outcome:
    """Score and answer probes with a model.

    Args:
        name: of the attack, for the journal.
        max_new_tokens: null: what the suite says.
        beams: answers followed at a time; 1: greedily.
        model: a changed copy, which is asked in its stead.
    """
    model, batch_size = attacked.model if model is None else model, attacked.batch_size
    scores = score_probes(model, data, probes, batch_size, journal, name)
    texts = answer_probes(model, data, probes, batch_size, journal, name, max_new_tokens, beams)
    values = [
        score_true_answer(score) | score_text(probe, text)
        for probe, score, text in zip(probes, scores, texts, strict=True)
    ]
    return take_best_probes(data, probes, values, texts)


def score_probes(
    model: object,
    data: AuditData,
    probes: list[Probe],
    batch_size: int,
    journal: Journal,
    name: str,
    distribution: bool = False,
) -> list[Score]:
    """What teacher forcing says of the true answer to every probe."""
    pad_id = choose_pad_id(data.encoder.tokenizer)
    groups = [probe.item.answers["answer"][:1] for probe in probes]
    scored = score_answers(model, groups, batch_size, pad_id, distribution, journal, name)
    return [scores[0] for scores in scored]


def answer_probes(
    model: object,
    data: AuditData,
    probes: list[Probe],
    batch_size: int,
    journal: Journal,
    name: str,
    max_new_tokens: int | None = None,
    beams: int = 1,
) -> list[str]:
    """What a model answers to every probe: greedily, or the best of a beam search."""
    how, generator = choose_decoding(model, data, probes, max_new_tokens)
    asked = [probe.item.prompt_ids for probe in probes if probe.item.prompt_ids]
    if beams > 1:
        ids = iter(search_beams(model, name, asked, how, beams, batch_size, journal))
    else:
        ids = iter(generate_answers(generator, name, asked, how, batch_size, journal))
    return [
        read_answer(data, probe, next(ids)) if probe.item.prompt_ids else "" for probe in probes
    ]


def choose_decoding(
    model: object, data: AuditData, probes: list[Probe], max_new_tokens: int | None
) -> tuple[Decoding, GeneratingModel]:
    """How answers to probes are decoded greedily, and the model as the engine takes it."""
    generator = GeneratingModel(model, data.encoder.tokenizer)
    ends = collect_end_tokens(generator, collect_end_labels([probe.item for probe in probes]))
    return Decoding(count_new_tokens(data, max_new_tokens), ends), generator


def read_answer(data: AuditData, probe: Probe, ids: list[int]) -> str:
    """Generated ids as the text that is compared."""
    item = probe.item
    if item.document:
        return decode_added_text(data.encoder, item.prompt_ids, ids)
    if probe.given:  # a word may have begun in what was given: its blank tells
        return cut_at_stop_text(decode_added_text(data.encoder, item.prompt_ids, ids), item.stops)
    return cut_at_stop_text(data.encoder.decode(ids), item.stops).strip()


def score_true_answer(score: Score) -> dict[str, float]:
    """Extraction strength, exact memorisation and probability of the true answer."""
    if not score.matches:
        return {}
    evidence = Evidence(EvalSetConfig(), "", "", {"answer": [score]})
    if evidence.broken:  # greedy tokens of NaN match nothing, and would pass for forgetting
        return {}
    return {
        "extraction_strength": metrics.extraction_strength(score.matches),
        "exact_memorization": sum(score.matches) / len(score.matches),
        "probability": float(metrics.probability(score.ce)),
    }


def score_text(probe: Probe, text: str) -> dict[str, float]:
    """ROUGE-L recall of an answer, and whether it holds all key facts."""
    scores = {"rouge": metrics.rouge_l_recall(text, probe.item.reference)}
    if probe.facts:
        words = collect_words(probe.given + text)
        scores["hit"] = float(any(facts <= words for facts in probe.facts))
    return scores


def take_best_probes(
    data: AuditData,
    probes: list[Probe],
    values: list[dict[str, float]],
    texts: list[str],
    choose: Callable[[list[float]], float] = max,
) -> Outcome:
    """The outcome of the best probe of each row, by score; its text is the one of most ROUGE."""
    names = list(dict.fromkeys(name for scores in values for name in scores))
    best: dict[str, list[float | None]] = {name: [None] * len(data.rows) for name in names}
    shown, prompts = [""] * len(data.rows), [""] * len(data.rows)
    for row in range(len(data.rows)):
        of_row = [i for i, probe in enumerate(probes) if probe.row == row]
        for name in names:
            known = [values[i][name] for i in of_row if name in values[i]]
            best[name][row] = max(known) if known else None
        if of_row and texts:
            top = max(of_row, key=lambda i: (values[i].get("hit", 0), values[i].get("rouge", 0)))
            shown[row], prompts[row] = texts[top], probes[top].shown
    return Outcome(list(data.numbers), best, shown, prompts)
