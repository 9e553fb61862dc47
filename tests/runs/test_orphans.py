"""Real runs of two processes whose parent is killed, or one of whose workers stops."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from forked import Command

WORDS = [
    "unlearn", "eval=none", "report=false", "hardware=cpu", "hardware.num_processes=2",
    "train.max_steps=20000", "output_dir=out", "name=run", "hardware.timeout=25",
    "train.logging_steps=1",
]  # fmt: skip


@pytest.fixture
def parent(random_model: Path, tmp_path: Path) -> Iterator[Command]:
    """A run of two processes that would take hours."""
    command = Command([*WORDS, f"model.path={random_model}"], tmp_path)
    yield command
    command.kill()
    command.wait()


def wait_for_steps(parent: Command, folder: Path) -> None:
    """Wait until something was logged."""
    metrics, limit = folder / "out/unlearn/run/metrics.jsonl", time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size):
        assert parent.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)


def wait_for_workers(parent: Command) -> list[psutil.Process]:
    """The children of a run, as soon as its two workers are there; the workers come last."""
    limit = time.monotonic() + 120
    while parent.poll() is None and time.monotonic() < limit:
        children = psutil.Process(parent.pid).children()  # one of them writes conversations
        with contextlib.suppress(psutil.NoSuchProcess):  # or it has just ended
            if sum("worker" in child.cmdline() for child in children) == 2:
                return children
        time.sleep(0.05)
    raise AssertionError("no workers were started")


def is_gone(process: psutil.Process) -> bool:
    """Whether a process has ended, reaped or not."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it has ended between the two questions
        return True


def wait_until_gone(processes: list[psutil.Process]) -> None:
    """Wait until all have ended."""
    limit = time.monotonic() + 20
    while left := [process for process in processes if not is_gone(process)]:
        assert time.monotonic() < limit, f"left are {left}"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.0, "training"], ids=str)
def test_workers_end_with_a_parent_that_is_killed(
    moment: float | str, parent: Command, tmp_path: Path
) -> None:
    workers = wait_for_workers(parent)
    if isinstance(moment, float):
        time.sleep(moment)
    else:
        wait_for_steps(parent, tmp_path)
    parent.kill()
    parent.wait()
    wait_until_gone(workers)


@pytest.mark.slow
def test_a_worker_that_stops_ends_the_run(parent: Command, tmp_path: Path) -> None:
    workers = wait_for_workers(parent)
    wait_for_steps(parent, tmp_path)
    workers[-1].suspend()
    done = parent.finish(timeout=120)
    errors = done.stderr
    assert done.returncode == 1
    assert "undial: process 1 has not answered for" in errors
    assert "(training, last step " in errors
    status = json.loads((tmp_path / "out/unlearn/run/status.json").read_text())
    assert status["status"] == "failed"
    assert status["reason"] in errors
    wait_until_gone(workers)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "ray"])
def test_the_processes_of_a_sweep_end_with_a_parent_that_is_killed(
    launcher: str, random_model: Path, tmp_path: Path
) -> None:
    words = ["unlearn", "--multirun", f"hydra/launcher={launcher}", "seed=1,2", *WORDS[1:-4],
             "hardware.num_processes=1", "train.logging_steps=1", "output_dir=out",
             f"model.path={random_model}"]  # fmt: skip
    process = Command(words, tmp_path)
    try:
        limit = time.monotonic() + 180
        while not any(file.stat().st_size for file in tmp_path.glob("out/**/metrics.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.1)
        # Two agents of Ray's, which hold no run, notice within a minute.
        children = psutil.Process(process.pid).children(recursive=True)
        started = [child for child in children if not child.name().endswith("Agent")]
    finally:
        process.kill()
        process.wait()
    assert len(started) >= 2
    wait_until_gone(started)
