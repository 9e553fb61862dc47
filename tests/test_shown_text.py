"""Text of models and data is shown as text, whatever it says: on a terminal, in a log, in files."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from rich.panel import Panel
from rich.text import Text

from undial_cli import ui
from undial_cli.cli import run_command
from undial_cli.reporting import sheet
from undial_cli.reporting.plot_style import escape_label
from undial_cli.system.files import format_json_line
from undial_cli.system.supervision import give_beat

# What a terminal would act on: clipboard, title, clear screen, colours, links, cursor, bell.
COMMANDS = [
    "\x1b]52;c;cm0gLXJmIH4K\x07", "\x1b]0;title\x1b\\", "\x1b[2J\x1b[H", "\x1b[8mhidden\x1b[0m",
    "\x1b]8;;https://evil\x1b\\link\x1b]8;;\x1b\\", "\x9b2J", "\x90q\x9c", "a\rb", "a\bb", "\x07",
    "\x7f", "\x00", "\x0e", "\x85", "[red]markup[/red]", "[link=https://evil]x[/link]",
]  # fmt: skip
# What hides text, or turns it round.
HIDDEN = [
    "\u202etxet", "\u2066a\u2069", "\u200ea\u200f", "a\u200bb", "\ufeffa", "a\u00adb", "a\u2060b",
    "\U000e0041\U000e0042", "\u2028", "a\u200db", "\u061c", "\ud800",
]  # fmt: skip
# What people write.
PLAIN = [
    "Zyxömma", "می\u200cخواهم", "क्\u200dष", "👩\u200d👩\u200d👧", "🏳️\u200d🌈", "שלום עالم", "❤️",
    "a\tb", "über–“quoted” …", "Ελληνικά", "日本語\u3000文",
]  # fmt: skip
# Codes of the console itself: colours and what rich's panels need.
OWN_CODES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.mark.parametrize("text", COMMANDS[:14] + HIDDEN, ids=ascii)
def test_what_acts_or_hides_is_shown_as_its_escape(text: str) -> None:
    shown = ui.reveal_controls(text)
    assert shown != text
    assert not ui.ACTING_CHARACTERS.search(shown)
    assert ui.reveal_controls(shown) == shown
    escapes = re.compile(r"\\x..|\\u....|\\U........")
    assert escapes.sub(lambda match: match[0].encode().decode("unicode_escape"), shown) == text


@pytest.mark.parametrize("text", PLAIN, ids=ascii)
def test_what_people_write_is_left_as_it_is(text: str) -> None:
    assert ui.reveal_controls(text) == text
    assert ui.reveal_controls(f"before {text} after\n") == f"before {text} after\n"


def test_no_text_commands_a_terminal_or_a_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a real terminal: a pseudo one, whose other end is read."""
    master, slave = os.openpty()
    with open(slave, "w", encoding="utf-8", errors="replace") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm-256color")
        shown = b""
        for text in COMMANDS + HIDDEN:
            with ui.copy_to_log(tmp_path / "log.txt"):
                ui.say(text, "bold")
                ui.say(Panel(Text(text), title=Text(text)))
                ui.say(sheet.make_screen_table(sheet.make_text_sheet([text], [[text]], text)))
                ui.print_error(f"data.path={text}: no such file")
                try:
                    raise ValueError(text)
                except ValueError:
                    ui.log_traceback()
            terminal.flush()
            shown += os.read(master, 1 << 16)
    os.close(master)
    screen = OWN_CODES.sub("", shown.decode("utf-8").replace("\r\n", "\n"))
    assert screen != shown.decode("utf-8").replace("\r\n", "\n")  # it was taken for a terminal
    for content in (screen, (tmp_path / "log.txt").read_text(encoding="utf-8", errors="replace")):
        assert not ui.ACTING_CHARACTERS.search(content)
        assert r"\x1b]52;c;cm0gLXJmIH4K\x07" in content
        assert "[red]markup[/red]" in content
        assert r"\u202etxet" in content


