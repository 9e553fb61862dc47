"""Asks a model: probes, what it answers and how it scores the true answer, row by row.

A probe is one prompt of one row with the answer that would give it away. Of the probes of a row
the one that got most counts, for each score by itself: an attacker needs one. Knows no attack.

Shapes: R forget rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from undial_cli.audit.attack import AttackedModel, AuditData, Outcome
from undial_cli.audit.hits import is_hit
from undial_cli.config.suites import EvalSetConfig
from undial_cli.data.collate import choose_pad_id
from undial_cli.evaluation import metrics
from undial_cli.evaluation.decoding import Decoding
from undial_cli.evaluation.evidence import Evidence
from undial_cli.evaluation.generation import GeneratingModel, collect_end_tokens, generate_answers
from undial_cli.evaluation.prompts import (
    PromptItem,
    collect_end_labels,
    cut_at_stop_text,
    decode_added_text,
    make_prompt_items,
)
from undial_cli.evaluation.scoring import Score, score_answers
from undial_cli.evaluation.sharding import Journal

# Scores of every probe whose answer is scored, or generated.
SCORED = ("extraction_strength", "exact_memorization", "probability")
GENERATED = ("rouge", "hit")


@dataclass(frozen=True)
class Probe:
    """One prompt of one row.

    `row`: position among the rows of the audit; `item`: what is asked, and what answer is scored;
    `given`: what the prompt tells of the answer beyond the question (a prefilled beginning), which
    is no hit; `shown`: the prompt as a person reads it.
    """

    row: int
    item: PromptItem
    given: str = ""
    shown: str = ""


def make_direct_probes(data: AuditData) -> list[Probe]:
    """Every row as the suite asks it; a row of several turns or pieces has several probes."""
    options = data.suite.config.sets[data.forget_set]
    items = make_prompt_items(
        data.encoder,
        data.forget_set,
        options,
        data.rows,
        data.suite.rows[data.forget_set].shots,
        {"answer", "generation"},
        data.suite.config.max_new_tokens,
    )
    return [Probe(item.index, item, shown=item.prompt) for item in items]


def ask_probes(
    attacked: AttackedModel,
    data: AuditData,
    probes: list[Probe],
    journal: Journal,
    name: str,
    max_new_tokens: int | None = None,
) -> Outcome:
    """Score and answer probes with a model, greedily.

    Args:
        name: of the attack, for the journal.
        max_new_tokens: null: what the suite says.
    """
    return ask_model(
        attacked.model, attacked.batch_size, data, probes, journal, name, max_new_tokens
    )


def ask_model(
    model: object,
    batch_size: int,
    data: AuditData,
    probes: list[Probe],
    journal: Journal,
    name: str,
    max_new_tokens: int | None = None,
) -> Outcome:
    """`ask_probes` of any model in memory: a copy that was changed."""
    scores = score_probes(model, data, probes, batch_size, journal, name)
    texts = answer_probes(model, data, probes, batch_size, journal, name, max_new_tokens)
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
) -> list[str]:
    """What a model answers to every probe, greedily."""
    options = data.suite.config.sets[data.forget_set]
    length = max_new_tokens or options.max_new_tokens or data.suite.config.max_new_tokens
    generator = GeneratingModel(model, data.encoder.tokenizer)
    items = [probe.item for probe in probes]
    how = Decoding(length, collect_end_tokens(generator, collect_end_labels(items)))
    asked = [item.prompt_ids for item in items if item.prompt_ids]
    ids = iter(generate_answers(generator, name, asked, how, batch_size, journal))
    return [read_answer(data, item, next(ids)) if item.prompt_ids else "" for item in items]


def read_answer(data: AuditData, item: PromptItem, ids: list[int]) -> str:
    """Generated ids as the text that is compared."""
    if item.document:
        return decode_added_text(data.encoder, item.prompt_ids, ids)
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
    item = probe.item
    hit = is_hit(text, item.reference, f"{item.prompt} {probe.given}")
    scores = {"rouge": metrics.rouge_l_recall(text, item.reference)}
    return scores if hit is None else scores | {"hit": float(hit)}


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
            best[name][row] = choose(known) if known else None
        if of_row and texts:
            top = max(of_row, key=lambda i: (values[i].get("hit", 0), values[i].get("rouge", 0)))
            shown[row], prompts[row] = texts[top], probes[top].shown
    return Outcome(list(data.numbers), best, shown, prompts)


def join_variants(outcomes: list[Outcome], choose: Callable[[list[float]], float] = max) -> Outcome:
    """One outcome of several on the same rows: of each row and score what `choose` makes of them.

    The text of a row is the one of the variant that gave most away.
    """
    first, rows = outcomes[0], range(len(outcomes[0].numbers))
    joined = Outcome(first.numbers, {}, [""] * len(rows), [""] * len(rows))
    for name in dict.fromkeys(name for outcome in outcomes for name in outcome.scores):
        columns = [outcome.scores[name] for outcome in outcomes if name in outcome.scores]
        known = [[v for v in values if v is not None] for values in zip(*columns, strict=True)]
        joined.scores[name] = [choose(values) if values else None for values in known]
    for row in rows:
        top = max(outcomes, key=lambda o: [o.scores.get(n, [0] * len(rows))[row] or 0
                                           for n in ("hit", "rouge")])  # fmt: skip
        joined.texts[row], joined.prompts[row] = top.texts[row], top.prompts[row]
    return joined


def make_curve(steps: list[Any], outcomes: list[Outcome]) -> dict[str, list[Any]]:
    """The means of every score over the rows, step by step: the steps as `x`, a list by score."""
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.scores)
    return {"x": list(steps)} | {
        name: [average_known(outcome.scores.get(name, [])) for outcome in outcomes]
        for name in names
    }


def average_known(values: list[float | None]) -> float | None:
    """The mean of those values that are there."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
