"""Files are written whole or not at all, and nothing is left of a writer that was killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from undial_cli.system.files import name_writer, write_whole_text


def leave_half_a_file(path: Path, ends: bool) -> int:
    """The pid of a process that was killed while it wrote a file, or that still does."""
    child = os.fork()
    if child == 0:
        path.with_name(f".{path.name}.{name_writer()}.unfinished").write_text("ha")
        if ends:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
    while not list(path.parent.glob(f".{path.name}.*-{child}.unfinished")):
        time.sleep(0.01)
    if ends:
        os.waitpid(child, 0)
    return child


def test_what_a_killed_writer_left_goes_when_the_file_is_written(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    leave_half_a_file(file, ends=True)
    alive = leave_half_a_file(file, ends=False)
    foreign = tmp_path / ".README.md.0123abcd-1.unfinished"
    foreign.write_text("of another machine")
    try:
        write_whole_text(file, "whole")
        left = {f.name for f in tmp_path.iterdir()}
        assert left == {"README.md", foreign.name} | {
            f.name for f in tmp_path.glob(f".README.md.*-{alive}.unfinished")
        }
        assert len(left) == 3
    finally:
        os.kill(alive, signal.SIGKILL)
        os.waitpid(alive, 0)
    write_whole_text(file, "again")
    assert {f.name for f in tmp_path.iterdir()} == {"README.md", foreign.name}
    assert file.read_text() == "again"


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole_text(tmp_path / "file", "text")
    assert [f.name for f in tmp_path.iterdir()] == ["file"]
