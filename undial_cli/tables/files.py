"""A filled table as files: table.md, table.csv, table.tex, its pictures, and sweep.json.

Each is written whole or not at all. Text of samples is in none of them.
"""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

from undial_cli.cache import write_text
from undial_cli.reporting.summary import markdown_table
from undial_cli.tables import latex
from undial_cli.tables.config import ColumnConfig
from undial_cli.tables.figures import Cell, Filled, Line, each
from undial_cli.tables.pictures import draw
from undial_cli.tables.render import Block, blocks, cell_text, heading, notes

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
        "table.tex": latex.document(filled),
        "sweep.json": json.dumps(sweep(filled, folder, words), indent=2) + "\n",
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts] + draw(filled, folder)


def markdown(filled: Filled) -> str:
    """The table for a page."""
    lines = [f"# {filled.table.title}", ""]
    for block in blocks(filled):
        lines += [f"## {escaped(block.title)}", ""] if block.title else []
        lines += [*markdown_table(*body(block)), ""]
    lines += [f"- {escaped(note)}" for note in notes(filled).all()]
    return "\n".join(lines).rstrip() + "\n"


def body(block: Block) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of a Markdown table."""
    several = len({across for across, _ in block.columns}) > 1
    header = [f"{across} {heading(c)}" if several else heading(c) for across, c in block.columns]
    rows: list[list[str]] = []
    before = ""
    for line, cells in block.rows:
        if line.section and line.section != before:
            rows.append([f"**{escaped(line.section)}**", *([""] * len(cells))])
        before = line.section or before
        texts = [cell_text(cell, c) for cell, (_, c) in zip(cells, block.columns, strict=True)]
        rows.append([escaped(line.row.label), *map(escaped, texts)])
    return ["", *map(escaped, header)], rows


def escaped(text: str) -> str:
    """A text in which nothing is Markdown or HTML."""
    for letter in "\\`*_[]|":
        text = text.replace(letter, "\\" + letter)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def long_form(filled: Filled) -> str:
    """One line for each figure, unrounded."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)

    def add(line: Line, across: str, column: ColumnConfig, cell: Cell) -> None:
        within = "" if cell.within is None else str(cell.within).lower()
        writer.writerow(
            [
                line.section, line.row.label, across, column.name, cell.mean, cell.spread, cell.n,
                cell.reference, cell.difference, within, cell.gap or "done",
            ]
        )  # fmt: skip

    each(filled, add)
    return text.getvalue()


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
