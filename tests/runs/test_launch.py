"""Workers that fail or hang, as their parent tells it; and what is left of them: nothing."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from undial_cli.errors import UserError, WorldError
from undial_cli.runs.compose import compose_run
from undial_cli.runs.launch import (
    make_worker_environment,
    needs_workers,
    translate_worker_failure,
    watch_workers,
)
from undial_cli.runs.worker import WholeFileHandler
from undial_cli.system.supervision import Watch

# A worker without torch: it does three steps, then what its rank is told to.
WORKER = """
import os, signal, sys, time
from undial_cli.system.supervision import end_with_parent, give_beat
end_with_parent()
for step in range(1, 4):
    give_beat("training", step)
    time.sleep(0.02)
rank = os.environ["RANK"]
"""


@contextmanager
def start_plain_workers(rest: str, folder: Path) -> Iterator[tuple[Any, Watch]]:
    """Two plain Python processes in place of undial's, and who watches them; ended at the end."""
    beats = {rank: folder / f"beat-{rank}" for rank in range(2)}
    environments = {rank: make_worker_environment(rank, 2, 0, beats[rank]) for rank in beats}
    logs = DefaultLogsSpecs(log_dir=str(folder))
    words = dict.fromkeys(beats, ("-c", WORKER + rest))
    workers = start_processes("plain", sys.executable, words, environments, logs)
    try:
        limit = time.monotonic() + 60  # a start is no silence, however busy the machine
        while not all(
            file.exists() and b" 3 training" in file.read_bytes() for file in beats.values()
        ):
            assert time.monotonic() < limit
            time.sleep(0.01)
        yield workers, Watch(beats)
    finally:
        workers.close()
    for pid in workers.pids().values():
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture(autouse=True)
def old_handlers() -> Iterator[None]:
    """torch takes the signals of the process that starts others."""
    names = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = {name: signal.getsignal(name) for name in names}
    yield
    for name, handler in handlers.items():
        signal.signal(name, handler)


def test_a_worker_that_is_stopped_ends_the_run_with_its_rank_and_its_last_step(
    tmp_path: Path,
) -> None:
    hang = "if rank == '1': os.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(60)"
    with start_plain_workers(hang, tmp_path) as (workers, watch):
        with pytest.raises(WorldError) as caught:
            watch_workers(workers, watch, 0.4)
        assert str(caught.value).startswith("process 1 has not answered for ")
        assert "(training, last step 3)" in str(caught.value)
        assert "hardware.timeout=0.4" in str(caught.value)


@pytest.mark.slow
def test_no_worker_is_ended_while_one_of_them_gets_on(tmp_path: Path) -> None:
    work = "for n in range(16 if rank == '0' else 0): give_beat(); time.sleep(0.05)"
    with start_plain_workers(work, tmp_path) as (workers, watch):
        watch_workers(workers, watch, 0.5)


@pytest.mark.parametrize(
    ("rest", "kind", "line"),
    [
        ("sys.exit(3) if rank == '1' else time.sleep(60)", WorldError, "process 1 failed (exit"),
        ("os.kill(os.getpid(), 9) if rank == '0' else time.sleep(60)", WorldError, "SIGKILL"),
        (
            # the other one ends in order, as it is asked to
            "signal.signal(signal.SIGTERM, lambda *_: os._exit(143))\ntime.sleep(0.2)\n"
            "os.kill(os.getpid(), 9) if rank == '1' else time.sleep(60)",
            WorldError,
            "process 1 failed (exit code -9)",
        ),
        (
            # the same of one that failed by itself, as on a full disk
            "signal.signal(signal.SIGTERM, lambda *_: os._exit(143))\ntime.sleep(0.2)\n"
            "sys.exit(1) if rank == '0' else time.sleep(60)",
            WorldError,
            "process 0 failed (exit code 1)",
        ),
        (
            # as a worker writes it, whole; torch takes seconds to import
            "import json\n"
            "error = {'message': 'UserError: seed=x', 'extraInfo': {'timestamp': '1'}}\n"
            "file = os.environ['TORCHELASTIC_ERROR_FILE']\n"
            "open(file + '.new', 'w').write(json.dumps({'message': error}))\n"
            "os.replace(file + '.new', file)\n"
            "sys.exit(1)",
            UserError,
            "seed=x",
        ),
    ],
)
def test_a_worker_that_fails_is_named(
    rest: str, kind: type[Exception], line: str, tmp_path: Path
) -> None:
    with start_plain_workers(rest, tmp_path) as (workers, watch):
        with pytest.raises(kind) as caught:
            watch_workers(workers, watch, 20)
        assert line in str(caught.value)


def test_torch_reads_what_a_worker_tells_and_never_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    with monkeypatch.context() as ended:  # with the file written and not yet named
        ended.setattr(Path, "replace", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            WholeFileHandler().record_exception(UserError("seed=x"))
    assert not list(tmp_path.iterdir())
    WholeFileHandler().record_exception(UserError("seed=x"))
    failure = ProcessFailure(local_rank=1, pid=1, exitcode=1, error_file=str(file))
    told = translate_worker_failure(1, failure)
    assert isinstance(told, UserError)
    assert str(told) == "seed=x"
    assert abs(failure.timestamp - time.time()) < 60


def test_a_sharded_run_of_one_process_gets_one_with_a_group() -> None:
    assert needs_workers(compose_run("unlearn", ["hardware=cpu", "hardware.args.fsdp=true"]), 1)
    assert not needs_workers(compose_run("unlearn", ["hardware=cpu"]), 1)
