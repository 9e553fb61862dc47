"""Train a model by a method on a schedule: teacher, trainer, resume. The middle of every run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer_callback import PrinterCallback

from undial_cli import ui
from undial_cli.config.schema import TrainingRun, UnlearnRun, is_sharded
from undial_cli.data.collate import make_padded_batch
from undial_cli.data.example import Example
from undial_cli.data.schedule import Schedule, TrainingSample, deal_rows
from undial_cli.errors import WorldError
from undial_cli.methods.base import Method
from undial_cli.models import adapters
from undial_cli.system import processes, signals
from undial_cli.system.files import make_private_folder
from undial_cli.system.private_files import note_private
from undial_cli.training import deepspeed_states, packing
from undial_cli.training.arguments import make_training_arguments
from undial_cli.training.callbacks import (
    EventCallback,
    LastStepLog,
    MetricsLog,
    StateSaving,
    Watcher,
)
from undial_cli.training.fit import refuse_packing
from undial_cli.training.loggers import open_loggers
from undial_cli.training.states import choose_state
from undial_cli.training.teacher import Teacher, fill_teacher
from undial_cli.training.teacher_cache import CachedTeacher
from undial_cli.training.trainer import Diverged, UnlearningTrainer, check_finite_weights
from undial_cli.training.wrapped_steps import WrappedTrainer, is_wrapped


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
    sets: Mapping[str, Sequence[Example]],
    samples: dict[str, list[TrainingSample]],
    anchor: str,
    packs: bool,
) -> Schedule:
    """The run's whole order, dealt to the processes that are there."""
    world, micro = processes.get_process_count(), run.hardware.micro_batch_size
    return Schedule(
        sets,
        anchor,
        run.train.batch_size,
        deal_rows(run.train.batch_size, world, micro),
        run.train.epochs,
        run.train.max_steps,
        run.seed,
        run.train.group_by_length,
        packing.pack_batch if packs else make_padded_batch,
        samples,
    )


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

    At a signal the step under way is finished and its state saved there.

    Args:
        watchers: what looks at the model between steps, with the attention that it has outside.

    Returns:
        The trainer, whose model is trained.

    Raises:
        WorldError: it diverged; what was saved before is kept.
        Interrupted: a signal came.
    """
    resume, base = folder / "resume", adapters.unwrap_adapter(model)
    done, start = processes.run_on_main(lambda: choose_state(resume)) or (0, None)
    outside = base.config._attn_implementation
    packs = schedule.make_batch is packing.pack_batch
    # The teacher's pass is packed as the steps are, so both round alike.
    with packing.switch_attention(base, packing.PACKED_ATTENTION if packs else outside):
        if isinstance(teacher, CachedTeacher) and not is_sharded(run):
            with signals.release_signals():
                fill_teacher(run, teacher, model, schedule)
        note_process_count(resume, start)
        is_converted = start is not None and convert_shares(start)
        if start:
            ui.say(f"resuming at step {done} of {schedule.steps}")
        with ui.show_progress("training", schedule.steps, done) as bar:
            make_trainer = WrappedTrainer if is_wrapped(method) else UnlearningTrainer
            trainer = make_trainer(
                method=method,
                teacher=teacher,
                steps_per_epoch=schedule.steps_per_epoch,
                max_loss_rise=run.train.max_loss_rise,
                model=model,  # type: ignore[arg-type]
                args=make_training_arguments(run, schedule, resume, is_converted),
                train_dataset=schedule,
                data_collator=schedule.collate,  # type: ignore[arg-type]
                processing_class=None,
                callbacks=[MetricsLog(folder / "metrics.jsonl", bar)],
            )
            trainer.remove_callback(PrinterCallback)
            # An event, for the Trainer has no method between a step's update and its log.
            acts: dict[str, Callable[..., None]] = {"on_step_end": lambda **_: trainer.end_step()}
            if is_sharded(run):
                # Only the wrapped model runs, and wrapping it loads what a resumed run had learned:
                # then the signal must be cached from before.
                fill = signals.release_signals()(fill_teacher)
                acts["on_train_begin"] = lambda model, **_: fill(
                    run, teacher, model, schedule, resumed=start is not None
                )
            trainer.add_callback(EventCallback(**acts))
            for watcher in watchers:
                watcher.ask = packing.switch_attention(base, outside)(watcher.ask)
                watcher.save_model = packing.switch_attention(base, outside)(trainer.save_model)
                watcher.log = trainer.log
                trainer.add_callback(watcher)
            saving = StateSaving(None if run.train.save_steps else 60 * run.train.save_minutes)
            trainer.add_callback(LastStepLog())
            trainer.add_callback(saving)
            if start:
                trainer.load_own_state(start)
            try:
                with signals.hold_signals(), open_loggers(trainer, run, folder, done):
                    trainer.train(resume_from_checkpoint=str(start) if start else None)
                    if saving.sign is not None:
                        signals.interrupt_run(saving.sign)
                check_finite_weights(trainer.model, trainer.state.global_step)
            except Diverged as error:
                raise WorldError(f"{error}; {suggest_remedy(run)}") from error
    return trainer


def convert_shares(state: Path) -> bool:
    """Whether a state is DeepSpeed's for another number of processes, and was made fit for this."""
    shares = deepspeed_states.count_shares(state)
    if shares:
        processes.run_on_main(lambda: deepspeed_states.check_contents(state))
    if shares in (0, processes.get_process_count()):
        return False
    processes.run_on_main(lambda: deepspeed_states.convert_state(state))
    return True


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
        make_private_folder(resume)
        note_private(resume)
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
