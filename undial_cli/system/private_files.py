"""Which private files a run wrote or read: noted as they are made, in the ledger of the run.

What holds text of the forget set, or states made from it, lies in many rooms; each notes here what
it writes or reads back, and runs/evidence.py makes evidence.json of the ledger. A ledger is a file
of one path a line, as JSON; of several processes the main one keeps it. Knows no run.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from undial_cli import ui

# Modes of a private file and folder.
PRIVATE, PRIVATE_FOLDER = 0o600, 0o700


class Ledger:
    """Paths noted for one run; they wait in memory until the folder of its file is there."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.noted: dict[Path, None] = {}

    def note(self, path: Path) -> None:
        """Add a path, once."""
        if (path := path.absolute()) not in self.noted:
            self.noted[path] = None
            self.write()

    def write(self) -> None:
        """Append what the file lacks; a folder that nobody made, or a full disk, is no obstacle."""
        if not self.noted or not self.file.parent.is_dir():
            return
        known = set(read_ledger(self.file))  # a worker, or a run before, noted others
        lines = [json.dumps(str(path)) + "\n" for path in self.noted if path not in known]
        with contextlib.suppress(OSError):
            append_private_text(self.file, "".join(lines))


# Of the runs that are open, the innermost last.
_ledgers: list[Ledger] = []


@contextlib.contextmanager
def keep_ledger(file: Path) -> Iterator[None]:
    """Note private files in `file` (and in no other, while a nested run is open)."""
    ledger = Ledger(file)
    _ledgers.append(ledger)
    try:
        yield
    finally:
        _ledgers.pop()
        if ui.is_speaker():
            ledger.write()


def note_private(path: Path) -> None:
    """Note a file or folder that holds text of the data, or states made from it."""
    if _ledgers and ui.is_speaker():
        _ledgers[-1].note(path)


def read_ledger(file: Path) -> list[Path]:
    """The paths of a ledger; a line that was cut is left out."""
    paths: list[Path] = []
    with contextlib.suppress(OSError):
        for line in file.read_text("utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError):
                paths.append(Path(json.loads(line)))
    return paths


def append_private_text(path: Path, text: str) -> None:
    """Append to a file that is the user's own from its first byte on."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, PRIVATE)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def open_private_umask() -> Iterator[None]:
    """While open, what libraries write is for the user alone."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
