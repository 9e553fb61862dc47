"""The one console: lines, tables, progress bars, errors; the same lines go to the run's log.txt.

Only the main process speaks, and no text can command the terminal: characters that would act, or
hide, are shown as their escapes. Knows nothing of runs; without a terminal it writes plain text.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.text import Text

from undial_cli.errors import mask_secrets

PLAIN_WIDTH = 120
PLAIN_SECONDS = 30
# What is there within so many seconds of the start was made before, and says nothing of the pace.
KEPT_SECONDS = 1

# What a terminal or a page would act on, or show as nothing: control characters but for tab and
# new line, marks and overrides of direction, characters without width, tags, halves of pairs.
ACTING_CHARACTERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb"
    "\ud800-\udfff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
    # Joiners belong to the writing of Persian, of India and of emoji; elsewhere they only hide.
    "|(?<![\u0590-\u1fff\u2600-\ufe0f\U0001f000-\U0001faff])[\u200c\u200d]"
    "|[\u200c\u200d](?![\u0590-\u1fff\u2600-\ufdff\U0001f000-\U0001faff])"
)


def reveal_controls(text: str) -> str:
    """A text with every character that would act on its reader, or hide, as its escape.

    A text without any is returned as it is, and a second time nothing is changed.
    """
    return ACTING_CHARACTERS.sub(lambda match: escape_character(match[0]), text)


def escape_character(letter: str) -> str:
    """A character as one types it: \\x1b, \\u202e, \\U000e0041."""
    code = ord(letter)
    return (
        f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
    )


class RevealingConsole(Console):
    """A console that writes no control code but its own, and outlasts its reader.

    Whatever is printed is shown as text; where the reader leaves, as `head` does, the run goes on
    into its folder.
    """

    def on_broken_pipe(self) -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What is printed, in pieces; rich's own codes are in pieces of their own kind."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else piece._replace(text=reveal_controls(piece.text))


def is_speaker() -> bool:
    """Whether this process may write to the screen (rank 0, or the only one)."""
    rank, size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    several = rank.isdecimal() and size.isdecimal() and int(rank) < int(size)
    return int(rank) == 0 if several else True


def make_console(file: TextIO | None = None) -> Console:
    """A console as wide as the terminal, or 120 columns and no control codes elsewhere.

    Made anew for each line: stdout may have been replaced since (a test, a notebook, a pipe).
    """
    stream = file or sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return RevealingConsole(file=file, width=width, highlight=False, soft_wrap=False)


_log_files: list[Path] = []


def say(message: RenderableType, style: str = "", log: bool = True) -> None:
    """Print a line, table or panel, and append it to the open log files.

    `log=False` is for text of the data: a forget set belongs in no log.
    """
    if not is_speaker():
        return
    renderable = message
    if isinstance(message, str):
        renderable = Text(reveal_controls(message), style=style)
    whole = isinstance(message, str | Text)  # a path is not broken over lines
    make_console().print(renderable, soft_wrap=whole)
    for path in _log_files if log else ():
        with open(path, "a", encoding="utf-8") as file:
            make_console(file).print(renderable, soft_wrap=whole)


def print_error(message: str, any_process: bool = False) -> None:
    """One line on stderr, and in the log; `any_process` for what may befall one process alone."""
    if not (is_speaker() or any_process):
        return
    line = reveal_controls(mask_secrets(" ".join(str(message).split())))
    if not is_speaker() and not line.startswith("process "):
        line = f"process {os.environ['RANK']}: {line}"
    RevealingConsole(stderr=True, highlight=False, soft_wrap=True).print(
        Text(f"undial: {line}", style="red")
    )
    append_to_logs(f"undial: {line}\n")


def log_traceback() -> None:
    """The current exception's traceback, to the log files only."""
    append_to_logs(mask_secrets(traceback.format_exc()))


def append_to_logs(text: str) -> None:
    """Append plain text to the open log files."""
    for path in _log_files:
        with open(path, "a", encoding="utf-8") as file:
            file.write(reveal_controls(text))


