"""What a run computes on: how many processes, which device, which precision.

Knows the hardware config and what is visible here; it starts no processes.
"""

from __future__ import annotations

import torch

from undial_cli.config.schema import Run


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


def join_process_group(run: Run) -> torch.device:
    """Join the process group that the environment describes, if it does; this process's device."""
    from accelerate import PartialState

    # Made once per process and shared: the Trainer's accelerator finds this state and keeps it.
    return torch.device(PartialState(cpu=is_cpu_run(run)).device or "cpu")
