"""A training run's plan, from what the run reads; and what it advises once memory ran out."""

from __future__ import annotations

import resource

import psutil
import torch

from undial_cli.config.schema import TrainingRun
from undial_cli.planning.advice import advise_settings
from undial_cli.planning.plan import TrainingPlan, make_plan
from undial_cli.planning.plan_table import USABLE_SHARE
from undial_cli.reporting.text import format_memory
from undial_cli.runs.inputs import RunInputs
from undial_cli.runs.resolved import ResolvedRun

# Said where no plan can be made any more.
USUAL_ADVICE = "a smaller hardware.micro_batch_size or adapter=lora takes less"


def plan_training(run: TrainingRun, base: str, inputs: RunInputs) -> TrainingPlan:
    """The plan of a run, or of a variant of it, on the model at `base`."""
    variant = ResolvedRun(run)
    method, anchor, teacher = variant.trained_method, variant.anchor, variant.teacher
    return make_plan(
        run, base, inputs.sets, inputs.samples, method, anchor, teacher, inputs.questions
    )


def advise_after_shortage(resolved: ResolvedRun, inputs: RunInputs) -> str:
    """Settings that take less than the training that ran out of memory, each with its peak."""
    run = resolved.run
    assert isinstance(run, TrainingRun)
    try:
        plan = plan_training(run, resolved.base, inputs)
        usable = USABLE_SHARE * measure_whole_memory(plan)
        settings = advise_settings(
            run, plan, usable, lambda other: plan_training(other, resolved.base, inputs)
        )
    except Exception:  # there is no memory for a plan either, or the model is none to be planned
        return USUAL_ADVICE
    peaks = [f"{words} takes {format_memory(peak)}" for words, peak in settings]
    if not peaks:
        return "by its plan no setting takes less: a smaller model"
    return f"by its plan (peak {format_memory(plan.memory.peak)}) {', '.join(peaks)}"


def measure_whole_memory(plan: TrainingPlan) -> float:
    """Bytes of memory that a process of a plan could have, were nothing else on its device."""
    if plan.device.type == "cuda":
        return torch.cuda.mem_get_info(plan.device)[1]
    whole = psutil.virtual_memory().total / plan.processes
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return whole if limit == resource.RLIM_INFINITY else min(whole, limit)