@contextlib.contextmanager
def copy_to_log(path: Path) -> Iterator[None]:
    """Copy what is said to `path` as well (only there, while a nested run is open)."""
    _log_files.append(path)
    try:
        yield
    finally:
        _log_files.pop()


def format_duration(seconds: float) -> str:
    """Seconds as text, to two digits."""
    if seconds < 0.1:
        return "less than 0.1 s"
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 360000 else f"{seconds / 86400:.0f} days"


class ProgressBar:
    """Progress over `total` units: a bar on a terminal, elsewhere a line every half minute.

    A line says how far it is, at which rate, what is left and, where a unit takes long, what is
    being done in it; of several processes the first speaks, and says so.
    """

    def __init__(
        self, title: str, total: int, done: int, progress: Progress | None, unit: str
    ) -> None:
        title = reveal_controls(title)
        self.title, self.total, self.done, self.progress = title, total, done, progress
        self.unit, self.note = unit, ""
        self.before, self.started = done, time.monotonic()
        self.said_at = self.started
        self.stream = sys.stdout  # a library may be kept quiet meanwhile
        self.task = progress and progress.add_task(title, total=total, completed=done, note="")

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on by `steps` and show `note`."""
        self.done += steps
        self.note = note or self.note
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, advance=steps, note=reveal_controls(note))
        elif time.monotonic() - self.started < KEPT_SECONDS:
            self.before = self.done
        else:
            self.speak_when_due()

    def speak_when_due(self, part: str = "") -> None:
        """Say where it is, half a minute after the last time; `part`: what is being done."""
        now = time.monotonic()
        if self.progress is None and now - self.said_at >= PLAIN_SECONDS:
            rate, left = self.spell_pace(now)
            self.say_state(self.note, part and f"({part})", rate, left)
            self.said_at = now

    def say_state(self, *parts: str) -> None:
        """A line that begins with what is done of what."""
        count = f"{name_process()}{self.title} {self.done}/{self.total} {self.unit}s"
        with contextlib.redirect_stdout(self.stream):
            say("  ".join(filter(None, (count, *parts))))

    def spell_pace(self, now: float) -> tuple[str, str]:
        """Rate and what is left at the pace since the start; "" while nothing was done."""
        made, seconds = self.done - self.before, now - self.started
        if made <= 0 or self.done >= self.total:
            return "", ""
        pace = seconds / made
        slow = f"{format_duration(pace)} per {self.unit}"
        rate = f"{1 / pace:.1f} {self.unit}s/s" if pace < 1 else slow
        return rate, f"{format_duration(pace * (self.total - self.done))} left"

    def end(self) -> None:
        """A last line, where there were others."""
        if self.progress is None and self.said_at > self.started:
            seconds = time.monotonic() - self.started
            self.say_state(self.note, f"in {format_duration(seconds)}")


def name_process() -> str:
    """What a line of progress begins with where several processes share a run."""
    size = os.environ.get("WORLD_SIZE", "")
    return f"process {os.environ['RANK']} of {size}: " if size.isdecimal() and int(size) > 1 else ""


# The innermost is the last.
_open_bars: list[ProgressBar] = []


def note_work(stage: str, step: int) -> None:
    """Have what shows progress say which part of it is being done, where a line is due."""
    if _open_bars and stage:
        _open_bars[-1].speak_when_due(f"{stage} {step}" if step else stage)


@contextlib.contextmanager
def show_progress(
    title: str, total: int, done: int = 0, unit: str = "step"
) -> Iterator[ProgressBar]:
    """Show progress over `total` units, of which `done` were made before."""
    console = make_console(sys.stdout)
    with contextlib.ExitStack() as stack:
        bars = None
        if is_speaker() and console.is_terminal:
            columns: list[Any] = [
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            ]
            bars = stack.enter_context(Progress(*columns, console=console, transient=True))
        else:
            say(f"{title} ...")
        bar = ProgressBar(title, total, done, bars, unit)
        _open_bars.append(bar)
        try:
            yield bar
        finally:
            _open_bars.remove(bar)
        bar.end()
    if bars is not None:
        append_to_logs(f"{title}: done\n")
