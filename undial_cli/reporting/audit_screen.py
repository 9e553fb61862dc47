"""An audit on the screen: the verdict in a line, an example, its attacks, and where the files are.

Text of the data is printed and not logged.
"""

from __future__ import annotations

from pathlib import Path

from rich.panel import Panel
from rich.text import Text

from undial_cli import ui
from undial_cli.reporting import audit_sheets, audit_words
from undial_cli.reporting.audit_leaks import Leak, choose_example, find_leaks
from undial_cli.reporting.audit_record import AuditRecord, read_audit
from undial_cli.reporting.cells import MOST_LETTERS_OF_EXAMPLE, shorten_text
from undial_cli.reporting.sheet import Sheet, make_screen_table


def show_audit(folder: Path, page: Path | None = None) -> None:
    """Print the audit of a folder; nothing where there is none.

    Args:
        page: where its page was written.
    """
    record = read_audit(folder)
    if record is None:
        return
    style = audit_words.VERDICT_STYLES.get(record.word, "yellow")
    verdict, reason = audit_words.state_verdict(record), audit_words.state_reason(record)
    ui.say(verdict, f"bold {style}")
    if reason not in verdict:
        ui.say(reason)
    example = choose_example(find_leaks(record), record)
    if example is not None:
        show_leak(example)
    ui.say(make_screen_table(make_screen_sheet(record)))
    for line in [*audit_words.list_missing_attacks(record), *audit_words.list_attack_notes(record)]:
        ui.say(line, "yellow")
    ui.say(f"the audit is in {folder}" + (f", its page is {page}" if page else ""))


def make_screen_sheet(record: AuditRecord) -> Sheet:
    """The table of attacks for a terminal, which is narrow: two lines a row instead of columns."""
    sheet = audit_sheets.make_attack_sheet(record)
    sheet.title = f"audit: {record.content.get('model')} on {record.content.get('data')}"
    titles = [column.title for column in sheet.columns]
    joined = [1]  # the score
    if "recovered" in titles:
        joined.append(titles.index("recovered") + 1)  # its interval
    for row in sheet.rows:
        row.cells[0].text += f"\n{row.note}, by {row.cells[1].text}"
        for number in joined[1:]:
            row.cells[number - 1].text += f"\n{row.cells[number].text}".removesuffix("\n–")
    for cells in (sheet.columns, *(row.cells for row in sheet.rows)):
        for number in reversed(joined):
            del cells[number]
    return sheet


def show_leak(leak: Leak) -> None:
    """Print what an attack got for one row; not into the log, which holds no text of the data."""
    answered = Text()
    for piece, marked in leak.pieces:
        answered.append(ui.reveal_controls(piece), "bold red" if marked else "")
    answer = ui.reveal_controls(shorten_text(leak.answer, MOST_LETTERS_OF_EXAMPLE))
    body = Text.assemble(f"true answer:  {answer}\nunlearned:    ", answered)
    title = f"{leak.attack}: {shorten_text(leak.prompt, MOST_LETTERS_OF_EXAMPLE)}"
    title = Text(ui.reveal_controls(title))
    ui.say(Panel(body, title=title, title_align="left"), log=False)
