"""A filled table as files: table.md, table.csv, table.tex, its pictures, and sweep.json.

Each is written whole or not at all. Text of samples is in none of them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from undial_cli.cache import write_text
from undial_cli.reporting import sheet
from undial_cli.reporting.sheet import csv_text, quoted
from undial_cli.tables.figures import Filled
from undial_cli.tables.pictures import draw
from undial_cli.tables.render import caption_of, notes, sheets

HEADER = (
    "section", "row", "across", "column", "mean", "spread", "n", "reference", "difference",
    "within_tolerance", "status",
)  # fmt: skip


def write(filled: Filled, folder: Path, words: list[str]) -> list[Path]:
    """Write all files of a table into `folder`.

    Args:
        words: what the command was given beside table=NAME.

    Returns:
        the files.
    """
    texts = {
        "table.md": markdown(filled),
        "table.csv": long_form(filled),
        "table.tex": latex(filled),
        "sweep.json": json.dumps(sweep(filled, folder, words), indent=2) + "\n",
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts] + draw(filled, folder)


def markdown(filled: Filled) -> str:
    """The table for a page."""
    lines = [f"# {filled.table.title}", ""]
    for part in sheets(filled):
        lines += [f"## {quoted(part.title)}", ""] if part.title else []
        lines += [*sheet.markdown(part), ""]
    lines += [f"- {quoted(note)}" for note in notes(filled).all()]
    return "\n".join(lines).rstrip() + "\n"


def latex(filled: Filled) -> str:
    """The tables as a fragment for \\input; the last caption holds the notes."""
    lines = ["% \\usepackage{booktabs} and \\usepackage[T1]{fontenc} in the preamble"]
    parts = sheets(filled)
    for number, part in enumerate(parts, 1):
        label = f"{filled.name}-{number}" if part.title else filled.name
        said = notes(filled).all() if number == len(parts) else []
        lines += sheet.latex(part, " ".join([f"{caption_of(filled, part)}.", *said]), label)
    return "\n".join(lines) + "\n"


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


def sweep(filled: Filled, folder: Path, words: list[str]) -> dict[str, Any]:
    """The runs of the table, as a sweep's folder lists them; `undial report` reads it."""
    return {
        "command": "reproduce",
        "words": [f"table={filled.name}", *words],
        "title": filled.table.title,
        "runs": [
            {
                "label": entry.label,
                "values": entry.values,
                "folder": os.path.relpath(entry.folder.path, folder),
                "status": entry.status,
                "reason": entry.reason,
                "seconds": entry.seconds,
            }
            for entry in filled.runs
        ],
    }
