"""A filled table as sheets with notes below them, and its files: table.md, .csv, .tex, sweep.json,
search.csv.

Each file is written whole or not at all. Text of samples is in none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from undial_cli.config.tables import ColumnConfig
from undial_cli.evaluation.figures import WORDS
from undial_cli.reporting import sheet
from undial_cli.reporting.collect import make_sweep_text
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow, escape_markdown
from undial_cli.system.files import write_whole_text
from undial_cli.tables.claims import judge_claim
from undial_cli.tables.figures import FigureCell, FilledTable, list_failures
from undial_cli.tables.plots import draw_table_plots
from undial_cli.tables.runs import DONE
from undial_cli.tables.search import format_search_csv, list_search_notes

BETTER_ARROWS = {"lower": "↓", "higher": "↑", "zero": "→ 0", "retain": "≈ retain", "none": ""}
BEYOND, SHORT = "*", "†"
# Columns that fit next to each other; more are put into one table per column group.
MOST_TABLE_COLUMNS = 9
CSV_HEADER = (
    "section", "row", "across", "column", "mean", "spread", "n", "reference", "difference",
    "within_tolerance", "status",
)  # fmt: skip


def make_table_sheets(filled: FilledTable) -> list[Sheet]:
    """One table, or one for each column group where one would be too wide."""
    columns, groups = filled.table.columns, filled.groups
    if len(columns) * len(groups) <= MOST_TABLE_COLUMNS or len(groups) == 1:
        return [make_table_sheet(filled, filled.table.title, groups)]
    return [make_table_sheet(filled, f"{filled.table.title}: {group}", [group]) for group in groups]


def make_table_sheet(filled: FilledTable, title: str, groups: list[str]) -> Sheet:
    """The lines that have a cell in some of the column groups."""
    columns = [(group, column) for group in groups for column in filled.table.columns]
    heads = [Column("", numeric=False)]
    for group, column in columns:
        heading = f"{column.title} {BETTER_ARROWS[column.better]}".strip()
        in_words = set(column.metric) <= set(WORDS)
        heads.append(Column(heading, not in_words, group if len(groups) > 1 else ""))
    rows = []
    for line in filled.lines:
        if any((line, group, column.name) in filled.cells for group, column in columns):
            row = SheetRow([Cell(line.row.label)], line.section)
            for group, column in columns:
                cell = filled.cell(line, group, column.name)
                bad = cell.gap == "failed" or cell.within is False
                style = "green" if cell.within else "red" if bad else ""
                row.cells.append(Cell(format_cell(cell, column), style=style))
            rows.append(row)
    return Sheet(title, heads, rows)


def format_cell(cell: FigureCell, column: ColumnConfig) -> str:
    """Ours, with its spread, and the published figure in parentheses."""
    text = {"failed": "failed", "not run": "-", "no figure": "-", "": ""}[cell.gap]
    if cell.word:
        text = cell.word + (SHORT if cell.short else "")
    if cell.mean is not None:
        text = format(cell.mean, column.format)
        if cell.spread is not None:
            text += f" ± {cell.spread:{column.format}}"
        text += (BEYOND if cell.within is False else "") + (SHORT if cell.short else "")
    if cell.reference is not None:
        text = f"{text} ({cell.reference:{column.format}})".strip()
    return text


def list_table_notes(filled: FilledTable) -> list[tuple[str, str]]:
    """What has to be said of the figures: (how it looks on the screen, the note)."""
    table, cells = filled.table, list(filled.cells.values())
    failed = [f"failed: {position}: {reason}" for position, reason in list_failures(filled.runs)]
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
                f" {BEYOND} differs by more than the tolerance ({describe_tolerances(filled)}): "
                f"{compared.count(False)} of {len(compared)} figures."
            )
        facts.append(fact)
        agreement = table.agreement.reasons
        if not table.agreement.expected:
            agreement = [f"Agreement is not expected: {'; '.join(agreement)}."]
    facts += [table.note] if table.note else []
    rows = dict.fromkeys((line.row.label, line.row.note) for line in filled.lines)
    facts += [f"{label}: {note}" for label, note in rows if note]
    facts += list_search_notes(filled.searches)
    # the worst first: a person may read no further
    verdicts = [judge_claim(filled, claim) for claim in table.claims]
    styles = {"red": failed, "": verdicts, "dim": facts, "yellow": agreement}
    return [(style, text) for style, texts in styles.items() for text in texts]


def describe_tolerances(filled: FilledTable) -> str:
    parts = []
    for column in filled.table.columns:
        bounds = [f"{column.tolerance:g}"] if column.tolerance is not None else []
        if column.relative_tolerance is not None:
            bounds.append(f"{column.relative_tolerance:.0%}")
        if bounds:
            parts.append(f"{column.title} {' or '.join(bounds)}")
    return ", ".join(parts)


def write_table_files(filled: FilledTable, folder: Path, words: list[str]) -> list[Path]:
    """Write all files of a table into `folder`; `words` are those of the command but table=NAME."""
    runs = [entry.record for entry in filled.runs]
    asked = [f"table={filled.name}", *words]
    texts = {
        "table.md": format_table_markdown(filled),
        "table.csv": format_long_csv(filled),
        "table.tex": format_table_latex(filled),
        "sweep.json": make_sweep_text("reproduce", asked, filled.table.title, runs, folder),
    }
    if filled.searches:
        texts["search.csv"] = format_search_csv(filled.searches, folder)
    for name, text in texts.items():
        write_whole_text(folder / name, text)
    return [folder / name for name in texts] + draw_table_plots(filled, folder)


def format_table_markdown(filled: FilledTable) -> str:
    lines: list[str] = []
    for part in make_table_sheets(filled):
        lines += [f"# {escape_markdown(part.title)}", "", sheet.format_markdown(part), ""]
    lines += [f"- {escape_markdown(note)}" for _, note in list_table_notes(filled)]
    return "\n".join(lines).rstrip() + "\n"


def format_table_latex(filled: FilledTable) -> str:
    """The tables as a fragment for \\input; the last caption holds the notes."""
    parts = make_table_sheets(filled)
    captions = [f"{part.title}." for part in parts]
    captions[-1] = " ".join([captions[-1], *(note for _, note in list_table_notes(filled))])
    texts = ["% \\usepackage{booktabs} and \\usepackage[T1]{fontenc} in the preamble"]
    for number, (part, caption) in enumerate(zip(parts, captions, strict=True), 1):
        label = f"{filled.name}-{number}" if len(parts) > 1 else filled.name
        texts.append(sheet.format_latex(part, caption, label))
    return "\n".join(texts) + "\n"


def format_long_csv(filled: FilledTable) -> str:
    """One line for each figure, unrounded."""
    rows: list[Sequence[Any]] = [CSV_HEADER]
    for (line, group, column), cell in filled.cells.items():
        known = None not in (cell.mean, cell.reference)
        difference = (cell.mean or 0) - (cell.reference or 0) if known else None
        within = None if cell.within is None else str(cell.within).lower()
        ours = (cell.word or cell.mean, cell.spread, cell.n, cell.reference, difference, within)
        rows.append((line.section, line.row.label, group, column, *ours, cell.gap or "done"))
    return sheet.format_csv(rows)
