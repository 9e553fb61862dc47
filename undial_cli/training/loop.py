"""Train a model by a method on a schedule: teacher, trainer, resume. The middle of every run."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from torch import nn
from transformers.trainer_callback import PrinterCallback

from undial_cli import ui
from undial_cli.config.schema import TeacherConfig, TrainingRun, UnlearnRun, hash_json, is_sharded
from undial_cli.data.collate import make_padded_batch
from undial_cli.data.encode import Example
from undial_cli.data.schedule import Schedule, TrainingSample, deal_rows
from undial_cli.errors import WorldError
from undial_cli.methods.base import Loss, Method
from undial_cli.models import adapters
from undial_cli.system import processes
from undial_cli.system.files import cache_dir
from undial_cli.system.hardware import choose_autocast_dtype
from undial_cli.training import packing
from undial_cli.training.arguments import make_training_arguments
from undial_cli.training.callbacks import EventCallback, MetricsLog, TimedSaving, Watcher
from undial_cli.training.fit import refuse_packing
from undial_cli.training.teacher import AdapterTeacher, CachedTeacher, Teacher
from undial_cli.training.trainer import (
    METHOD_STATE_FILE,
    Diverged,
    UnlearningTrainer,
    check_finite_weights,
)

# Between two savings of the state to resume from, where train.save_steps is not set.
SAVE_SECONDS = 600


def is_packed(run: TrainingRun, model: Any) -> bool:
    """Whether micro-batches are packed: `train.packing`, or what the model can take."""
    if run.train.packing == "off":
        return False
    reason = packing.why_not_packed(adapters.unwrap_adapter(model), run.data.max_length)
    if run.train.packing == "on":
        refuse_packing(reason)
    return reason is None


def make_schedule(
    run: TrainingRun,
    sets: dict[str, list[Example]],
    samples: dict[str, list[TrainingSample]],
    anchor: str,
    packs: bool,
) -> Schedule:
    """The run's whole order, dealt to the processes that are there."""
    return Schedule(
        sets,
        anchor,
        run.train.batch_size,
        deal_rows(
            run.train.batch_size, processes.get_process_count(), run.hardware.micro_batch_size
        ),
        run.train.epochs,
        run.train.max_steps,
        run.seed,
        run.train.group_by_length,
        packing.pack_batch if packs else make_padded_batch,
        samples,
    )


def make_teacher(
    run: TrainingRun,
    config: TeacherConfig,
    model: nn.Module,
    terms: dict[str, Loss],
    schedule: Schedule,
    target: str,
) -> Teacher | None:
    """The teacher that the terms need: adapter off, or its signal computed once and kept.

    Args:
        target: fingerprint of the model's weights and tokenizer.
    """
    asking = {name: loss for name, loss in terms.items() if loss.needs}
    if not asking:
        return None
    adapted = run.adapter.name != "none"
    content = [target, run.adapter.name == "qlora", run.model.dtype, run.model.attn_implementation,
               choose_autocast_dtype(run), torch.__version__, transformers.__version__]  # fmt: skip
    with open_autocast(run, next(model.parameters()).device):
        teacher = CachedTeacher(model, cache_dir() / "teacher", hash_json(content), adapted)
    for name, loss in asking.items():
        teacher.add(name, schedule.sets[name], schedule.list_used(name), loss.needs, loss.layer)
    asked = sum(schedule.count_draws(name) for name in asking)
    place, why = choose_teacher_cache(
        config, teacher.nbytes, adapted, worth=asked > teacher.samples
    )
    ui.say(f"teacher: {why}", "dim")
    if place == "off":
        return AdapterTeacher()
    teacher.in_memory = place == "memory"
    return teacher


def choose_teacher_cache(
    config: TeacherConfig, nbytes: int, adapted: bool, worth: bool
) -> tuple[str, str]:
    """Where the teacher's signal of `nbytes` lives (memory, disk or off), and that in words.

    Args:
        adapted: the teacher can be asked again, its adapter off.
        worth: a sample is seen more than once.

    Raises:
        WorldError: it fits nowhere.
    """
    memory, disk = measure_teacher_room(config)
    size = f"{nbytes / 1e6:.1f} MB"
    if config.cache == "off" or (config.cache == "auto" and adapted and not worth):
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
    advance: Callable[[int], None] = lambda n: None,
    resumed: bool = False,
) -> None:
    """Compute what the teacher keeps and what is not there yet.

    Args:
        advance: told how many samples are done.
        resumed: the model is not the teacher any more, and everything must be there.

    Raises:
        WorldError: it is not.
    """
    if not isinstance(teacher, CachedTeacher):
        return
    device = next(model.parameters()).device
    with open_autocast(run, device):
        computed = teacher.fill(model, schedule.make_batch, advance, resumed)
    if computed < teacher.samples:
        there = teacher.samples - computed
        ui.say(f"teacher: {there} of {teacher.samples} samples were there already", "dim")


