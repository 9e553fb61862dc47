"""Folders for the time of a piece of work: gone with it, or with the next one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from undial_cli.system.scratch import make_scratch_folder

KILLED = (
    "import os; from pathlib import Path; from undial_cli.system.scratch import *\n"
    "scratch = make_scratch_folder(); Path(scratch.name, 'text').write_text('text')\n"
    "os.kill(os.getpid(), 9)\n"
)


def test_what_a_killed_process_left_goes_and_what_others_have_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    subprocess.run([sys.executable, "-c", KILLED], check=False)
    (left,) = tmp_path.iterdir()
    assert (left / "text").is_file()
    others = [f"undial-0000-{os.getpid()}-a", "undial-a-b-c", "undial-x"]
    for name in others:
        (tmp_path / name).mkdir()
    with make_scratch_folder() as first, make_scratch_folder() as second:
        assert Path(first).stat().st_mode & 0o777 == 0o700
        names = {Path(first).name, Path(second).name, *others}
        assert {folder.name for folder in tmp_path.iterdir()} == names
    assert {folder.name for folder in tmp_path.iterdir()} == set(others)
