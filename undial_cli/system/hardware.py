"""What a run computes on: how many processes, which device, which precision.

Knows the hardware config and what is visible here; it starts no processes.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from undial_cli import ui
from undial_cli.config.schema import Run, uses_deepspeed
from undial_cli.errors import WorldError, first_line
from undial_cli.system.launcher_environment import name_gloo_interface
from undial_cli.system.supervision import is_watched

# Before a process says that it waits for the others.
QUIET_SECONDS = 10
# Between processes whose parent watches them: it ends them sooner, and knows which one hangs.
WATCHED_TIMEOUT = timedelta(days=7)

# What gloo's error, which has no class of its own, says where a process is not reached.
GLOO_MEETING = "connectFullMesh"


def choose_process_count(run: Run) -> int:
    """How many processes a run gets: what it asks for, else one per visible GPU, else one."""
    if run.hardware.num_processes:
        return run.hardware.num_processes
    if run.hardware.name in ("cpu", "single_gpu"):
        return 1
    return max(1, torch.cuda.device_count())


def is_cpu_run(run: Run) -> bool:
    return run.hardware.name == "cpu" or not torch.cuda.is_available()


def choose_autocast_dtype(run: Run) -> str:
    """`no`, `bf16` or `fp16`; `auto` is bf16 where the GPU has it, but never for float64."""
    precision = run.hardware.precision
    if precision != "auto":
        return precision
    if is_cpu_run(run) or run.model.dtype == "float64":
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported() else "no"


def choose_compute_dtype(run: Run) -> torch.dtype:
    """The dtype of a run's matrix products: autocast's, or that of the weights."""
    names = {"bf16": "bfloat16", "fp16": "float16", "no": run.model.dtype}
    return getattr(torch, names[choose_autocast_dtype(run)])


def join_process_group(run: Run) -> torch.device:
    """Join the process group that the environment describes, if it does; this process's device.

    Raises:
        WorldError: the other processes did not come within `hardware.timeout`.
    """
    from accelerate.state import AcceleratorState, PartialState

    seconds = run.hardware.timeout
    timeout = WATCHED_TIMEOUT if is_watched() else timedelta(seconds=seconds)
    # What a run before this one told accelerate, in the same processes, or a launcher's own file.
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_USE_DEEPSPEED"] = str(uses_deepspeed(run)).lower()
    kind = describe_deepspeed_group() if uses_deepspeed(run) else {"cpu": is_cpu_run(run)}
    name_gloo_interface()
    # cuDNN's attention, which torch and transformers prefer on Hopper, builds a plan for every new
    # shape: with sequences of all lengths a step took three to five times as long by it.
    torch.backends.cuda.enable_cudnn_sdp(False)
    with say_wait(seconds):
        try:
            # Made once per process and shared: the Trainer's accelerator finds it and keeps it.
            state = PartialState(**kind, timeout=timeout)
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and GLOO_MEETING not in str(error):
                raise
            raise WorldError(
                f"{describe_meeting()}: no process group within hardware.timeout={seconds} s "
                f"({first_line(error)})"
            ) from error
    return torch.device(state.device or "cpu")


def describe_deepspeed_group() -> dict[str, Any]:
    """What accelerate is told of a group that DeepSpeed joins, on CPUs too."""
    if torch.cuda.is_available():
        return {}
    from deepspeed.ops import __compatible_ops__

    # Its sums through shared memory would be compiled first, for a minute; gloo has them too.
    __compatible_ops__["deepspeed_shm_comm"] = False
    return {"backend": "gloo"}  # `cpu=True` would mean DDP to accelerate, whatever else is said


@contextlib.contextmanager
def say_wait(seconds: float) -> Iterator[None]:
    """Say for whom this process waits, if it does so for long."""

    def say_it() -> None:
        ui.print_error(
            f"{describe_meeting()} waits for the others (hardware.timeout={seconds} s)",
            any_process=True,
        )

    timer = threading.Timer(QUIET_SECONDS, say_it)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def describe_meeting() -> str:
    """Which process this is, of how many, and where they meet."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    rank, size, host, port = (os.environ.get(name, "?") for name in names)
    return f"process {rank} of {size} at {host}:{port}"
