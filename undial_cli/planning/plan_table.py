"""A plan on the screen: what memory it takes and what there is, how long it takes, what would help.

Measures the device that it speaks of; writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import psutil
import torch
from rich.table import Table

from undial_cli import ui
from undial_cli.config.schema import TrainingRun
from undial_cli.planning.advice import advise_settings
from undial_cli.planning.plan import TrainingPlan
from undial_cli.planning.speed import estimate_seconds, measure_speed
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow, make_screen_table
from undial_cli.reporting.text import format_memory

# The share of a device's memory that tensors can be expected to get.
USABLE_SHARE = 0.9


def show_training_plan(
    run: TrainingRun, plan: TrainingPlan, again: Callable[[TrainingRun], TrainingPlan]
) -> None:
    """Print a plan.

    Args:
        again: the plan of a changed run, for what is advised.
    """
    ui.say(make_memory_table(run, plan))
    sharing = plan.processes if plan.device.type == "cpu" else 1
    speed = measure_speed(plan.device, plan.dtype, plan.product, sharing)
    teacher, step = (
        estimate_seconds(cost, speed, plan.device) for cost in (plan.teacher, plan.step)
    )
    first = (
        f"teacher's pass {ui.format_duration(teacher)} (unless kept from before), "
        if teacher
        else ""
    )
    ui.say(
        f"time: {first}a step {ui.format_duration(step)}, all {plan.steps} steps "
        f"{ui.format_duration(plan.steps * step)}; evaluation and the making of the target come on "
        "top"
    )
    ui.say(
        f"measured here: {speed.flops / 1e9:.3g} GFLOP/s and {speed.moved / 1e9:.3g} GB/s in "
        f"{str(plan.dtype).removeprefix('torch.')}; a step is {plan.step.flops / 1e9:.3g} GFLOP "
        f"and moves {plan.step.moved / 1e9:.3g} GB",
        "dim",
    )
    if plan.traffic:
        ui.say(f"each process sends {format_memory(plan.traffic)} in a step", "dim")
    available = measure_available_memory(plan)
    line = f"peak {format_memory(plan.memory.peak)} of {format_memory(available)}"
    if plan.memory.peak <= USABLE_SHARE * available:
        ui.say(f"it fits: {line}", "green")
    else:
        verdict = "it hardly fits" if plan.memory.peak <= available else "it does not fit"
        ui.say(f"{verdict}: {line}", "red")
        less = advise_settings(run, plan, USABLE_SHARE * available, again)
        for words, peak in less:
            ui.say(
                f"with {words}: peak {format_memory(peak)}",
                "green" if peak <= USABLE_SHARE * available else "red",
            )
        if not less:
            ui.say("no setting takes less: a smaller model", "red")


def make_memory_table(run: TrainingRun, plan: TrainingPlan) -> Table:
    """The memory of one device, item by item."""
    memory, kind = plan.memory, plan.device.type
    each = kind if plan.processes == 1 else f"each of {plan.processes} {kind} processes"
    title = f"memory of {each}" + (" (estimate)" if plan.rough else "")
    micro = f"{plan.sequences} sequences, {plan.tokens} tokens"
    weights = f"weights, {format_millions(plan.parameters)} in {run.model.dtype}"
    if run.adapter.name == "qlora":
        weights += f", linear layers in {run.adapter.bits} bits"
    items = [
        (weights, memory.weights),
        ("teacher's head, frozen", memory.teacher_head),
        ("teacher's signal, in memory", memory.teacher_signal),
        (f"optimiser, {run.train.optim}", memory.optimiser),
        ("copies of the gradients, for their exchange", memory.copies),
        (f"gradients of {format_millions(plan.trained)} parameters", memory.gradients),
        (
            "what method.sharpness and method.rectify hold of them and of the weights",
            memory.wrapper,
        ),
        (f"activations of the largest micro-batch ({micro})", memory.activations),
        ("head: its gradient and one chunk of logits", memory.head),
    ]
    levels = [
        ("level before a step", memory.level),
        ("peak of the teacher's pass", memory.teacher_pass if plan.teacher.calls else 0),
        ("peak of a step", memory.step),
        ("teacher's signal, in the host's memory", memory.host),
    ]
    rows = [
        SheetRow([Cell(name), Cell(format_memory(count))], group)
        for group, counts in (("items", items), ("levels", levels))
        for name, count in counts
        if count
    ]
    columns = [Column(title, numeric=False), Column("bytes")]
    return make_screen_table(
        Sheet(f"plan: {run.command} {run.model.name} on {run.data.name}", columns, rows),
        headings=False,
    )


def measure_available_memory(plan: TrainingPlan) -> float:
    """Bytes of memory that a process can have now: of its GPU, or its share of the host's."""
    if plan.device.type == "cuda":
        return torch.cuda.mem_get_info(plan.device)[0]
    return psutil.virtual_memory().available / plan.processes


def format_millions(count: int) -> str:
    """A number of parameters as text."""
    return f"{count / 1e6:.1f} M"
