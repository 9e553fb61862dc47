"""Which private files a run wrote or read: noted as they are made, in the ledger of the run.

What holds text of the forget set, or states made from it, lies in many rooms; each notes here what
it writes or reads back, and runs/evidence.py makes evidence.json of the ledger. A ledger is a file
of one path a line, as JSON; of several processes the main one keeps it. Knows no run.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from undial_cli import ui

# Modes of a private file and folder, and what neither has.
PRIVATE, PRIVATE_FOLDER, OPEN_TO_OTHERS = 0o600, 0o700, 0o077
# A ledger's name, in the folder of its run.
LEDGER_FILE = "private_files.txt"


class Ledger:
    """Paths noted for one run; they wait in memory until the folder of its file is there."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.noted: dict[Path, None] = {}

    def note(self, path: Path) -> None:
        """Add a path, once."""
        if path not in self.noted:
            self.noted[path] = None
            self.write()

    def write(self) -> None:
        """Append what the file lacks; a folder that nobody made, or a full disk, is no obstacle."""
        if self.noted and self.file.parent.is_dir():
            with contextlib.suppress(OSError):
                append_paths(self.file, self.noted)


# Of what is open, the innermost last; a report of many runs has the ledgers of them all.
_ledgers: list[list[Ledger]] = []


@contextlib.contextmanager
def keep_ledgers(files: Iterable[Path], noted: Iterable[Path] = ()) -> Iterator[None]:
    """Note private files in `files` (and in no other, while what is nested is open).

    Args:
        noted: what is private already.
    """
    ledgers = [Ledger(file) for file in files]
    for ledger in ledgers:
        ledger.noted |= dict.fromkeys(noted)
    _ledgers.append(ledgers)
    try:
        yield
    finally:
        _ledgers.pop()
        for ledger in ledgers if ui.is_speaker() else ():
            ledger.write()


def note_private(path: Path) -> None:
    """Note a file or folder that holds text of the data, or states made from it.

    Best before it is written, as the process may be killed. One that is there is closed to others.
    """
    close_to_others(path)
    for ledger in _ledgers[-1] if _ledgers and ui.is_speaker() else ():
        ledger.note(path.absolute())


def close_to_others(path: Path) -> None:
    """Take the rights of others from a file or folder of the user, where it is there."""
    with contextlib.suppress(OSError):
        mode = path.lstat().st_mode
        if mode & OPEN_TO_OTHERS and not stat.S_ISLNK(mode):
            path.chmod(PRIVATE_FOLDER if stat.S_ISDIR(mode) else PRIVATE)


def read_paths(file: Path) -> list[Path]:
    """The paths of a ledger; a line that was cut is left out."""
    paths: list[Path] = []
    with contextlib.suppress(OSError):
        for line in file.read_text("utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                paths.append(Path(json.loads(line)))
    return paths


def append_paths(file: Path, paths: Iterable[Path]) -> None:
    """Add to a ledger those paths that it lacks: a worker, or a run before, noted others."""
    known = set(read_paths(file))
    lines = [json.dumps(str(path)) + "\n" for path in paths if path not in known]
    if lines:
        append_private_text(file, "".join(lines))


def append_private_text(path: Path, text: str) -> None:
    """Append to a file that is the user's own from its first byte on, and no link to another."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    handle = os.open(path, flags, PRIVATE)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def open_private_umask() -> Iterator[None]:
    """While open, what libraries write is for the user alone."""
    before = os.umask(OPEN_TO_OTHERS)
    try:
        yield
    finally:
        os.umask(before)
