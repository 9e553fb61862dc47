"""A filled table as text: cells, headings and the notes below, the same for every kind of output.

Knows no file and no screen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from undial_cli.tables import claims
from undial_cli.tables.config import ColumnConfig, as_text
from undial_cli.tables.figures import Cell, Filled, Line, failures
from undial_cli.tables.runs import DONE

ARROWS = {"lower": "↓", "higher": "↑", "zero": "→ 0", "retain": "≈ retain", "none": ""}
BEYOND, SHORT = "*", "†"
# Columns that fit beside each other; more are put into one table per column group.
SIDE_BY_SIDE = 9


@dataclass
class Block:
    """One table to be drawn: (group, column) headings, and lines or section headings."""

    title: str
    columns: list[tuple[str, ColumnConfig]]
    rows: list[tuple[Line, list[Cell]]]


@dataclass
class Notes:
    """What is said below a table, by kind."""

    facts: list[str] = field(default_factory=list)
    agreement: list[str] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        """All of them in order."""
        return [*self.failures, *self.claims, *self.facts, *self.agreement]


def heading(column: ColumnConfig) -> str:
    """A column's title with the way that is good."""
    return f"{column.title} {ARROWS[column.better]}".strip()


def blocks(filled: Filled) -> list[Block]:
    """One table, or one for each column group where side by side they would be too wide."""
    columns = [(across, column) for across in filled.groups for column in filled.table.columns]
    if len(columns) <= SIDE_BY_SIDE or len(filled.groups) == 1:
        return [block(filled, "", columns)]
    return [
        block(filled, across, [(across, column) for column in filled.table.columns])
        for across in filled.groups
    ]


def block(filled: Filled, title: str, columns: list[tuple[str, ColumnConfig]]) -> Block:
    """The lines that have a cell under some of the columns."""
    rows = []
    for line in filled.lines:
        if any((line, across, column.name) in filled.cells for across, column in columns):
            rows.append((line, [filled.cell(line, a, c.name) for a, c in columns]))
    return Block(title, columns, rows)


def cell_text(cell: Cell, column: ColumnConfig, plus_minus: str = " ± ") -> str:
    """Ours, with its spread, and the published figure in parentheses."""
    text = {"failed": "failed", "not run": "-", "no figure": "-"}.get(cell.gap, "")
    if cell.mean is not None:
        text = as_text(column, cell.mean)
        if cell.spread is not None:
            text += plus_minus + as_text(column, cell.spread)
        text += (BEYOND if cell.within is False else "") + (SHORT if cell.short else "")
    if cell.reference is not None:
        text = f"{text} ({as_text(column, cell.reference)})".strip()
    return text


def notes(filled: Filled) -> Notes:
    """What has to be said of the figures."""
    table, found = filled.table, Notes()
    cells = list(filled.cells.values())
    found.failures = [f"failed: {place}: {reason}" for place, reason in failures(filled.runs)]
    found.claims = [claims.words(v) for v in claims.judge(filled)]
    left = sum(entry.status != DONE for entry in filled.runs)
    if left:
        found.facts.append(f"{left} of {len(filled.runs)} runs are not done.")
    if any(c.spread is not None for c in cells):
        seeds = len({entry.seed for entry in filled.runs})
        found.facts.append(f"Mean ± sample standard deviation over {seeds} seeds.")
    if any(c.short and c.mean is not None for c in cells):
        found.facts.append(f"{SHORT} some seeds failed: mean of the others.")
    if any(c.reference is not None for c in cells):
        said = f"In parentheses: published figures ({table.source})."
        compared = [c for c in cells if c.within is not None]
        if compared:
            beyond = sum(c.within is False for c in compared)
            said += (
                f" {BEYOND} differs by more than the tolerance ({tolerances(filled)}): {beyond} of "
                f"{len(compared)} figures."
            )
        found.facts.append(said)
        if not table.agreement.expected:
            reasons = "; ".join(table.agreement.reasons)
            found.agreement.append(f"Agreement is not expected: {reasons}.")
        else:
            found.agreement += table.agreement.reasons
    found.facts += [table.note] if table.note else []
    said = dict.fromkeys((line.row.label, line.row.note) for line in filled.lines if line.row.note)
    found.facts += [f"{label}: {note}" for label, note in said]
    return found


def tolerances(filled: Filled) -> str:
    """The stated tolerances in words."""
    parts = []
    for column in filled.table.columns:
        bounds = [f"{column.tolerance:g}"] if column.tolerance is not None else []
        if column.relative_tolerance is not None:
            bounds.append(f"{column.relative_tolerance:.0%}")
        if bounds:
            parts.append((column.title, " or ".join(bounds)))
    return ", ".join(f"{title} {bound}" for title, bound in parts)
