"""From the run's train and hardware config to transformers' TrainingArguments, and their checks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from undial_cli import ui
from undial_cli.data.schedule import Schedule
from undial_cli.errors import UserError, bad_value, nearest
from undial_cli.hardware import autocast_dtype, on_cpu
from undial_cli.schema import TrainingRun
from undial_cli.training.argument_fields import ALIASES, OURS, PASSED, REFUSED, SHARDING
from undial_cli.training.trial import check_argument_type, check_loggers, try_out

# Schedulers that wait for the Trainer's own evaluation, which there is none of.
WAITING = ("reduce_lr_on_plateau", "greedy")


def check_training(run: TrainingRun) -> None:
    """Refuse what transformers does not know or cannot build, before anything is read.

    Raises:
        UserError: a scheduler, an optimiser, a logger or a field of `train.args` is wrong.
    """
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    schedulers = [s.value for s in SchedulerType if s.value not in WAITING]
    if run.train.scheduler not in schedulers:
        raise bad_value("train.scheduler", run.train.scheduler, schedulers)
    optimisers = [o.value for o in OptimizerNames]
    if run.train.optim not in optimisers:
        raise bad_value("train.optim", run.train.optim, optimisers)
    for name, value in run.train.args.items():
        check_argument(f"train.args.{name}", name, value)
    for name, value in run.hardware.args.items():
        if name not in SHARDING:
            check_argument(f"hardware.args.{name}", name, value)
    check_loggers(run.train.report_to)
    try_out(run, argument_fields(run, "", 1, 1, 1, run.train.warmup_steps))


def check_argument(key: str, name: str, value: object) -> None:
    """Raise UserError for a field that is not free to set, or a value of another type."""
    known = {f.name for f in dataclasses.fields(TrainingArguments)}
    if name in OURS | ALIASES:
        raise UserError(f"{key}: set by the run's own {(OURS | ALIASES)[name]}")
    if name in REFUSED:
        raise UserError(f"{key}: without use here: {REFUSED[name]}")
    if name in SHARDING:
        raise UserError(f"{key}: belongs in hardware.args.{name}")
    if name not in known:
        hint = nearest(name, PASSED | set(OURS))
        raise UserError(f"{key}: no such TrainingArguments field{hint}")
    if name not in PASSED:
        ui.say(f"{key}: unknown to undial, and passed on to transformers as it is", "yellow")
    check_argument_type(key, name, value)


def training_arguments(run: TrainingRun, schedule: Schedule, folder: Path) -> TrainingArguments:
    """The arguments under which the schedule is one epoch, read sequentially."""
    train, dealing = run.train, schedule.dealing
    warmup = train.warmup_steps or round(train.warmup_epochs * schedule.steps_per_epoch)
    fields = argument_fields(
        run, str(folder), dealing.micro, dealing.accumulation, schedule.steps, warmup
    )
    return TrainingArguments(**fields)


def argument_fields(
    run: TrainingRun, folder: str, micro: int, accumulation: int, steps: int, warmup: int
) -> dict[str, Any]:
    """Every field that is not left at its default."""
    train, precision = run.train, autocast_dtype(run)
    checkpointing = {"activation_checkpointing": True} if train.activation_checkpointing else {}
    return {
        "output_dir": folder,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "max_steps": steps,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": train.scheduler,
        "warmup_steps": warmup,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "optim": train.optim,
        "logging_steps": train.logging_steps,
        "save_strategy": "steps" if train.save_steps else "no",
        "save_steps": train.save_steps or steps,
        "report_to": train.report_to or "none",
        "seed": run.seed,
        "data_seed": run.seed,
        "use_cpu": on_cpu(run),
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "save_total_limit": 1,
        "ddp_find_unused_parameters": False,
        **checkpointing,
        **train.args,
        **run.hardware.args,
    }
