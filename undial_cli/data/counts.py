"""What became of the rows of a training set: read, trained, cut, skipped and why.

`read = trained + skipped`. Knows no tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Row numbers that a line names.
NAMED_ROWS = 5


@dataclass
class RowCounts:
    """The rows of one set.

    `documents`: rows of which every token is a target; `tokens`: targets of a pass over the set;
    `sequences`: what the rows were made into; `cut`: rows whose targets go beyond data.max_length,
    `lost`: those targets; `skipped`: why, by row number (from 1); `unpaired`: answers to prefer of
    which nothing is left; `beyond`: rows that data.limit leaves unread; `repeated`: rows that say
    what an earlier one says.
    """

    read: int = 0
    documents: int = 0
    tokens: int = 0
    sequences: int = 0
    cut: int = 0
    lost: int = 0
    skipped: dict[int, str] = field(default_factory=dict)
    unpaired: int = 0
    beyond: int = 0
    repeated: int = 0

    @property
    def trained(self) -> int:
        """Rows of which something is trained."""
        return self.read - len(self.skipped)

    def describe(self, name: str, max_length: int) -> str:
        """One line for the screen and the log; it holds no text of the rows."""
        made = f" in {self.sequences:,} sequences" if self.sequences != self.trained else ""
        form = f" ({self.documents:,} as documents)" if self.documents else ""
        parts = [
            f"{self.read:,} {'row' if self.read == 1 else 'rows'} read{form}",
            f"{self.trained:,} trained{made} ({self.tokens:,} tokens)",
        ]
        if self.cut:
            parts.append(f"{self.cut:,} cut at data.max_length={max_length} ({self.lost:,} answer "
                         "tokens lost)")  # fmt: skip
        if self.skipped:
            parts.append(f"{len(self.skipped):,} skipped ({self.reasons()})")
        if self.unpaired:
            parts.append(f"{self.unpaired:,} answers to prefer left out (nothing within "
                         f"data.max_length={max_length})")  # fmt: skip
        if self.repeated:
            parts.append(f"{self.repeated:,} saying the same as an earlier one")
        if self.beyond:
            parts.append(f"{self.beyond:,} not read (beyond data.limit={self.read})")
        return f"{name}: {', '.join(parts)}"

    def reasons(self) -> str:
        """Why rows were skipped, each reason with the first numbers of its rows."""
        rows: dict[str, list[int]] = {}
        for number, reason in self.skipped.items():
            rows.setdefault(reason, []).append(number)
        return "; ".join(f"{name_rows(numbers)}: {reason}" for reason, numbers in rows.items())

    def record(self) -> dict[str, Any]:
        """The counts as JSON, for the run folder."""
        skipped = {str(number): reason for number, reason in self.skipped.items()}
        return {**vars(self), "trained": self.trained, "skipped": skipped}


def name_rows(numbers: list[int]) -> str:
    """`row 7`, or `rows 1, 2, 3, 4, 5 and 12 more`."""
    named, rest = ", ".join(map(str, numbers[:NAMED_ROWS])), len(numbers) - NAMED_ROWS
    more = f" and {rest:,} more" if rest > 0 else ""
    return f"row{'s' if len(numbers) > 1 else ''} {named}{more}"
