"""What would take less memory: every setting is planned before it is advised.

Knows which settings there are, and nothing of how a plan is made.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch

from undial_cli.config.schema import TrainingRun, is_sharded
from undial_cli.config.training import AdapterConfig
from undial_cli.errors import UserError, WorldError
from undial_cli.planning.plan import TrainingPlan

# A setting that saves less than this share of the peak is none.
WORTHWHILE_SHARE = 0.02


def advise_settings(
    run: TrainingRun,
    plan: TrainingPlan,
    usable: float,
    again: Callable[[TrainingRun], TrainingPlan],
) -> list[tuple[str, float]]:
    """Settings that take less, the one that takes least first, each with its peak in bytes.

    Args:
        usable: bytes that the peak may take.
        again: the plan of a changed run.
    """
    peaks: dict[str, float] = {}

    def plan_with(words: str, **changes: Any) -> float:
        """The peak of the run with other values of `section__key`; noted where it is lower."""
        changed = copy.deepcopy(run)
        for name, value in changes.items():
            section, _, key = name.partition("__")
            setattr(getattr(changed, section) if key else changed, key or section, value)
        try:
            bytes_taken = again(changed).memory.peak
        except (UserError, WorldError):  # not possible here
            return plan.memory.peak
        if bytes_taken < (1 - WORTHWHILE_SHARE) * plan.memory.peak:
            peaks[words] = bytes_taken
        return bytes_taken

    micro = plan.micro
    while micro > 1:
        micro //= 2
        words = f"hardware.micro_batch_size={micro}"
        if plan_with(words, hardware__micro_batch_size=micro) <= usable:
            break
        if micro > 1:  # a smaller one takes less still
            peaks.pop(words, None)
    if not run.train.activation_checkpointing:
        plan_with("train.activation_checkpointing=true", train__activation_checkpointing=True)
    on_gpu = plan.device.type == "cuda"
    if run.adapter.name == "none":
        plan_with("adapter=lora", adapter=AdapterConfig(name="lora"))
    elif run.adapter.name == "lora" and on_gpu:
        plan_with("adapter=qlora", adapter=AdapterConfig(name="qlora"))
    if plan.memory.teacher_signal and hasattr(run, "teacher"):
        plan_with("teacher.cache=disk", teacher__cache="disk")
    if run.model.dtype == "float32":
        plan_with("model.dtype=bfloat16", model__dtype="bfloat16")
    if torch.cuda.device_count() > 1 and on_gpu and not is_sharded(run):
        plan_with("hardware=fsdp", hardware__args={"fsdp": True}, hardware__num_processes=None)
    return sorted(peaks.items(), key=lambda item: item[1])
