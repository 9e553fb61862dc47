"""Run a piece of work here or in one worker per GPU, each on the same resolved run.yaml.

The parent starts the workers and watches them; they meet at a store that it holds, and accelerate
inside each reads the usual environment. A process that torchrun, accelerate or srun started already
joins instead. Knows the run's hardware and nothing of what is run.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from undial_cli import ui
from undial_cli.config.fields import walk_fields
from undial_cli.config.identity import digest_json
from undial_cli.config.schema import Run, is_sharded, uses_deepspeed
from undial_cli.errors import Interrupted, OutOfMemory, UserError, WorldError
from undial_cli.system import signals
from undial_cli.system.faults import LEFT_BEHIND
from undial_cli.system.hardware import is_cpu_run, join_process_group
from undial_cli.system.launcher_environment import is_launched
from undial_cli.system.processes import gather_items
from undial_cli.system.scratch import make_scratch_folder
from undial_cli.system.supervision import Watch, give_beat, make_child_environment

LOCALHOST = "127.0.0.1"  # or the host's name would be looked up
POLL_SECONDS = 0.1
# Names the signals that torch handles in the parent.
HANDLED_BY_TORCH = "TORCHELASTIC_SIGNALS_TO_HANDLE"
# Workers that are asked to end for another reason than a signal have so long.
ENDING_SECONDS = 30


def needs_workers(run: Run, processes: int) -> bool:
    """Whether other processes are to be started: several, or one that must see one GPU only."""
    if is_launched():
        return False
    if is_sharded(run) or uses_deepspeed(run):  # their engines ask for a group, even of one
        return True
    return processes > 1 or (not is_cpu_run(run) and torch.cuda.device_count() > 1)


def join_launched_processes(run: Run) -> None:
    """Join the processes that torchrun, accelerate or srun started beside this one, for one run.

    Raises:
        UserError: they were not all given the same run.
        WorldError: they did not come within `hardware.timeout`.
    """
    join_process_group(run)
    settings = {"command": run.command, **{key: value for key, value, _ in walk_fields(run)}}
    if len(set(gather_items([digest_json(settings)]))) == 1:
        return
    first, *others = gather_items([settings])
    rank, other = next((i, them) for i, them in enumerate(others, 1) if them != first)
    key = min(k for k in {*first, *other} if first.get(k) != other.get(k))
    raise UserError(
        f"{key}={other.get(key)} in process {rank} and {first.get(key)} in process 0: what "
        "torchrun, accelerate or srun starts together is one run; for runs of their own, start "
        "each by itself (of a SLURM step: unset SLURM_STEP_NUM_TASKS)"
    )


def start_workers(processes: int, folder: Path, timeout: int) -> None:
    """Start a run's processes on `folder/run.yaml` and wait for them.

    Args:
        timeout: seconds without a sign of life from any of them after which they are ended.

    Raises:
        UserError: a worker refused the input.
        WorldError: a worker failed or answers no more; rank and reason are named.
        Interrupted: a signal came, here (workers get SIGTERM) or to a worker.
    """
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

    # What failed is said in one line below; torch would print a page. Each has its own level.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    ui.say(f"starting {processes} processes", "dim")
    # Unset, torch gives each process all cores, and they wait for one another.
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    ranks = range(processes)
    with make_scratch_folder() as scratch:
        beats = {rank: Path(scratch) / f"beat-{rank}" for rank in ranks}
        # Any free port: several runs share a machine.
        store = TCPStore(LOCALHOST, 0, is_master=True, wait_for_workers=False)
        environments = {
            rank: make_worker_environment(rank, processes, store.port, beats[rank])
            for rank in ranks
        }
        words = ("-m", "undial_cli.cli", "worker", str(folder))
        logs = DefaultLogsSpecs(log_dir=scratch)
        workers: Any = None
        grace = ENDING_SECONDS
        try:
            os.environ[HANDLED_BY_TORCH] = "SIGQUIT"  # the others are ours (system/signals.py)
            workers = start_processes(
                "undial", sys.executable, dict.fromkeys(ranks, words), environments, logs
            )
            watch_workers(workers, Watch(beats), timeout)
        except KeyboardInterrupt:
            grace = signals.SAVING_SECONDS
            raise
        finally:
            if workers is not None:
                workers.close(timeout=grace)  # SIGTERM, and SIGKILL in the end


def make_worker_environment(rank: int, processes: int, port: int, beats: Path) -> dict[str, str]:
    """What torchrun would tell a process of this rank, and what this tool tells its children."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": LOCALHOST,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": str(os.getpid()),
        # What a restart would do, the same command does: it resumes.
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # the parent's
        **make_child_environment(beats),
    }


def watch_workers(workers: Any, watch: Watch, timeout: float) -> None:
    """Wait until all workers have ended well.

    Raises:
        UserError: a worker refused the input.
        WorldError: one failed, and the others were ended; or none got on for `timeout` seconds.
    """
    while (result := workers.wait(0)) is None:
        if watch.look():
            give_beat("waiting for its processes")  # of a sweep's slot, which is watched itself
        if watch.measure_silence() > timeout:
            rank = watch.find_silent(workers.pids())
            os.kill(workers.pids()[rank], signal.SIGKILL)  # the others then fail at once
            raise WorldError(
                f"process {rank} {watch.describe_silence(rank)}; the same command goes on from "
                f"what was saved, and hardware.timeout={timeout:g} is how long a step may take"
            )
        time.sleep(POLL_SECONDS)
    if result.is_failed():
        failures = result.failures
        # One that was killed comes first, then one that failed by itself: torch ended the others
        # for it. One that a signal ended in order lets the others fail, which wait for it.
        codes = {rank: failures[rank].exitcode for rank in failures}
        killed = [rank for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM]
        ended = [rank for rank, code in codes.items() if signals.find_signal(code)]
        left = [rank for rank in codes if LEFT_BEHIND in str(failures[rank].message)]
        failed = [rank for rank in codes if codes[rank] > 0 and rank not in (*ended, *left)]
        rank = min(killed or failed or ended or failures, key=lambda rank: failures[rank].timestamp)
        raise translate_worker_failure(rank, failures[rank])


def translate_worker_failure(rank: int, failure: object) -> Exception | Interrupted:
    """The parent's exception for a failed worker."""
    message = getattr(failure, "message", "")
    text = message.get("message", "") if isinstance(message, dict) else str(message)
    text = text.strip().splitlines()[0] if text.strip() else "no message"
    if text.startswith("UserError: "):
        return UserError(text.removeprefix("UserError: "))
    kind = OutOfMemory if text.startswith("OutOfMemory: ") else WorldError
    text = text.removeprefix("WorldError: ").removeprefix("OutOfMemory: ")
    code = getattr(failure, "exitcode", "?")
    sign = signals.find_signal(code)
    if sign is not None:
        return Interrupted(sign)
    return kind(f"process {rank} failed (exit code {code}): {text}")
