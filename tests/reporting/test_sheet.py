"""A sheet as Markdown, LaTeX, CSV and on the screen."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from undial_cli.reporting.sheet import (
    Cell,
    Column,
    Sheet,
    SheetRow,
    escape_latex,
    escape_markdown,
    fence_block,
    format_csv,
    format_latex,
    format_markdown,
    make_screen_table,
    make_text_sheet,
)
from undial_cli.ui import make_console

SMALL = Sheet(
    "Small",
    [Column("run", numeric=False), Column("a|b", group="left"), Column("c", group="right")],
    [
        SheetRow([Cell("x"), Cell("1"), Cell("2")], "first"),
        SheetRow([Cell("y", style="code"), Cell("3"), Cell("4")], "first"),
        SheetRow([Cell("z"), Cell("5"), Cell("6")], "second"),
    ],
    above=[SheetRow([Cell("target"), Cell("0"), Cell("0")])],
)


def on_screen(sheet: Sheet, **options: bool) -> str:
    """The text of a sheet on a console that is wide enough."""
    console = Console(file=io.StringIO(), width=100)
    console.print(make_screen_table(sheet, **options))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_rows_stand_by_group_and_those_above_before_all() -> None:
    assert format_markdown(SMALL).splitlines() == [
        "| run | left a\\|b | right c |",
        "| --- | ---: | ---: |",
        "| target | 0 | 0 |",
        "| **first** |  |  |",
        "| x | 1 | 2 |",
        "| `y` | 3 | 4 |",
        "| **second** |  |  |",
        "| z | 5 | 6 |",
    ]


def test_the_first_columns_alone_are_a_table_of_their_own() -> None:
    assert format_markdown(SMALL, 1).splitlines()[2:5] == ["| target |", "| **first** |", "| x |"]


def test_any_text_is_one_cell_of_markdown() -> None:
    assert escape_markdown("a | b\nc") == "a \\| b c"
    assert escape_markdown("<b> & *x* `y` [z](u)") == "&lt;b&gt; &amp; \\*x\\* \\`y\\` \\[z\\](u)"
    assert escape_markdown("# $1! ~2~ \\") == "\\# \\$1\\! \\~2\\~ \\\\"


def test_a_fence_is_longer_than_any_inside_it() -> None:
    assert fence_block("a ``` b ```` c", "yaml") == "`````yaml\na ``` b ```` c\n`````"
    assert fence_block("plain\n\n") == "```\nplain\n```"


def test_csv_quotes_what_needs_it_and_leaves_none_empty() -> None:
    assert format_csv([["a", None, 0.1], ['b "c"', "d,e", "f\ng"]]) == (
        'a,,0.1\n"b ""c""","d,e","f\ng"\n'
    )


def test_latex_groups_columns_and_rows_and_aligns_numbers() -> None:
    tex = format_latex(SMALL, "A 50% caption", "small")
    assert "\\begin{tabular}{lrr}" in tex
    assert "\\caption{A 50\\% caption}" in tex
    assert "\\label{tab:small}" in tex
    assert tex.index("\\textit{first}") < tex.index("x & 1 & 2") < tex.index("\\textit{second}")
    assert "a\\textbar{}b" in tex
    assert escape_latex("{x_1}") == "\\{x\\_1\\}"


def test_the_screen_shows_groups_by_name_or_by_a_rule() -> None:
    named = on_screen(SMALL)
    assert named.index("target") < named.index("first") < named.index("second")
    ruled = on_screen(SMALL, headings=False)
    assert "first" not in ruled
    assert ruled.count("├") >= 2


@pytest.mark.parametrize("label", ["undial", "method=undial method.retain=none"])
def test_every_column_of_a_wide_table_is_on_the_screen(label: str) -> None:
    columns = [Column("run", numeric=False), *(Column(f"forget probability {n}") for n in range(8))]
    cells = [Cell(label), *[Cell("0.123*")] * 7, Cell("last")]
    console = Console(file=io.StringIO(), width=make_console().width)
    console.print(make_screen_table(Sheet("Wide", columns, [SheetRow(cells)])))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("last" in shown, shown.count("0.123*"), "undial" in shown) == (True, 7, True)


def test_a_group_of_rows_is_named_in_one_line_beside_wide_texts() -> None:
    sheet = make_text_sheet(["row", "text"], [("1", "a long text " * 20)])
    sheet.rows[0].group = "its answer in the retain set"
    assert sheet.rows[0].group in on_screen(sheet)


def test_markup_of_a_console_is_text_in_a_cell_and_a_title() -> None:
    shown = on_screen(
        Sheet("[red]t[/red]", [Column("[b]c")], [SheetRow([Cell("[bold]wide enough")])])
    )
    for text in ("[red]t[/red]", "[b]c", "[bold]wide enough"):
        assert text in shown


def test_a_sheet_of_texts_has_no_numbers() -> None:
    sheet = make_text_sheet(["a", "b"], [("1", "2")], "t")
    assert (sheet.title, [column.numeric for column in sheet.columns]) == ("t", [False, False])
    assert sheet.groups() == [("", sheet.rows)]
    assert make_text_sheet([], []).rows == []
