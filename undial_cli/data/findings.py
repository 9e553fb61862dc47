"""What looks wrong with the rows of a run before anything is trained, row by row.

Rows are counted from 1, as in a file. Knows neither tokens nor what a fact is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from undial_cli.data.counts import name_rows
from undial_cli.data.held_answers import HeldAnswer
from undial_cli.data.near_copies import RowPair


@dataclass
class SetFindings:
    """Of one set: `repeated` rows say what an earlier one says, `alike` nearly so; `cut` lose
    tokens of an answer, `skipped` keep none; `unfocused` have no focus word, where a method asks
    for them."""

    repeated: list[RowPair] = field(default_factory=list)
    alike: list[RowPair] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)
    unfocused: list[int] = field(default_factory=list)


@dataclass
class DataFindings:
    """Of all sets, and between the forget and the retain set.

    `shared` forget rows are retained, `nearly` ones nearly so; `held`: retain rows that hold the
    answer of a forget row. `compared`: words of a question, and of an answer, by which rows were
    compared; 0 where near copies and held answers were not looked for.
    """

    sets: dict[str, SetFindings] = field(default_factory=dict)
    shared: list[RowPair] = field(default_factory=list)
    nearly: list[RowPair] = field(default_factory=list)
    held: list[HeldAnswer] = field(default_factory=list)
    compared: int = 0

    def list_faults(self, max_length: int) -> list[str]:
        """What looks wrong, each in words without text of the rows."""
        faults = []
        for name, part in self.sets.items():
            for rows, fault in (
                (list_numbers(part.repeated), "the same as an earlier one"),
                (list_numbers(part.alike), "nearly the same as an earlier one"),
                (part.cut, f"cut at data.max_length={max_length}"),
                (part.skipped, "of which nothing is trained"),
                (part.unfocused, "without a focus word"),
            ):
                if rows:
                    faults.append(f"{name}: {count_rows(rows)} {fault} ({name_rows(rows)})")
        for pairs, fault in (
            (self.shared, "in the retain set too"),
            (self.nearly, "nearly in the retain set too"),
            (self.held, "whose answer a retain row holds"),
        ):
            rows = list_numbers(pairs)
            if rows:
                faults.append(
                    f"forget: {count_rows(rows)} {fault} ({name_rows(rows)}; of the retain set "
                    f"{name_rows(sorted({pair.other for pair in pairs}))})"
                )
        return faults

    def describe(self, max_length: int) -> list[str]:
        """One line on what looks wrong, where something does."""
        faults = self.list_faults(max_length)
        return [f"data looks wrong: {'; '.join(faults)}: see undial data"] if faults else []


def list_numbers(pairs: Sequence[RowPair] | Sequence[HeldAnswer]) -> list[int]:
    """The rows of pairs, each once."""
    return sorted({pair.row for pair in pairs})


def count_rows(rows: Sequence[int]) -> str:
    return f"{len(rows):,} {'row' if len(rows) == 1 else 'rows'}"
