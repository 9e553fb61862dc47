"""Train a model on a schedule of terms: teacher, trainer, resume. The middle of every run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.trainer_callback import PrinterCallback

from undial_cli import distributed, ui
from undial_cli.data.collate import pad_token
from undial_cli.data.encode import Example
from undial_cli.data.schedule import Schedule, deal
from undial_cli.errors import WorldError
from undial_cli.launch import autocast_dtype
from undial_cli.schema import TrainingRun
from undial_cli.training.arguments import training_arguments
from undial_cli.training.callbacks import Evaluation, MetricsLog
from undial_cli.training.teacher import AdapterTeacher, CachedTeacher, Teacher
from undial_cli.training.trainer import Term, UnlearningTrainer


def make_schedule(
    run: TrainingRun, sets: dict[str, list[Example]], anchor: str, tokenizer: Any
) -> Schedule:
    """The run's whole order, dealt to the processes that are there."""
    return Schedule(
        sets,
        anchor,
        run.train.batch_size,
        deal(run.train.batch_size, distributed.world(), run.hardware.micro_batch_size),
        run.train.epochs,
        run.train.max_steps,
        run.seed,
        run.train.group_by_length,
        pad_token(tokenizer),
    )


def make_teacher(
    run: TrainingRun, cache: str, model: nn.Module, terms: dict[str, Term], schedule: Schedule
) -> Teacher | None:
    """The teacher that the terms need: adapter off, or its signal computed now and kept."""
    needs = {name: term.loss.needs for name, term in terms.items() if term.loss.needs}
    if not needs:
        return None
    if run.adapter.name != "none" and cache in ("auto", "off"):
        return AdapterTeacher()
    teacher = CachedTeacher(model)
    used = {name: schedule.used(name) for name in needs}
    with ui.progress("teacher", sum(map(len, used.values()))) as bar, autocast(run, teacher.weight):
        for name, need in needs.items():
            teacher.remember(
                model,
                name,
                schedule.sets[name],
                used[name],
                need,
                schedule.dealing.micro,
                schedule.pad_id,
                bar.advance,
            )
    return teacher


def autocast(run: TrainingRun, like: torch.Tensor) -> contextlib.AbstractContextManager:
    """The same mixed precision for the teacher as for the student."""
    precision = autocast_dtype(run)
    if precision == "no":
        return contextlib.nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(like.device.type, dtype)


def last_saved(folder: Path) -> Path | None:
    """The newest complete training state in `folder`, to resume from."""
    found: list[tuple[int, Path]] = []
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        with contextlib.suppress(ValueError, OSError):
            found.append((int(json.loads(state.read_text())["global_step"]), state.parent))
    return max(found)[1] if found else None


def train(
    run: TrainingRun,
    model: nn.Module,
    terms: dict[str, Term],
    schedule: Schedule,
    teacher: Teacher | None,
    folder: Path,
    evaluate: Callable[[], dict[str, float]],
) -> UnlearningTrainer:
    """Run every step of the schedule, continuing from what `folder/resume` holds.

    Returns:
        The trainer, whose model is trained.
    """
    resume = folder / "resume"
    start = last_saved(resume) if resume.is_dir() else None
    check_same_processes(resume, start)
    total = schedule.steps
    done = int(start.name.split("-")[1]) if start else 0
    if start:
        ui.say(f"resuming at step {done} of {total}")
    with ui.progress("training", total, done) as bar:
        trainer = UnlearningTrainer(
            terms=terms,
            teacher=teacher,
            steps_per_epoch=schedule.steps_per_epoch,
            model=model,  # type: ignore[arg-type]
            args=training_arguments(run, schedule, resume),
            train_dataset=schedule,
            data_collator=schedule.collate,  # type: ignore[arg-type]
            processing_class=None,
            callbacks=[MetricsLog(folder / "metrics.jsonl", bar)],
        )
        trainer.remove_callback(PrinterCallback)
        if run.train.eval_steps:
            callback = Evaluation(run.train.eval_steps, evaluate)
            callback.log = trainer.log
            trainer.add_callback(callback)
        trainer.train(resume_from_checkpoint=str(start) if start else None)
    check_finite(trainer.model)
    return trainer


def check_same_processes(resume: Path, start: Path | None) -> None:
    """Note the number of processes, and warn when a resumed run has another."""
    note = resume / "processes.txt"
    world = str(distributed.world())
    if start is not None and note.is_file() and note.read_text() != world:
        ui.say(
            f"resumed with {world} processes after {note.read_text()}: right, but not bit for bit "
            "what an undisturbed run gives",
            "yellow",
        )
    if distributed.rank() == 0:
        resume.mkdir(parents=True, exist_ok=True)
        note.write_text(world)
    distributed.barrier()


def check_finite(model: Any) -> None:
    """Raise if training left weights that are no numbers."""
    for parameter in model.parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            raise WorldError(
                "training diverged: weights are NaN or infinite (a smaller train.learning_rate?)"
            )