def open_autocast(run: TrainingRun, device: torch.device) -> contextlib.AbstractContextManager:
    """The same mixed precision for the teacher as for the student."""
    precision = choose_autocast_dtype(run)
    if precision == "no":
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype)


def find_newest_state(folder: Path) -> Path | None:
    """The newest complete training state in `folder`, to resume from."""
    found: list[tuple[int, Path]] = []
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        with contextlib.suppress(ValueError, OSError):
            found.append((int(json.loads(state.read_text())["global_step"]), state.parent))
    return max(found)[1] if found else None


def run_training(
    run: TrainingRun,
    model: nn.Module,
    method: Method,
    schedule: Schedule,
    teacher: Teacher | None,
    folder: Path,
    watchers: Sequence[Watcher],
) -> UnlearningTrainer:
    """Run every step of the schedule, continuing from what `folder/resume` holds.

    Args:
        watchers: what looks at the model beside the steps, with the attention that it has outside.

    Returns:
        The trainer, whose model is trained.

    Raises:
        WorldError: it diverged; what was saved before is kept.
    """
    resume, base = folder / "resume", adapters.unwrap_adapter(model)
    start = find_newest_state(resume) if resume.is_dir() else None
    done = int(start.name.split("-")[1]) if start else 0
    outside = base.config._attn_implementation
    packs = schedule.make_batch is packing.pack_batch
    with packing.switch_attention(base, packing.PACKED_ATTENTION if packs else outside):
        if isinstance(teacher, CachedTeacher) and not is_sharded(run):
            with ui.show_progress("teacher", teacher.samples) as bar:
                fill_teacher(run, teacher, model, schedule, bar.advance)
        note_process_count(resume, start)
        if start:
            ui.say(f"resuming at step {done} of {schedule.steps}")
        with ui.show_progress("training", schedule.steps, done) as bar:
            trainer = UnlearningTrainer(
                method=method,
                teacher=teacher,
                steps_per_epoch=schedule.steps_per_epoch,
                model=model,  # type: ignore[arg-type]
                args=make_training_arguments(run, schedule, resume),
                train_dataset=schedule,
                data_collator=schedule.collate,  # type: ignore[arg-type]
                processing_class=None,
                callbacks=[MetricsLog(folder / "metrics.jsonl", bar)],
            )
            trainer.remove_callback(PrinterCallback)
            acts: dict[str, Callable[..., None]] = {"on_step_end": lambda **_: trainer.end_step()}
            if is_sharded(run):  # only the wrapped model can be asked
                acts["on_train_begin"] = lambda model, **_: fill_teacher(
                    run, teacher, model, schedule, resumed=start is not None
                )
            trainer.add_callback(EventCallback(**acts))
            if not run.train.save_steps:
                trainer.add_callback(TimedSaving(SAVE_SECONDS))
            for watcher in watchers:
                watcher.ask = packing.switch_attention(base, outside)(watcher.ask)
                watcher.log = trainer.log
                trainer.add_callback(watcher)
            if start and (start / METHOD_STATE_FILE).is_file():
                state = json.loads((start / METHOD_STATE_FILE).read_text(encoding="utf-8"))
                method.load_state_dict(state)
            try:
                trainer.train(resume_from_checkpoint=str(start) if start else None)
                check_finite_weights(trainer.model, trainer.state.global_step)
            except Diverged as error:
                raise WorldError(f"{error}; {suggest_remedy(run)}") from error
    return trainer


def note_process_count(resume: Path, start: Path | None) -> None:
    """Note the number of processes, and warn when a resumed run has another."""
    note = resume / "processes.txt"
    world = str(processes.get_process_count())
    if start is not None and note.is_file() and note.read_text() != world:
        ui.say(
            f"resumed with {world} processes after {note.read_text()}: right, but not bit for bit "
            "what an undisturbed run gives",
            "yellow",
        )
    if processes.get_process_rank() == 0:
        resume.mkdir(parents=True, exist_ok=True)
        note.write_text(world)
    processes.wait_for_all()


def suggest_remedy(run: TrainingRun) -> str:
    """What to try after a training that diverged."""
    if run.model.dtype == "float16":
        return (
            "weights in float16 hold neither AdamW's small numbers nor logits above 65504: try "
            "model.dtype=bfloat16, or float32 with hardware.precision=fp16 on a GPU"
        )
    tries = ["a smaller train.learning_rate", "fewer train.epochs"]
    if run.train.warmup_steps == run.train.warmup_epochs == 0:
        tries.append("train.warmup_steps")
    if not run.train.max_grad_norm:
        tries.append("train.max_grad_norm=1")
    if isinstance(run, UnlearnRun) and run.method.retain == "none":
        tries.append("a retain term (method.retain)")
    return f"try {', '.join(tries[:-1])} or {tries[-1]}"
