"""A filled table as sheets, and the notes below it, the same for every kind of output.

Knows no file and no screen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from undial_cli.reporting import sheet
from undial_cli.reporting.sheet import Row, Sheet
from undial_cli.tables import claims
from undial_cli.tables.config import ColumnConfig, as_text, title_of
from undial_cli.tables.figures import Cell, Filled, failures
from undial_cli.tables.runs import DONE

ARROWS = {"lower": "↓", "higher": "↑", "zero": "→ 0", "retain": "≈ retain", "none": ""}
BEYOND, SHORT = "*", "†"
# Columns that fit beside each other; more are put into one table per column group.
SIDE_BY_SIDE = 9


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


def sheets(filled: Filled) -> list[Sheet]:
    """One table, or one for each column group where side by side they would be too wide."""
    columns, groups = filled.table.columns, filled.groups
    if len(columns) * len(groups) <= SIDE_BY_SIDE or len(groups) == 1:
        return [sheet_of(filled, "", groups)]
    return [sheet_of(filled, group, [group]) for group in groups]


def sheet_of(filled: Filled, title: str, groups: list[str]) -> Sheet:
    """The lines that have a cell in some of the column groups."""
    columns = [(group, column) for group in groups for column in filled.table.columns]
    heads = [
        sheet.Column(
            f"{title_of(column)} {ARROWS[column.better]}".strip(),
            group=group if len(groups) > 1 else "",
        )
        for group, column in columns
    ]
    rows = []
    for line in filled.lines:
        if any((line, group, column.name) in filled.cells for group, column in columns):
            cells = [(filled.cell(line, group, c.name), c) for group, c in columns]
            texts = [sheet.Cell(cell_text(cell, c), style=style_of(cell)) for cell, c in cells]
            rows.append(Row([sheet.Cell(line.row.label), *texts], line.section))
    return Sheet(title, [sheet.Column("", numeric=False), *heads], rows)


def caption_of(filled: Filled, part: Sheet) -> str:
    """The table's title, and the column group that a part of it shows."""
    return f"{filled.table.title}: {part.title}" if part.title else filled.table.title


def cell_text(cell: Cell, column: ColumnConfig) -> str:
    """Ours, with its spread, and the published figure in parentheses."""
    text = {"failed": "failed", "not run": "-", "no figure": "-"}.get(cell.gap, "")
    if cell.mean is not None:
        text = as_text(column, cell.mean)
        if cell.spread is not None:
            text += f" ± {as_text(column, cell.spread)}"
        text += (BEYOND if cell.within is False else "") + (SHORT if cell.short else "")
    if cell.reference is not None:
        text = f"{text} ({as_text(column, cell.reference)})".strip()
    return text


def style_of(cell: Cell) -> str:
    """How a cell looks on the screen."""
    if cell.gap == "failed" or cell.within is False:
        return "red"
    return "green" if cell.within else ""


def notes(filled: Filled) -> Notes:
    """What has to be said of the figures."""
    table, said = filled.table, Notes()
    cells = list(filled.cells.values())
    said.failures = [f"failed: {where}: {reason}" for where, reason in failures(filled.runs)]
    said.claims = [claims.words(verdict) for verdict in claims.judge(filled)]
    left = sum(entry.status != DONE for entry in filled.runs)
    if left:
        said.facts.append(f"{left} of {len(filled.runs)} runs are not done.")
    if any(cell.spread is not None for cell in cells):
        seeds = len({entry.seed for entry in filled.runs})
        said.facts.append(f"Mean ± sample standard deviation over {seeds} seeds.")
    if any(cell.short and cell.mean is not None for cell in cells):
        said.facts.append(f"{SHORT} some seeds failed: mean of the others.")
    if any(cell.reference is not None for cell in cells):
        fact = f"In parentheses: published figures ({table.source})."
        compared = [cell.within for cell in cells if cell.within is not None]
        if compared:
            fact += (
                f" {BEYOND} differs by more than the tolerance ({tolerances(filled)}): "
                f"{compared.count(False)} of {len(compared)} figures."
            )
        said.facts.append(fact)
        reasons = table.agreement.reasons
        said.agreement = (
            reasons
            if table.agreement.expected
            else [f"Agreement is not expected: {'; '.join(reasons)}."]
        )
    said.facts += [table.note] if table.note else []
    labels = dict.fromkeys((row.label, row.note) for row in (line.row for line in filled.lines))
    said.facts += [f"{label}: {note}" for label, note in labels if note]
    return said


def tolerances(filled: Filled) -> str:
    """The stated tolerances in words."""
    parts = []
    for column in filled.table.columns:
        bounds = [f"{column.tolerance:g}"] if column.tolerance is not None else []
        if column.relative_tolerance is not None:
            bounds.append(f"{column.relative_tolerance:.0%}")
        if bounds:
            parts.append(f"{title_of(column)} {' or '.join(bounds)}")
    return ", ".join(parts)
