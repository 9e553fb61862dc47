"""What `undial data` says on the screen: figures, what looks wrong, rows token by token.

Text of the data goes to the screen alone, never into a log. Without colours, what counts of a row
stands between marks. Knows no run.
"""

from __future__ import annotations

import os

from rich.text import Text

from undial_cli import ui
from undial_cli.data.shown_rows import FOCUSED, LOST, READ, TRAINED, ShownRow
from undial_cli.reporting.data_sheets import (
    DataView,
    SetView,
    count_lengths,
    make_findings_sheet,
    make_sets_sheet,
)
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow, make_screen_table
from undial_cli.ui import reveal_controls

TOKEN_STYLES = {READ: "dim", TRAINED: "green", FOCUSED: "bold magenta", LOST: "red strike"}
MARKS = {READ: ("", ""), TRAINED: ("[[", "]]"), FOCUSED: ("**", "**"), LOST: ("~~", "~~")}
LEGEND = {
    READ: "read, not trained", TRAINED: "trained", FOCUSED: "trained as a focus word",
    LOST: "lost to data.max_length",
}  # fmt: skip
BAR_WIDTH, MOST_PAIRS = 40, 3


def show_data_view(view: DataView, most: int) -> None:
    """Say what would be trained on.

    Args:
        most: rows of each set.
    """
    ui.say(f"data: {view.title} ({', '.join(view.facts)})", "bold")
    for note in view.notes:
        ui.say(note)
    for part in view.sets:
        if part.is_trained:
            ui.say(part.counts.describe(part.name, view.data.max_length))
        else:
            ui.say(f"{part.name}: {part.counts.read:,} rows read, not trained on by this run "
                   "(method.retain=none)")  # fmt: skip
    ui.say(make_screen_table(turn_sheet(make_sets_sheet(view))))
    for part in view.sets:
        show_lengths(part, view.data.max_length)
    for part in view.sets:
        show_rows(part, most)
    if not view.faults:
        ui.say("nothing looks wrong", "green")
        return
    ui.say("what looks wrong", "bold")
    for fault in view.faults:
        ui.say(f"- {fault}", "yellow")
    sheet, left_out = make_findings_sheet(view, MOST_PAIRS)
    if sheet.rows:
        ui.say(make_screen_table(sheet), log=False)
    if left_out:
        ui.say(f"and {left_out:,} more pairs of rows: html=FILE lists them", "dim")


def turn_sheet(sheet: Sheet) -> Sheet:
    """A wide table as a narrow one: its columns as rows."""
    heads = [Column("", numeric=False), *(Column(row.cells[0].text) for row in sheet.rows)]
    rows = []
    for position, column in enumerate(sheet.columns[1:], 1):
        title = f"{column.title} {column.note}".strip()
        rows.append(SheetRow([Cell(title), *(row.cells[position] for row in sheet.rows)]))
    return Sheet(sheet.title, heads, rows)


def show_lengths(part: SetView, max_length: int) -> None:
    """A bar for each range of lengths."""
    bars = count_lengths(part, max_length)
    if not bars:
        return
    ui.say(f"{part.name}: tokens of a sequence", "bold")
    most, widest = max(count for _, count in bars), max(len(label) for label, _ in bars)
    for label, count in bars:
        bar = "█" * -(-count * BAR_WIDTH // most)
        ui.say(f"  {label:>{widest}}  {bar} {count:,}")


def show_rows(part: SetView, most: int) -> None:
    """The first rows, token by token."""
    if not part.shown[:most]:
        return
    heading = Text(
        f"{part.name}: {len(part.shown[:most]):,} of {part.counts.read:,} rows, ", "bold"
    )
    for kind, words in LEGEND.items():
        heading.append_text(mark_text(words, kind)).append("  ")
    ui.say(heading)
    for row in part.shown[:most]:
        ui.say(describe_shown_row(row, part.is_trained))
        ui.say(mark_tokens(row), log=False)
        if row.focus:
            ui.say(f"  focus words: {' | '.join(row.focus)}", "magenta", log=False)
        for answer in row.preferred:
            ui.say(f"  answer to prefer: {answer}", "cyan", log=False)


def describe_shown_row(row: ShownRow, is_trained: bool) -> str:
    trained, lost = row.count_tokens(TRAINED, FOCUSED), row.count_tokens(LOST)
    words = [f"row {row.number}: {len(row.tokens) - lost:,} tokens, {trained:,} trained"]
    if not is_trained:
        words = [f"row {row.number}: {len(row.tokens) - lost:,} tokens, not trained on by this run"]
    if lost:
        words.append(f"{lost:,} lost")
    if row.sequences > 1:
        words.append(f"the first of {row.sequences:,} sequences")
    if row.reason:
        words.append(f"skipped: {row.reason}")
    return ", ".join(words)


def mark_tokens(row: ShownRow) -> Text:
    """The tokens of a row, those of a kind together."""
    text, run, kind = Text("  "), "", READ
    for token, next_kind in [*row.tokens, ("", "")]:
        if next_kind != kind:
            text.append_text(mark_text(run, kind))
            run, kind = "", next_kind
        run += token
    return text


def mark_text(text: str, kind: str) -> Text:
    """A text in the colour of its kind, or between marks where there are no colours."""
    text = reveal_controls(text)
    if not text:
        return Text()
    console = ui.make_console()
    if console.is_terminal and not console.no_color and "NO_COLOR" not in os.environ:
        return Text(text, TOKEN_STYLES[kind])
    before, after = MARKS[kind]
    return Text(f"{before}{text}{after}")
