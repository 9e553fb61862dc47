"""From the run's train and hardware config to transformers' TrainingArguments, and their checks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from undial_cli import ui
from undial_cli.config.schema import TrainingRun, uses_deepspeed
from undial_cli.config.training_arguments import (
    ARGUMENT_KEYS,
    KEY_ALIASES,
    PASSED_ARGUMENTS,
    REFUSED_ARGUMENTS,
    SHARDING_ARGUMENTS,
)
from undial_cli.data.schedule import Schedule
from undial_cli.errors import UserError, bad_value, suggest_nearest
from undial_cli.system.hardware import choose_autocast_dtype, is_cpu_run
from undial_cli.training.argument_trial import check_argument_type, check_loggers, try_out_arguments
from undial_cli.training.deepspeed_settings import check_deepspeed_settings

# Schedulers that wait for the Trainer's own evaluation, which there is none of.
EVALUATION_SCHEDULERS = ("reduce_lr_on_plateau", "greedy")


def check_training_arguments(run: TrainingRun) -> None:
    """Refuse what transformers does not know or cannot build, before anything is read.

    Raises:
        UserError: a scheduler, an optimiser, a logger or a field of `train.args` is wrong.
    """
    schedulers = [s.value for s in SchedulerType if s.value not in EVALUATION_SCHEDULERS]
    if run.train.scheduler not in schedulers:
        raise bad_value("train.scheduler", run.train.scheduler, schedulers)
    optimisers = [o.value for o in OptimizerNames]
    if run.train.optim not in optimisers:
        raise bad_value("train.optim", run.train.optim, optimisers)
    for name, value in run.train.args.items():
        check_argument_field(f"train.args.{name}", name, value)
    for name, value in run.hardware.args.items():
        if name not in SHARDING_ARGUMENTS:
            check_argument_field(f"hardware.args.{name}", name, value)
    check_loggers(run.train.report_to)
    fields = fill_argument_fields(run, "", 1, 1, 1, run.train.warmup_steps)
    arguments = try_out_arguments(run, fields)
    if uses_deepspeed(run):
        arguments.fp16 = fields["fp16"]  # tried out without, which not every machine has
        check_deepspeed_settings(run.hardware.args["deepspeed"], arguments)


def check_argument_field(key: str, name: str, value: object) -> None:
    """Raise UserError for a field that is not free to set, or a value of another type."""
    known = {f.name for f in dataclasses.fields(TrainingArguments)}
    if name in ARGUMENT_KEYS | KEY_ALIASES:
        raise UserError(f"{key}: set by the run's own {(ARGUMENT_KEYS | KEY_ALIASES)[name]}")
    if name in REFUSED_ARGUMENTS:
        raise UserError(f"{key}: without use here: {REFUSED_ARGUMENTS[name]}")
    if name in SHARDING_ARGUMENTS:
        raise UserError(f"{key}: belongs in hardware.args.{name}")
    if name not in known:
        hint = suggest_nearest(name, PASSED_ARGUMENTS | set(ARGUMENT_KEYS))
        raise UserError(f"{key}: no such TrainingArguments field{hint}")
    if name not in PASSED_ARGUMENTS:
        ui.say(f"{key}: unknown to undial, and passed on to transformers as it is", "yellow")
    check_argument_type(key, name, value)


def make_training_arguments(
    run: TrainingRun, schedule: Schedule, folder: Path, is_converted: bool = False
) -> TrainingArguments:
    """The arguments under which the schedule is one epoch, read sequentially.

    Args:
        is_converted: the state to resume from was converted for this number of processes.
    """
    train, dealing = run.train, schedule.dealing
    warmup = train.warmup_steps or round(train.warmup_epochs * schedule.steps_per_epoch)
    fields = fill_argument_fields(
        run, str(folder), dealing.micro, dealing.accumulation, schedule.steps, warmup
    )
    if is_converted:
        fields["deepspeed"] = {**fields["deepspeed"], "checkpoint": {"load_universal": True}}
    return TrainingArguments(**fields)


def fill_argument_fields(
    run: TrainingRun, folder: str, micro: int, accumulation: int, steps: int, warmup: int
) -> dict[str, Any]:
    """Every field that is not left at its default.

    `train.args` and `hardware.args` come last, and hold no key of ours: `check_argument_field`.
    """
    train, precision = run.train, choose_autocast_dtype(run)
    checkpointing = {"activation_checkpointing": True} if train.activation_checkpointing else {}
    # Of DeepSpeed's processes accelerate must know from the start (system/hardware.py).
    joined = {"accelerator_config": {"use_configured_state": True}} if uses_deepspeed(run) else {}
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
        "use_cpu": is_cpu_run(run) and not joined,  # with it, accelerate would take DDP
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "remove_unused_columns": False,  # a micro-batch is no dictionary of columns
        "disable_tqdm": True,  # the bar is ours
        "logging_nan_inf_filter": False,  # a loss that is none must be seen, and ends the run
        "save_total_limit": 2,  # to resume from, if the newer one is damaged from the one before
        "ddp_find_unused_parameters": False,  # each term reaches every trained parameter
        **checkpointing,
        **joined,
        **train.args,
        **run.hardware.args,
    }
