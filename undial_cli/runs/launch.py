"""Run a piece of work here or in one worker per GPU, each on the same resolved run.yaml.

The parent starts workers with torch's elastic launcher; accelerate inside each reads the usual
environment. A process that torchrun or accelerate started already joins instead. Knows the run's
hardware and nothing of what is run.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

import torch

from undial_cli import ui
from undial_cli.config.schema import Run
from undial_cli.errors import Interrupted, UserError, WorldError
from undial_cli.system import signals
from undial_cli.system.hardware import is_cpu_run
from undial_cli.system.processes import is_launched

# After a signal workers finish a step and save its state; a scheduler that waits less ends them.
SAVING_SECONDS = 600


def needs_workers(run: Run, processes: int) -> bool:
    """Whether other processes are to be started: several, or one that must see one GPU only."""
    if is_launched():
        return False
    return processes > 1 or (not is_cpu_run(run) and torch.cuda.device_count() > 1)


def start_workers(processes: int, folder: Path) -> None:
    """Start a run's processes on `folder/run.yaml` and wait for them.

    Raises:
        UserError: a worker refused the input.
        WorldError: a worker failed; rank and reason are named.
        Interrupted: a signal came, here (torch forwards it as SIGTERM) or to a worker.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # What failed is said in one line below; elastic would print a page. Each has its own level.
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    ui.say(f"starting {processes} processes", "dim")
    # Unset, torch gives each process all cores, and they wait for one another.
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with tempfile.TemporaryDirectory(prefix="undial-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",  # any free port: several runs share a machine
            local_addr="127.0.0.1",  # or the host's name would be looked up
            run_id=str(os.getpid()),
            max_restarts=0,  # what a restart would do, the same command does: it resumes
            monitor_interval=0.1,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
            signals_to_handle="SIGQUIT",  # the others are ours (system/signals.py)
            shutdown_timeout=SAVING_SECONDS,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "undial_cli.cli", "worker", str(folder))
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            raise translate_worker_failure(rank, failure) from error


def translate_worker_failure(rank: int, failure: object) -> Exception | Interrupted:
    """The parent's exception for a failed worker."""
    message = getattr(failure, "message", "")
    text = message.get("message", "") if isinstance(message, dict) else str(message)
    text = text.strip().splitlines()[0] if text.strip() else "no message"
    if text.startswith("UserError: "):
        return UserError(text.removeprefix("UserError: "))
    text = text.removeprefix("WorldError: ")
    code = getattr(failure, "exitcode", "?")
    sign = signals.find_signal(code)
    if sign is not None:
        return Interrupted(sign)
    return WorldError(f"process {rank} failed (exit code {code}): {text}")
