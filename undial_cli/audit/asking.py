"""Attacks by asking: the question in other words, after examples, with the answer begun.

`kind: ask`: what is asked follows from the attack's file alone. All ways of putting a question are
tried, and of each row the best one counts. Knows no model's insides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from undial_cli.audit.answers import ask_probes
from undial_cli.audit.attack import AttackedModel, AttackKind, AuditData, CannotServe, Outcome
from undial_cli.audit.probes import (
    Probe,
    count_new_tokens,
    make_asked_items,
    make_direct_probes,
    make_probe,
)
from undial_cli.audit.wordings import Wording, list_wordings, name_asked_columns
from undial_cli.config.attacks import AskConfig
from undial_cli.data.answers import read_scored_text, replace_answer
from undial_cli.data.rows import Row
from undial_cli.evaluation.key_facts import collect_words, list_key_facts
from undial_cli.evaluation.prompts import PromptItem, decode_added_text
from undial_cli.evaluation.sharding import Journal
from undial_cli.losses.positions import IGNORE
from undial_cli.models.capacity import count_table_positions


def ask_questions(
    attacked: AttackedModel, data: AuditData, config: AskConfig, journal: Journal
) -> Outcome:
    """Every way of putting every question."""
    probes = make_ask_probes(data, config, attacked.seed)
    fitting = select_fitting_probes(attacked, probes)
    outcome = ask_probes(
        attacked, data, fitting, journal, "ask", config.max_new_tokens, config.beams
    )
    if len(fitting) < len(probes):
        outcome.notes.append(
            f"{len(probes) - len(fitting)} of {len(probes)} prompts are longer than the model's "
            "table of positions and left out"
        )
    return outcome


def select_fitting_probes(attacked: AttackedModel, probes: list[Probe]) -> list[Probe]:
    """The probes that a model with a table of positions can take; of any other all.

    Raises:
        CannotServe: none fits.
    """
    positions = count_table_positions(attacked.model)
    if positions is None:
        return probes
    fitting = [p for p in probes if max(map(len, p.item.sequences())) <= positions]
    if probes and not fitting:
        raise CannotServe(f"its prompts are longer than the model's {positions} positions")
    return fitting


def make_ask_probes(data: AuditData, config: AskConfig, seed: int) -> list[Probe]:
    """All that is asked, row by row."""
    if asks_as_suite(config):
        return make_direct_probes(data, config.max_new_tokens)
    wordings = list_wordings(data, config, seed)
    plain = make_worded_probes(data, wordings, config)
    if not config.prefills and not config.answer_tokens:
        return plain
    probes = []
    for prefill in config.prefills:
        probes += give_prefill(data, wordings, plain, config, prefill)
    for count in config.answer_tokens:
        given = (give_answer_tokens(data, probe, config, count) for probe in plain)
        probes += [probe for probe in given if probe is not None]
    return sorted(probes, key=lambda probe: probe.row)


def asks_as_suite(config: AskConfig) -> bool:
    """Whether the question is put as it always is, so that documents can be asked for too."""
    others = (config.paraphrased, config.templates, config.prefills, config.answer_tokens)
    examples = (config.shots, config.same_subject, config.languages)
    return config.asked and not any((*others, *examples))


def check_questions(data: AuditData, config: AskConfig) -> None:
    """Raise CannotServe where the data cannot be asked so."""
    if not asks_as_suite(config):
        list_wordings(data, config, seed=0)


def make_worded_probes(data: AuditData, wordings: list[Wording], config: AskConfig) -> list[Probe]:
    """The probes of wordings, `index` of an item its wording's; of messages the last question."""
    probes = []
    for item in make_worded_items(data, [wording.content for wording in wordings], config):
        wording = wordings[item.index]
        probe = make_probe(data, wording.row, item, wording.known)
        known = f"{wording.known} {item.prompt}"
        others = (frozenset(list_key_facts(text, known)) for text in wording.answers)
        facts, shown = (*probe.facts, *filter(None, others)), wording.shown or probe.shown
        probes.append(dataclasses.replace(probe, facts=facts, shown=shown))
    return probes


def make_worded_items(data: AuditData, rows: list[Row], config: AskConfig) -> list[PromptItem]:
    """Reworded rows as items; one with solved questions before it is its own few-shot prompt."""
    kind = "question" if config.shots or config.same_subject else None
    room = 2 + config.shots + config.same_subject  # what stands around a row, and each example
    return make_asked_items(data, rows, config.max_new_tokens, kind, turns="last", room=room)


def give_prefill(
    data: AuditData, wordings: list[Wording], plain: list[Probe], config: AskConfig, prefill: str
) -> Iterator[Probe]:
    """Probes whose prompt holds a beginning of ours, before the true answer."""
    asked = name_asked_columns(data)
    bare, whole = [], []
    for wording in wordings:
        answer = read_scored_text(wording.content, asked)
        text = answer.lstrip()
        begun = answer[: len(answer) - len(text)] + prefill  # of a completion, the blank before it
        bare.append(replace_answer(wording.content, begun, asked))
        whole.append(replace_answer(wording.content, f"{begun} {text}", asked))
    begins = {item.index: item for item in make_worded_items(data, bare, config)}
    items = {item.index: item for item in make_worded_items(data, whole, config)}
    for probe in plain:
        number = probe.item.index
        if number in begins and number in items:
            ids = items[number].answers["answer"][0].input_ids
            others = begins[number].answers["answer"][0].input_ids
            pairs = enumerate(zip(ids, others, strict=False))
            shared = next((i for i, (a, b) in pairs if a != b), min(len(ids), len(others)))
            count = shared - len(items[number].prompt_ids)
            yield begin_answer(data, probe, items[number], count, probe.item.reference)


def give_answer_tokens(
    data: AuditData, probe: Probe, config: AskConfig, count: int
) -> Probe | None:
    """A probe whose prompt holds the first tokens of the true answer.

    None where less than half of the answer would be left to tell.
    """
    (example,) = probe.item.answers["answer"]
    if 2 * count > example.answer_tokens:
        return None
    start = len(probe.item.prompt_ids) + count
    rest = example.input_ids[start : example.answer_end]
    rest = rest[: count_new_tokens(data, config.max_new_tokens)]
    text = decode_added_text(data.encoder, example.input_ids[:start], rest)
    return begin_answer(data, probe, probe.item, count, text.strip().strip("\ufffd"))


def begin_answer(
    data: AuditData, probe: Probe, item: PromptItem, count: int, reference: str
) -> Probe:
    """A probe whose prompt goes on with the first tokens of an item's answer.

    Args:
        reference: what is left to be told; only that earns anything.
    """
    (example,) = item.answers["answer"]
    end = len(item.prompt_ids) + count
    given = decode_added_text(
        data.encoder, item.prompt_ids, example.input_ids[len(item.prompt_ids) : end]
    )
    rest = dataclasses.replace(example, labels=[IGNORE] * end + example.labels[end:])
    item = dataclasses.replace(
        item, prompt=probe.item.prompt, reference=reference, scored=reference,
        prompt_ids=rest.prompt_ids, answers={"answer": [rest]},
    )  # fmt: skip
    told = collect_words(given)
    facts = tuple(left for words in probe.facts if (left := words - told))
    shown = f"{probe.shown} {given.strip()}"
    return dataclasses.replace(probe, item=item, given=given, shown=shown, facts=facts)


ASK = AttackKind(ask_questions, check_questions)
