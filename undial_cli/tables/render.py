"""A filled table as sheets with notes below them, and its files: table.md, .csv, .tex, sweep.json.

Each file is written whole or not at all. Text of samples is in none of them.
"""

from __future__ import annotations

from pathlib import Path

from undial_cli.cache import write_text
from undial_cli.reporting import sheet
from undial_cli.reporting.collect import RunRecord, sweep_text
from undial_cli.reporting.sheet import Row, Sheet, csv_text, quoted
from undial_cli.tables import claims
from undial_cli.tables.config import ColumnConfig
from undial_cli.tables.figures import Cell, Filled, failures
from undial_cli.tables.pictures import draw
from undial_cli.tables.runs import DONE

ARROWS = {"lower": "↓", "higher": "↑", "zero": "→ 0", "retain": "≈ retain", "none": ""}
BEYOND, SHORT = "*", "†"
# Columns that fit next to each other; more are put into one table per column group.
MOST_COLUMNS = 9
HEADER = (
    "section", "row", "across", "column", "mean", "spread", "n", "reference", "difference",
    "within_tolerance", "status",
)  # fmt: skip


def sheets(filled: Filled) -> list[Sheet]:
    """One table, or one for each column group where one would be too wide."""
    columns, groups = filled.table.columns, filled.groups
    if len(columns) * len(groups) <= MOST_COLUMNS or len(groups) == 1:
        return [sheet_of(filled, filled.table.title, groups)]
    return [sheet_of(filled, f"{filled.table.title}: {group}", [group]) for group in groups]


def sheet_of(filled: Filled, title: str, groups: list[str]) -> Sheet:
    """The lines that have a cell in some of the column groups."""
    columns = [(group, column) for group in groups for column in filled.table.columns]
    heads = [sheet.Column("", numeric=False)]
    for group, column in columns:
        heading = f"{column.title} {ARROWS[column.better]}".strip()
        heads.append(sheet.Column(heading, group=group if len(groups) > 1 else ""))
    rows = []
    for line in filled.lines:
        if any((line, group, column.name) in filled.cells for group, column in columns):
            row = Row([sheet.Cell(line.row.label)], line.section)
            for group, column in columns:
                cell = filled.cell(line, group, column.name)
                style = "red" if cell.gap == "failed" or cell.within is False else ""
                style = "green" if cell.within else style
                row.cells.append(sheet.Cell(cell_text(cell, column), style=style))
            rows.append(row)
    return Sheet(title, heads, rows)


def cell_text(cell: Cell, column: ColumnConfig) -> str:
    """Ours, with its spread, and the published figure in parentheses."""
    text = {"failed": "failed", "not run": "-", "no figure": "-"}.get(cell.gap, "")
    if cell.mean is not None:
        text = format(cell.mean, column.format)
        if cell.spread is not None:
            text += f" ± {cell.spread:{column.format}}"
        text += (BEYOND if cell.within is False else "") + (SHORT if cell.short else "")
    if cell.reference is not None:
        text = f"{text} ({cell.reference:{column.format}})".strip()
    return text


def notes(filled: Filled) -> list[tuple[str, str]]:
    """What has to be said of the figures: (how it looks on the screen, the note)."""
    table, cells = filled.table, list(filled.cells.values())
    failed = [f"failed: {where}: {reason}" for where, reason in failures(filled.runs)]
    facts: list[str] = []
    agreement: list[str] = []
    left = sum(entry.status != DONE for entry in filled.runs)
    if left:
        facts.append(f"{left} of {len(filled.runs)} runs are not done.")
    if any(cell.spread is not None for cell in cells):
        seeds = len({entry.seed for entry in filled.runs})
        facts.append(f"Mean ± sample standard deviation over {seeds} seeds.")
    if any(cell.short and cell.mean is not None for cell in cells):
        facts.append(f"{SHORT} some seeds failed: mean of the others.")
    if any(cell.reference is not None for cell in cells):
        fact = f"In parentheses: published figures ({table.source})."
        compared = [cell.within for cell in cells if cell.within is not None]
        if compared:
            fact += (
                f" {BEYOND} differs by more than the tolerance ({tolerances(filled)}): "
                f"{compared.count(False)} of {len(compared)} figures."
            )
        facts.append(fact)
        agreement = table.agreement.reasons
        if not table.agreement.expected:
            agreement = [f"Agreement is not expected: {'; '.join(agreement)}."]
    facts += [table.note] if table.note else []
    rows = dict.fromkeys((line.row.label, line.row.note) for line in filled.lines)
    facts += [f"{label}: {note}" for label, note in rows if note]
    styles = {"red": failed, "": claims.judge(filled), "dim": facts, "yellow": agreement}
    return [(style, text) for style, texts in styles.items() for text in texts]


def tolerances(filled: Filled) -> str:
    """The stated tolerances in words."""
    parts = []
    for column in filled.table.columns:
        bounds = [f"{column.tolerance:g}"] if column.tolerance is not None else []
        if column.relative_tolerance is not None:
            bounds.append(f"{column.relative_tolerance:.0%}")
        if bounds:
            parts.append(f"{column.title} {' or '.join(bounds)}")
    return ", ".join(parts)


def write(filled: Filled, folder: Path, words: list[str]) -> list[Path]:
    """Write all files of a table into `folder`; returns them.

    Args:
        words: what the command was given beside table=NAME.
    """
    runs = [
        RunRecord(entry.folder.path, entry.status, entry.reason, entry.seconds, entry.label,
                  values=entry.values)
        for entry in filled.runs
    ]  # fmt: skip
    asked = [f"table={filled.name}", *words]
    texts = {
        "table.md": markdown(filled),
        "table.csv": long_form(filled),
        "table.tex": latex(filled),
        "sweep.json": sweep_text("reproduce", asked, filled.table.title, runs, folder),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts] + draw(filled, folder)


def markdown(filled: Filled) -> str:
    """The tables for a page."""
    lines: list[str] = []
    for part in sheets(filled):
        lines += [f"# {quoted(part.title)}", "", sheet.markdown(part), ""]
    lines += [f"- {quoted(note)}" for _, note in notes(filled)]
    return "\n".join(lines).rstrip() + "\n"


def latex(filled: Filled) -> str:
    """The tables as a fragment for \\input; the last caption holds the notes."""
    parts = sheets(filled)
    texts = ["% \\usepackage{booktabs} and \\usepackage[T1]{fontenc} in the preamble"]
    for number, part in enumerate(parts, 1):
        label = f"{filled.name}-{number}" if len(parts) > 1 else filled.name
        said = [note for _, note in notes(filled)] if number == len(parts) else []
        texts.append(sheet.latex(part, " ".join([f"{part.title}.", *said]), label))
    return "\n".join(texts) + "\n"


def long_form(filled: Filled) -> str:
    """One line for each figure, unrounded."""
    rows = [
        [
            line.section, line.row.label, across, column, cell.mean, cell.spread, cell.n,
            cell.reference, cell.difference,
            None if cell.within is None else str(cell.within).lower(), cell.gap or "done",
        ]
        for (line, across, column), cell in filled.cells.items()
    ]  # fmt: skip
    return csv_text([HEADER, *rows])
