"""What a model is asked: probes, one prompt of one row with the answer that would give it away.

Knows neither models nor attacks.

Shapes: R forget rows.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from undial_cli.audit.attack import AuditData
from undial_cli.data.focus import list_focus_parts
from undial_cli.data.rows import Row
from undial_cli.evaluation.key_facts import list_key_facts
from undial_cli.evaluation.prompts import (
    PromptItem,
    make_prompt_items,
)


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
    focus = list_focus_parts(data.rows[row], data.encoder.data)
    focus = [part for part in focus if part in item.reference]
    facts = frozenset(list_key_facts(item.reference, f"{known} {item.prompt}", focus))
    return Probe(row, item, shown=item.prompt, facts=(facts,) if facts else ())
