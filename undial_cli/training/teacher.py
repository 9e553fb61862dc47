"""The frozen teacher: the model at the start of the request, never a second full model in memory.

`AdapterTeacher` is the model with its fresh adapter switched off, asked again at every micro-batch;
a `CachedTeacher` has run once before training. `make_teacher` decides which a run gets. Knows what
a loss needs, and no loss by name.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from typing import Any, Protocol

import psutil
import torch
import transformers
from torch import nn

from undial_cli import ui
from undial_cli.config.identity import hash_json
from undial_cli.config.schema import TrainingRun, uses_deepspeed
from undial_cli.config.training import TeacherConfig
from undial_cli.data.collate import Batch
from undial_cli.data.schedule import Schedule
from undial_cli.errors import WorldError
from undial_cli.losses.targets import TeacherSignal
from undial_cli.methods.base import PRIOR_LOGPS, Loss
from undial_cli.models.quantise import describe_rounding
from undial_cli.system import processes
from undial_cli.system.files import cache_dir, locate_in_cache
from undial_cli.system.hardware import choose_autocast_dtype
from undial_cli.training.teacher_cache import CachedTeacher
from undial_cli.training.teacher_pass import run_teacher


class Teacher(Protocol):
    """Gives what a loss needs of one micro-batch of the set `name`."""

    def signal(self, model: nn.Module, name: str, batch: Batch, loss: Loss) -> TeacherSignal: ...


class AdapterTeacher:
    """The model with its fresh adapter switched off: what is left is the model before training."""

    def signal(self, model: nn.Module, name: str, batch: Batch, loss: Loss) -> TeacherSignal:
        del name
        # The adapter can be switched off in the model itself; DDP's wrapper knows none.
        inner: Any = getattr(model, "module", model)
        with inner.disable_adapter():
            return run_teacher(inner, batch, loss)


def make_teacher(
    run: TrainingRun,
    config: TeacherConfig,
    model: nn.Module,
    terms: dict[str, Loss],
    schedule: Schedule,
    target: str,
    questions: Sequence[tuple[int, ...]] = (),
) -> Teacher | None:
    """The teacher that the terms need: adapter off, or its signal computed once and kept.

    Args:
        target: fingerprint of the model's weights and tokenizer.
        questions: of each forget example the examples whose questions are put before its answer.
    """
    asking = {name: loss for name, loss in terms.items() if loss.needs}
    if not asking:
        return None
    adapted = run.adapter.name != "none"
    # All that the signal depends on besides the data; versions, as another one rounds differently.
    content = [target, describe_rounding(run), run.model.dtype, run.model.attn_implementation,
               choose_autocast_dtype(run), torch.__version__, transformers.__version__,
               *(["deepspeed"] if uses_deepspeed(run) else [])]  # fmt: skip
    with open_autocast(run, next(model.parameters()).device):
        folder, length = locate_in_cache("teacher"), run.data.max_length
        teacher = CachedTeacher(model, folder, hash_json(content), adapted, length)
    for name, loss in asking.items():
        asked_too = questions if PRIOR_LOGPS in loss.needs else ()
        teacher.add(name, schedule.sets[name], schedule.list_used(name), loss, asked_too)
    # Of one micro-batch the teacher cannot be asked the questions of other samples.
    adapted = adapted and not any(PRIOR_LOGPS in loss.needs for loss in asking.values())
    asked = sum(schedule.count_draws(name) for name in asking)
    cache, reason = choose_teacher_cache(
        config, teacher.nbytes, adapted, is_asked_again=asked > teacher.samples
    )
    ui.say(f"teacher: {reason}", "dim")
    if cache == "off":
        return AdapterTeacher()
    teacher.in_memory = cache == "memory"
    return teacher


def choose_teacher_cache(
    config: TeacherConfig, nbytes: int, adapted: bool, is_asked_again: bool
) -> tuple[str, str]:
    """Where the teacher's signal of `nbytes` lives (memory, disk or off), and that in words.

    Args:
        adapted: the teacher can be asked again, its adapter off.
        is_asked_again: a sample is seen more than once; else caching costs a pass and saves none.

    Raises:
        WorldError: it fits nowhere.
    """
    memory, disk = measure_teacher_room(config)
    size = f"{nbytes / 1e6:.1f} MB"
    if config.cache == "off" or (config.cache == "auto" and adapted and not is_asked_again):
        return "off", "the adapter is switched off at every step"
    if config.cache == "memory" or (config.cache == "auto" and nbytes <= memory):
        return "memory", f"{size} kept, in memory"
    if config.cache == "disk" or nbytes <= disk:
        return "disk", f"{size} kept, mapped from disk (memory budget: {memory / 1e6:.1f} MB)"
    if adapted:
        return "off", f"{size} would not fit: the adapter is switched off at every step"
    raise WorldError(
        f"teacher cache: {size} fit neither into memory ({memory / 1e6:.1f} MB) nor on the disk of "
        f"{cache_dir()} ({disk / 1e6:.1f} MB); UNDIAL_CACHE_DIR moves it, adapter=lora needs none"
    )


def measure_teacher_room(config: TeacherConfig) -> tuple[float, float]:
    """Bytes that the teacher's signal may take in memory (per process) and on disk."""
    # A quarter and a half: other runs and the model's own growth need the rest.
    memory = config.memory_gb
    if memory is None:
        memory = psutil.virtual_memory().available / 4 / processes.get_process_count() / 1e9
    folder = next(p for p in (cache_dir(), *cache_dir().parents) if p.exists())
    return memory * 1e9, shutil.disk_usage(folder).free / 2


def fill_teacher(
    run: TrainingRun,
    teacher: Teacher | None,
    model: nn.Module,
    schedule: Schedule,
    resumed: bool = False,
) -> None:
    """Compute what the teacher keeps and what is not there yet.

    Args:
        resumed: the model is not the teacher any more, and everything must be there.

    Raises:
        WorldError: it is not.
    """
    if not isinstance(teacher, CachedTeacher):
        return
    device = next(model.parameters()).device
    with (
        ui.show_progress("teacher pass", teacher.samples, unit="sample") as bar,
        open_autocast(run, device),
    ):
        computed = teacher.fill(model, schedule.make_batch, bar.advance, resumed)
    if computed < teacher.samples:
        cached = teacher.samples - computed
        ui.say(f"teacher: {cached} of {teacher.samples} samples were there already", "dim")


def open_autocast(run: TrainingRun, device: torch.device) -> contextlib.AbstractContextManager:
    """The same mixed precision for the teacher as for the student."""
    precision = choose_autocast_dtype(run)
    if precision == "no" or uses_deepspeed(run):  # whose engine casts the weights themselves
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype)
