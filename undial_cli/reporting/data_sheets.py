"""What `undial data` shows of the rows of a run, and its tables. Knows no run and no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from undial_cli.config.datasets import DataConfig
from undial_cli.data.counts import RowCounts
from undial_cli.data.findings import DataFindings
from undial_cli.data.held_answers import COMMON_ROWS, COMMON_SHARE, LEAST_ANSWER_WORDS, LEAST_HELD
from undial_cli.data.near_copies import LEAST_ALIKE, MOST_COMPARED_ROWS
from undial_cli.data.rows import Row
from undial_cli.data.shown_rows import ShownRow
from undial_cli.data.word_texts import read_row_texts
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow

# Of a row in a table of findings so many characters; bars of lengths.
EXCERPT_CHARACTERS, LENGTH_BARS = 160, 12


@dataclass
class SetView:
    """A set: what became of its rows, those shown, and of each sequence its tokens and targets.

    `seen`: sequences, or pairs of answers, that `steps` optimiser steps reach.
    """

    name: str
    counts: RowCounts
    shown: list[ShownRow]
    lengths: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    targets: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    focus: int = 0
    is_trained: bool = True
    steps: int = 0
    seen: int = 0


@dataclass
class DataView:
    """All that is shown; `rows` are those of each set, `faults` what looks wrong, in words."""

    title: str
    facts: list[str]
    data: DataConfig
    sets: list[SetView]
    rows: Mapping[str, Sequence[Row]]
    findings: DataFindings
    faults: list[str]
    notes: list[str]


def make_sets_sheet(view: DataView) -> Sheet:
    """A row for each set, a column for each figure."""
    titles = [
        "rows", "rows trained", "sequences", "tokens", "trained", "of focus words", "never trained",
        "rows cut", "tokens lost", "rows skipped", "longest", "seen",
    ]  # fmt: skip
    rows = []
    for part in view.sets:
        cells = [Cell(part.name), make_count_cell(part.counts.read)]
        if not part.is_trained:
            cells += [Cell("0", 0), *[Cell("–")] * (len(titles) - 2)]
            rows.append(SheetRow(cells, note="not trained on by this run"))
            continue
        tokens, targets = int(part.lengths.sum()), int(part.targets.sum())
        never = tokens - targets + part.counts.lost
        figures = [
            part.counts.trained, part.counts.sequences, tokens, targets, part.focus, never,
            part.counts.cut, part.counts.lost, len(part.counts.skipped), int(part.lengths.max()),
        ]  # fmt: skip
        cells += [make_count_cell(figure) for figure in figures]
        rows.append(SheetRow([*cells, make_count_cell(part.seen)]))
    steps = max((part.steps for part in view.sets), default=0)
    columns = [Column("set", numeric=False), *map(Column, titles)]
    columns[-1].note = f"in {steps:,} steps"
    return Sheet("", columns, rows)


def make_count_cell(count: int) -> Cell:
    return Cell(f"{count:,}", count)


def count_lengths(part: SetView, max_length: int) -> list[tuple[str, int]]:
    """How many sequences of a set have so many tokens, by a range of them."""
    if not len(part.lengths):
        return []
    shortest, longest = int(part.lengths.min()), int(part.lengths.max())
    width = -(-(longest - shortest + 1) // LENGTH_BARS)
    counts = np.bincount((part.lengths - shortest) // width)
    firsts = [shortest + i * width for i in range(len(counts))]
    lasts = [min(max_length, first + width - 1) for first in firsts]
    labels = [
        f"{first}–{last}" if last > first else f"{first}"
        for first, last in zip(firsts, lasts, strict=True)
    ]
    return list(zip(labels, counts.tolist(), strict=True))


def iterate_findings(view: DataView) -> Iterator[tuple[str, str, int, str, int, str]]:
    """Each pair of rows that looks wrong: what, set, row, other set, other row, in common."""
    findings = view.findings
    for name, part in findings.sets.items():
        for pair in part.repeated:
            yield "the same as an earlier row", name, pair.row, name, pair.other, "all"
        for pair in part.alike:
            share = f"{pair.share:.0%} of words"
            yield "nearly the same as an earlier row", name, pair.row, name, pair.other, share
    for pair in findings.shared:
        yield "in the retain set too", "forget", pair.row, "retain", pair.other, "all"
    for pair in findings.nearly:
        share = f"{pair.share:.0%} of words"
        yield "nearly in the retain set too", "forget", pair.row, "retain", pair.other, share
    for held in findings.held:
        words = " ".join(held.words) or "the whole answer"
        yield "its answer in the retain set", "forget", held.row, "retain", held.other, words


def make_findings_sheet(view: DataView, most: int) -> tuple[Sheet, int]:
    """Pairs of rows that look wrong, of each kind the first ones, and how many are left out."""
    rows, counts = [], dict[str, int]()
    for fault, name, row, other_name, other, common in iterate_findings(view):
        counts[fault] = counts.get(fault, 0) + 1
        if counts[fault] > most:
            continue
        cells = [
            Cell(f"{name} {row}"), Cell(f"{other_name} {other}"), Cell(common),
            Cell(read_excerpt(view, name, row)), Cell(read_excerpt(view, other_name, other)),
        ]  # fmt: skip
        rows.append(SheetRow(cells, group=fault))
    titles = ("row", "other row", "in common", "text", "other text")
    left_out = sum(max(0, count - most) for count in counts.values())
    return Sheet("", [Column(title, numeric=False) for title in titles], rows), left_out


def read_excerpt(view: DataView, name: str, number: int) -> str:
    """The beginning of what a row says."""
    text = " → ".join(filter(None, read_row_texts(view.rows[name][number - 1], view.data)))
    return text if len(text) <= EXCERPT_CHARACTERS else f"{text[: EXCERPT_CHARACTERS - 1]}…"


def list_check_rules(view: DataView) -> list[str]:
    """What each check looks for, in a sentence."""
    compared = view.findings.compared
    return [
        "The same: all that a row says, white space, columns and system prompts aside.",
        f"Nearly the same: of the runs of three words that either of two rows has, both have at "
        f"least {LEAST_ALIKE:.0%}; case and signs do not count. Compared are the first {compared} "
        f"words of a question and of an answer, of the first {MOST_COMPARED_ROWS:,} rows.",
        f"An answer in the retain set: a retain row has at least {LEAST_HELD:.0%} of the runs of "
        f"three words of an answer of {LEAST_ANSWER_WORDS} words or more; or every name and number "
        "of the answer that the question does not give, beside two names of the question (or its "
        "only one).",
        f"What more than {COMMON_ROWS} retain rows, and more than {COMMON_SHARE:.0%} of them, hold "
        "is common there: a common answer counts for none, a common name names nobody.",
        "Never trained: tokens of prompt and template, the first token of a sequence, and those "
        "beyond data.max_length.",
    ]
