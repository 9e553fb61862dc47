"""A folder that is made of a run's checkpoint: `undial merge`, `undial export`.

Written whole or not at all, with a record of its files and their hashes. Knows no model.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undial_cli import __version__, ui
from undial_cli.errors import UserError, WorldError
from undial_cli.system.faults import find_obstacle, measure_room, spell_size, translate_faults
from undial_cli.system.files import digest_file, remove_folder, whole_folder, write_whole_text
from undial_cli.system.locks import hold_lock

# Beside the weights: tokenizer, card, record.
SIDE_BYTES = 20_000_000


@dataclass(frozen=True)
class MadeFolder:
    """Where something is made. `record`: the name of the file that says what it is."""

    path: Path
    record: str
    overwrite: bool

    def check_path(self) -> None:
        """Raise UserError for a path that cannot be made, or that is not to be replaced."""
        if not self.path.exists() and not self.path.is_symlink():
            try:
                with tempfile.TemporaryFile(dir=find_obstacle(self.path.absolute())):
                    return
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                raise UserError(f"out={self.path}: cannot be made ({reason})") from error
        if self.path.is_symlink() or not self.path.is_dir():
            raise UserError(f"out={self.path}: it is no folder; allowed is one that is not there")
        if not any(self.path.iterdir()):
            return
        if not (self.path / self.record).is_file():
            raise UserError(
                f"out={self.path}: holds something else (no {self.record} there); allowed is a "
                "folder that is not there"
            )
        if not self.overwrite:
            raise UserError(
                f"out={self.path}: was made before; overwrite=true makes it anew, out=FOLDER "
                "another one"
            )

    def check_room(self, size: int) -> None:
        """Raise WorldError where weights of a size do not fit on the disk."""
        free = measure_room(self.path)
        if free < size + SIDE_BYTES:
            raise WorldError(
                f"out={self.path}: {spell_size(free)} free, and it takes "
                f"{spell_size(size + SIDE_BYTES)}; out=FOLDER moves it"
            )

    @contextlib.contextmanager
    def fill(self, content: dict[str, Any]) -> Iterator[Path]:
        """A folder to be filled, which takes its place with a record when that went well.

        Args:
            content: of the record; what is added while it is filled is in it too.
        """
        with translate_faults(self.path), hold_lock(self.path):
            self.check_path()  # another process may have been faster
            with whole_folder(self.path) as unfinished:
                unfinished.mkdir(parents=True)
                yield unfinished
                files = {
                    str(file.relative_to(unfinished)): {
                        "bytes": file.stat().st_size,
                        "sha256": digest_file(file),
                    }
                    for file in sorted(unfinished.rglob("*"))
                    if file.is_file()
                }
                record = {"undial": __version__, **content, "files": files}
                write_whole_text(unfinished / self.record, json.dumps(record, indent=2) + "\n")
                remove_folder(self.path)
        for name, file in files.items():
            ui.say(f"  {name}: {spell_size(file['bytes'])}, sha256 {file['sha256']}", "dim")
        ui.say(f"{self.path} holds {spell_size(sum(f['bytes'] for f in files.values()))}")
