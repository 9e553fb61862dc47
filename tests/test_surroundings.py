"""Odd surroundings: closed streams, a reader that leaves, no locale, a narrow terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import undial

from undial_cli import ui

DEBUG = ["unlearn", "experiment=debug", "hardware=cpu", "report=false", "name=run"]
COMMAND = f"{sys.executable} -m undial_cli.cli"


def call_shell(line: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """A line of bash, with `undial` as the command."""
    return subprocess.run(
        ["bash", "-c", line.replace("undial", COMMAND)],
        cwd=cwd, capture_output=True, text=True, timeout=300, env={**os.environ, **environment},
    )  # fmt: skip


def read_status(cwd: Path) -> str:
    return json.loads((cwd / "outputs" / "unlearn" / "run" / "status.json").read_text())["status"]


def test_a_reader_that_leaves_ends_no_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = tmp_path / "log.txt"
    with open(writing, "w") as stream, ui.copy_to_log(log):
        monkeypatch.setattr(sys, "stdout", stream)
        for line in ("one", "two"):
            ui.say(line)
    assert log.read_text() == "one\ntwo\n"


@pytest.mark.slow
@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-", "| head -1"])
def test_a_run_ends_whoever_listens(streams: str, tmp_path: Path) -> None:
    done = call_shell(f"set -o pipefail; undial {' '.join(DEBUG)} {streams}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == (1 if "head" in streams else 0)
    assert read_status(tmp_path) == "done"


@pytest.mark.slow
def test_docstrings_that_are_gone_are_said_in_a_line(tmp_path: Path) -> None:
    done = undial(*DEBUG, cwd=tmp_path, PYTHONOPTIMIZE="2")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("undial: PYTHONOPTIMIZE=2: allowed is 0 or 1")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_without_a_locale_and_a_home_ends_without_a_warning(tmp_path: Path) -> None:
    """Nor does bitsandbytes, which peft imports where it is installed, say a word."""
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [word for word in DEBUG if not word.startswith("name=")]
    done = call_shell(f"unset HOME LANG; undial {' '.join(words)} name=run", tmp_path, **plain)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_status(tmp_path) == "done"


@pytest.mark.slow
def test_a_terminal_of_20_columns_shows_a_run(tmp_path: Path) -> None:
    here, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 20, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "undial_cli.cli", *DEBUG],
        cwd=tmp_path, stdin=screen, stdout=screen, stderr=screen,
    )  # fmt: skip
    os.close(screen)
    shown = b""
    while True:
        try:
            part = os.read(here, 4096)
        except OSError:  # the last process that writes to it is gone
            break
        if not part:
            break
        shown += part
    os.close(here)
    assert process.wait(60) == 0
    assert b"everything is in" in shown
    assert b"Traceback" not in shown
    assert read_status(tmp_path) == "done"
