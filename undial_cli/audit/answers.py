"""Asks a model: probes, what it answers and how it scores the true answer, row by row.

A probe is one prompt of one row with the answer that would give it away. Of the probes of a row
the one that got most counts, for each score by itself: an attacker needs one. Knows no attack.

Shapes: R forget rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from undial_cli.audit.attack import AttackedModel, AuditData, Outcome
from undial_cli.audit.beams import search_beams
from undial_cli.audit.hits import collect_words, list_key_facts
from undial_cli.config.suites import EvalSetConfig
from undial_cli.data.answers import read_scored_text
from undial_cli.data.collate import choose_pad_id
from undial_cli.data.focus import read_focus_column
from undial_cli.data.rows import Row, is_blank_cell
from undial_cli.errors import UserError
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
    `given`: the beginning of the answer that stands in the prompt, which earns nothing; `shown`:
    the prompt as a person reads it; `facts`: sets of words, each of which gives the answer away;
    none: that is not told.
    """

    row: int
    item: PromptItem
    given: str = ""
    shown: str = ""
    facts: tuple[frozenset[str], ...] = ()


def make_direct_probes(data: AuditData, max_new_tokens: int | None = None) -> list[Probe]:
    """Every row as the suite asks it; a row of several turns or pieces has several probes.

    Args:
        max_new_tokens: generated per answer, which references are cut to; null: what the suite
            says.
    """
    return [
        make_probe(data, item.index, item)
        for item in make_asked_items(data, data.rows, max_new_tokens)
    ]


def make_asked_items(
    data: AuditData,
    rows: list[Row],
    max_new_tokens: int | None = None,
    kind: str | None = None,
    turns: str | None = None,
    needs: frozenset[str] = frozenset(),
    room: int = 1,
) -> list[PromptItem]:
    """Rows as items of the forget set.

    Args:
        kind, turns: how a row is asked and which of its turns count; null: as the suite says.
        needs: what is needed besides the scored answer and a generation.
        room: of how many rows of data.max_length a prompt may be made.
    """
    options, encoder = data.suite.config.sets[data.forget_set], data.encoder
    length = count_new_tokens(data, max_new_tokens)
    options = dataclasses.replace(options, max_new_tokens=length, kind=kind or options.kind)
    longest = room * encoder.data.max_length
    asked = dataclasses.replace(encoder.data, turns=turns or encoder.data.turns, max_length=longest)
    return make_prompt_items(
        dataclasses.replace(encoder, data=asked),
        data.forget_set,
        options,
        rows,
        data.suite.rows[data.forget_set].shots,
        {"answer", "generation", *needs},
        length,
    )


def count_new_tokens(data: AuditData, given: int | None) -> int:
    """Tokens that are generated per answer: those given, else those of the suite."""
    options = data.suite.config.sets[data.forget_set]
    return given or options.max_new_tokens or data.suite.config.max_new_tokens


def make_probe(data: AuditData, row: int, item: PromptItem, known: str = "") -> Probe:
    """The probe of an item; what its prompt holds is no secret.

    Args:
        known: what was known besides: the question as the row has it.
    """
    focus = list_focus_parts(data.rows[row], data)
    focus = [part for part in focus if part in item.reference]
    facts = frozenset(list_key_facts(item.reference, f"{known} {item.prompt}", focus))
    return Probe(row, item, shown=item.prompt, facts=(facts,) if facts else ())


def list_focus_parts(row: Row, data: AuditData) -> list[str]:
    """The parts of a row's answer that its own column lists as what matters; [] without one."""
    config = data.encoder.data
    if is_blank_cell(row.get(config.focus_key)):
        return []
    try:
        text = read_scored_text(row, config)
        return [text[start:end] for start, end in read_focus_column(row, text, config, 1)]
    except UserError:  # a column of that name that lists something else
        return []


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


def make_curves(axis: str, outcomes: dict[str, Outcome]) -> dict[str, dict[str, float | None]]:
    """The mean of every score over the rows, by score and step.

    Args:
        axis: what the steps are steps of, in a word.
        outcomes: by step.
    """
    names = dict.fromkeys(name for outcome in outcomes.values() for name in outcome.scores)
    return {
        f"{name} by {axis}": {
            step: average_known(outcome.scores.get(name, [])) for step, outcome in outcomes.items()
        }
        for name in names
    }


def average_known(values: list[float | None]) -> float | None:
    """The mean of those values that are there."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
