"""A table as plain data, and its forms: Markdown, LaTeX, CSV and the screen.

Every table that undial shows is a Sheet; the page has its own form in page.html.jinja. Each form
has one function that makes text of models and data harmless in it. Knows no run and no metric.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from undial_cli.reporting.text import parse_number
from undial_cli.ui import make_console, reveal_controls

if TYPE_CHECKING:
    from rich.table import Table

LONGEST_TITLE_WORD = 9  # on a screen that is too narrow

LATEX_ESCAPES = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line's end it would be taken for the room below it
    "]": "{]}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "†": r"$^{\dagger}$",
    "*": r"$^{*}$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "→": r"$\to$",
    "≈": r"$\approx$",
    "×": r"$\times$",
    "–": "--",
}
# What a spreadsheet takes for a formula when a cell begins with it, in the wide forms too.
FORMULA_BEGINNINGS = tuple("=+-@\t\r\n＝＋－＠")
# A name that is shown as code holds nothing else.
CODE_NAME = re.compile(r"[\w.@/:+ -]+")


@dataclass
class Cell:
    """A cell: its text, the number it is sorted by (None: the text itself), and its look.

    `style` is rich's, or `code` for a name that Markdown shows as code.
    """

    text: str = ""
    number: float | None = None
    style: str = ""


@dataclass
class Column:
    """A column: its title, the group of columns it is of, and a note below the title."""

    title: str
    numeric: bool = True
    group: str = ""
    note: str = ""


@dataclass
class SheetRow:
    """A row: its cells, the first of which names it, and the group of rows that it stands in.

    `note` is shown where there is room beside the name, `hint` when one points at it.
    """

    cells: list[Cell]
    group: str = ""
    note: str = ""
    hint: str = ""


@dataclass
class Sheet:
    """A table.

    `above`: rows that stand before the others however those are sorted; `first`: how many of the
    columns are shown before all are asked for.
    """

    title: str
    columns: list[Column]
    rows: list[SheetRow]
    above: list[SheetRow] = field(default_factory=list)
    first: int = 1000

    def groups(self) -> list[tuple[str, list[SheetRow]]]:
        groups = itertools.groupby(self.rows, key=lambda row: row.group)
        return [(group, list(rows)) for group, rows in groups]


def make_text_sheet(
    columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = ""
) -> Sheet:
    heads = [Column(name, numeric=False) for name in columns]
    return Sheet(title, heads, [SheetRow([Cell(text) for text in row]) for row in rows])


def escape_markdown(text: str) -> str:
    """Text as it is read, in one line: no markup of Markdown or HTML in it is taken as such."""
    line = " ".join(reveal_controls(str(text)).split())
    line = re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", line)
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # An address would become a link by itself.
    line = re.sub(r"(?i)\b(https?|ftp|mailto|xmpp):", r"\1&#58;", line)
    return re.sub(r"(?i)\bwww\.", "www&#46;", line).replace("@", "&#64;")


def quote_markdown_code(text: str) -> str:
    """A name as code; as plain text where it could leave the code."""
    return f"`{text}`" if CODE_NAME.fullmatch(text) else escape_markdown(text)


def format_markdown(sheet: Sheet, first: int | None = None) -> str:
    """A sheet, or its first columns, as a Markdown table; groups of rows begin with a bold one."""
    columns = sheet.columns[:first]

    def texts(row: SheetRow) -> list[str]:
        cells = row.cells[:first]
        return [
            quote_markdown_code(c.text) if c.style == "code" else escape_markdown(c.text)
            for c in cells
        ]

    rows = [[escape_markdown(f"{column.group} {column.title}") for column in columns]]
    rows.append(["---:" if column.numeric else "---" for column in columns])
    rows += map(texts, sheet.above)
    for group, members in sheet.groups():
        if group:
            rows.append([f"**{escape_markdown(group)}**", *[""] * (len(columns) - 1)])
        rows += map(texts, members)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def fence_block(text: str, language: str = "") -> str:
    """Text as a Markdown block, in a fence longer than any that it holds."""
    text = reveal_controls(text)
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def format_csv(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV; None is an empty field, and no text is a formula."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(escape_cell, row) for row in rows)
    return text.getvalue()


def escape_cell(value: Any) -> Any:
    """A field of a CSV: a text that a spreadsheet would compute is marked as text."""
    if not isinstance(value, str):
        return value
    is_formula = value.startswith(FORMULA_BEGINNINGS) and parse_number(value) is None
    return reveal_controls(f"'{value}" if is_formula else value)


def escape_latex(text: str) -> str:
    """Text of one paragraph in which LaTeX finds no command."""
    line = " ".join(reveal_controls(text).split())
    return "".join(LATEX_ESCAPES.get(letter, letter) for letter in line)


def format_latex(sheet: Sheet, caption: str, label: str) -> str:
    """A sheet as a LaTeX table environment (booktabs); groups of rows begin with a line of it."""
    from pandas import DataFrame, MultiIndex

    titles = [escape_latex(column.title) for column in sheet.columns]
    groups = [escape_latex(column.group) for column in sheet.columns]
    rows: list[list[str]] = []
    for group, members in sheet.groups():
        if group:
            rows.append([f"\\textit{{{escape_latex(group)}}}", *[""] * (len(titles) - 1)])
        rows += [[escape_latex(cell.text) for cell in row.cells] for row in members]
    columns = MultiIndex.from_arrays([groups, titles]) if any(groups) else titles
    return (
        DataFrame(rows, columns=columns)
        .style.hide(axis="index")
        .to_latex(
            hrules=True,
            column_format="".join("r" if column.numeric else "l" for column in sheet.columns),
            position_float="centering",
            multicol_align="c",
            caption=escape_latex(caption),
            label=f"tab:{re.sub(r'[^A-Za-z0-9_.-]', '-', label)}",
        )
    )


def choose_column_widths(sheet: Sheet, screen: int) -> list[dict[str, int]]:
    """rich's options for the width of each column; none where the table fits the screen.

    Elsewhere rich would narrow all columns alike and let the last ones fall off. The first column
    has 28 letters, where it needs them and the words of the others leave them; numbers get no more
    than their lines need, and, where even that is too much, than their words do.
    """
    rows = sheet.above + sheet.rows
    cells = [[row.cells[number].text for row in rows] for number in range(len(sheet.columns))]
    for first in cells[:1]:
        first += [row.group for row in rows]
    whole = [
        measure_parts([column.group, column.title, *texts], str.splitlines)
        for column, texts in zip(sheet.columns, cells, strict=True)
    ]
    if sum(width + 3 for width in whole) < screen:
        return [{} for _ in whole]
    lines: list[int] = []
    words: list[int] = []
    for column, texts, width in zip(sheet.columns[1:], cells[1:], whole[1:], strict=True):
        title = f"{column.group} {column.title}".split()
        short = [word[:LONGEST_TITLE_WORD] for word in title]
        longest = measure_parts([*short, *texts], str.split)
        words.append(longest if column.numeric else min(width, max(longest, 28)))
        lines.append(measure_parts([*title, *texts], str.splitlines))
    least = min(28, whole[0])
    room, tight = (screen - 4 - sum(width + 3 for width in needed) for needed in (lines, words))
    most = lines if tight >= least else words
    options = [
        {"max_width": width} if column.numeric else {}
        for column, width in zip(sheet.columns[1:], most, strict=True)
    ]
    return [{"width": min(whole[0], max(12, room, min(tight, least)))}, *options]


def measure_parts(texts: Sequence[str], split: Callable[[str], list[str]]) -> int:
    """The letters of the longest part of texts."""
    return max((len(part) for text in texts for part in split(text)), default=0)


def make_screen_table(sheet: Sheet, headings: bool = True) -> Table:
    """A sheet for the console; groups of rows begin with their name, or only with a rule."""
    from rich.table import Table
    from rich.text import Text

    # Escapes take room: they are made before the columns are measured.
    def show(text: str, style: str = "") -> Text:
        return Text(reveal_controls(text), style)

    table = Table(title=show(sheet.title) if sheet.title else None, title_justify="left")
    widths = choose_column_widths(sheet, make_console().width)
    for column, width in zip(sheet.columns, widths, strict=True):
        table.add_column(
            show(f"{column.group}\n{column.title}".strip()),
            justify="right" if column.numeric else "left",
            overflow="ellipsis" if column.numeric else "fold",
            width=width.get("width"),
            max_width=width.get("max_width"),
        )
    for group, rows in [("", sheet.above), *sheet.groups()]:
        if group or not headings:
            table.add_section()
        if group and headings:
            table.add_row(show(group, "bold"), *[""] * (len(sheet.columns) - 1))
        for row in rows:
            table.add_row(*(show(cell.text, cell.style) for cell in row.cells))
    return table
