"""The one console: lines, tables, progress bars, errors; the same lines go to the run's log.txt.

Only the main process speaks. Knows nothing of runs; without a terminal it writes plain text.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

PLAIN_WIDTH = 120


def is_speaker() -> bool:
    """Whether this process may write to the screen (rank 0, or the only one)."""
    return int(os.environ.get("RANK", "0")) == 0


def make_console(file: TextIO | None = None) -> Console:
    """A console as wide as the terminal, or 120 columns and no control codes elsewhere."""
    stream = file or sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=file, width=width, highlight=False, soft_wrap=False)


_log_files: list[Path] = []


def say(message: RenderableType, style: str = "") -> None:
    """Print a line, table or panel, and append it to the open log files."""
    if not is_speaker():
        return
    renderable = Text(message, style=style) if isinstance(message, str) else message
    make_console().print(renderable)
    for path in _log_files:
        with open(path, "a", encoding="utf-8") as file:
            make_console(file).print(renderable)


def error(message: str) -> None:
    """One line on stderr, and in the log."""
    if not is_speaker():
        return
    line = " ".join(str(message).split())
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        Text(f"undial: {line}", style="red")
    )
    write_log(f"undial: {line}\n")


def log_traceback() -> None:
    """The current exception's traceback, to the log files only."""
    write_log(traceback.format_exc())


def write_log(text: str) -> None:
    """Append plain text to the open log files."""
    for path in _log_files:
        with open(path, "a", encoding="utf-8") as file:
            file.write(text)


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Copy what is said to `path` as well (only there, while a nested run is open)."""
    _log_files.append(path)
    try:
        yield
    finally:
        _log_files.pop()


class Bar:
    """A progress bar with a free text at its end; on a plain stream it stays silent."""

    def __init__(self, progress: Progress | None, task: TaskID | None) -> None:
        self.progress, self.task = progress, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Move on by `steps` and show `note`."""
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, advance=steps, note=note)


@contextlib.contextmanager
def progress(title: str, total: int, done: int = 0) -> Iterator[Bar]:
    """A progress bar over `total` units, of which `done` were made before.

    On a stream that is no terminal, one line says what is being done.
    """
    console = make_console()
    if not is_speaker():
        yield Bar(None, None)
        return
    if not console.is_terminal:
        say(f"{title} ...")
        yield Bar(None, None)
        return
    columns: list[Any] = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    ]
    with Progress(*columns, console=console, transient=True) as bars:
        yield Bar(bars, bars.add_task(title, total=total, completed=done, note=""))
    write_log(f"{title}: done\n")
