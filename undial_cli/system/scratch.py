"""Folders for the time of a piece of work, in TMPDIR: they outlive no process for long.

One whose process was killed is removed by the next that needs one. Knows not what lies in them.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from undial_cli.system.files import is_abandoned, name_writer

PREFIX = "undial-"


def make_scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A private folder, removed at the end of a `with` or with the object."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*-*"):
        if is_abandoned(folder.name.removeprefix(PREFIX).rpartition("-")[0]):
            shutil.rmtree(folder, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{name_writer()}-")