def test_a_bar_shows_its_title_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    with ui.show_progress("\x1b]0;x\x07[red]", 2) as bar:
        bar.advance(2, "\x07\x1b[8m")
    assert r"\x1b]0;x\x07[red]" in terminal.getvalue()
    assert r"\x07\x1b[8m" in terminal.getvalue()


def test_without_a_terminal_a_line_each_half_minute_says_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(ui.time, "monotonic", lambda: clock[0])
    with ui.show_progress("training", 130) as bar:
        bar.advance(30)  # resumed: no pace of this start
        for clock[0] in range(10, 100, 10):
            bar.advance(2, "loss 1.5")
    assert capsys.readouterr().out.splitlines() == [
        "training ...",
        "training 36/130 steps  loss 1.5  5.0 s per step  8 min left",
        "training 42/130 steps  loss 1.5  5.0 s per step  7 min left",
        "training 48/130 steps  loss 1.5  5.0 s per step  7 min left",
        "training 48/130 steps  loss 1.5  in 90 s",
    ]


def test_of_several_processes_the_first_says_what_is_being_done_in_a_long_unit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(ui.time, "monotonic", lambda: clock[0])
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        clock[0] = 0
        with ui.show_progress("auditing", 3, unit="attack") as bar:
            bar.advance(0, "relearn on target")
            for step in (20, 40, 60, 80):
                clock[0] = step
                give_beat("training", step)
        give_beat("training", 100)  # nothing is shown any more
    assert capsys.readouterr().out.splitlines() == [
        "auditing ...",
        "process 0 of 2: auditing 0/3 attacks  relearn on target  (training 40)",
        "process 0 of 2: auditing 0/3 attacks  relearn on target  (training 80)",
        "process 0 of 2: auditing 0/3 attacks  relearn on target  in 80 s",
    ]


def test_what_a_library_keeps_quiet_hides_no_progress(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ui, "PLAIN_SECONDS", 0)
    monkeypatch.setattr(ui, "KEPT_SECONDS", 0)
    with ui.show_progress("harness", 2, unit="task") as bar, redirect_stdout(io.StringIO()):
        bar.advance(1, "arc_easy")
    assert capsys.readouterr().out.splitlines()[1].startswith("harness 1/2 tasks  arc_easy  ")


def test_durations_as_text() -> None:
    seconds = (0.04, 3.21, 45, 90, 200, 7200, 864000)
    assert [ui.format_duration(value) for value in seconds] == [
        "less than 0.1 s", "3.2 s", "45 s", "90 s", "3 min", "2.0 h", "10 days",
    ]  # fmt: skip


def test_an_error_line_commands_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b]52;c;aaaa\x07\u202e"
    for words in ([evil], ["report", evil], ["purge", evil], ["report", f"{evil}=1"]):
        assert run_command(words) == 2
        captured = capsys.readouterr()
        assert r"\x1b]52" in captured.err
        assert not ui.ACTING_CHARACTERS.search(captured.err + captured.out)


@pytest.mark.parametrize("text", COMMANDS + HIDDEN + PLAIN, ids=ascii)
def test_lines_of_json_are_harmless_and_the_same_when_read(text: str) -> None:
    line = format_json_line({"prompt": text})
    assert not ui.ACTING_CHARACTERS.search(line)
    assert line.count("\n") == 1
    assert json.loads(line) == {"prompt": text}
    assert text in line or text not in PLAIN or "\t" in text


MARKUP = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[click](javascript:alert(1))",
    "![x](http://evil/x.png)", "<javascript:alert(1)>", "https://evil/?q=secret", "www.evil.org",
    "a@evil.org", "[x]: http://evil", "`code` <b>", "~~~\n<b>", "# heading", "- item", "1. item",
    "> quote", "| a | b |", "\n\n<b>x</b>", "&lt;b&gt;", "\\<b>", "$x$ \\(y\\)", "*a* __b__", "---",
    "    indented", "a  \nb", "<!-- x", "&#106;avascript:", "[^1]", "[ ] task", "\\", "HTTPS://evil",
    "mailto:a@b.c", "xmpp:a", "ftp://evil", "<?php", "]]>", "a\\|b", "\u202e<b>", "\x1b[2J",
]  # fmt: skip


@pytest.mark.parametrize("text", MARKUP, ids=ascii)
def test_markdown_is_read_as_the_text_it_was_made_of(text: str) -> None:
    rows = [
        sheet.SheetRow([sheet.Cell(text), sheet.Cell("1")], text),
        sheet.SheetRow([sheet.Cell(text, style="code")]),
    ]
    table = sheet.Sheet("", [sheet.Column(text, numeric=False), sheet.Column("n")], rows)
    parts = (sheet.escape_markdown(text), sheet.format_markdown(table), sheet.fence_block(text))
    source = "Said: {}\n\n{}\n\n{}\n".format(*parts)
    reader = MarkdownIt("gfm-like", {"html": True, "linkify": False})
    html = reader.render(source)
    assert set(re.findall(r"<(\w+)", html)) <= {
        "p", "table", "thead", "tbody", "tr", "th", "td", "strong", "code", "pre",
    }  # fmt: skip
    line = " ".join(ui.reveal_controls(text).split())
    said = html.partition("<p>Said: ")[2].partition("</p>")[0]
    for entity, letter in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        said = said.replace(entity, letter)
    assert said == line
    # What makes a link of an address by itself finds none.
    assert not re.search(r"(?i)(https?|ftp|mailto|xmpp):|www\.|\w@\w", sheet.escape_markdown(text))


@pytest.mark.parametrize("text", [
    "=HYPERLINK(\"http://evil\")", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1",
    "\uff1d1+1", "\n=1",
], ids=ascii)  # fmt: skip
def test_no_cell_of_a_csv_is_a_formula(text: str) -> None:
    ((cell, number),) = csv.reader(io.StringIO(sheet.format_csv([[text, -2.5]]), newline=""))
    assert cell.startswith("'")
    assert number == "-2.5"
    assert not ui.ACTING_CHARACTERS.search(cell)
    assert sheet.format_csv([["-0.5", "+3", "1e-5", "run-1", None]]) == "-0.5,+3,1e-5,run-1,\n"


@pytest.mark.parametrize("text", [
    "\\input{/etc/passwd}", "\\write18{rm}", "^^5cinput{x}", "$\\catcode$", "% gone", "a & b",
    "{\\bf x", "}\\end{table}", "#1", "~", "\n\n\\par", "\\verb|x|", "[1em]", "\x1b[2J",
], ids=ascii)  # fmt: skip
def test_latex_finds_no_command_in_a_text(text: str) -> None:
    tex = sheet.escape_latex(text)
    # Of commands there are only those that stand for a letter, of groups only empty ones.
    names = re.findall(r"\\([a-zA-Z]+|.)", tex)
    assert set(names) <= {
        "textbackslash", "textasciicircum", "textasciitilde", "textbar", "&", "%", "$", "#", "_",
        "{", "}",
    }  # fmt: skip
    assert "\n" not in tex
    assert not re.search(r"(?<!\\)[%&#$_^~]", tex)
    table = sheet.make_text_sheet([text], [[text]], text)
    page = sheet.format_latex(table, text, f"a{text}b")
    assert page.count("\\begin{") == page.count("\\end{")
    assert re.search(r"\\label\{tab:[\w.-]+\}", page)


def test_a_label_of_a_picture_is_one_line_and_no_formula() -> None:
    assert escape_label("\x1b[2J $x$\n\u202ea") == "\\x1b[2J \\$x\\$ \\u202ea"
