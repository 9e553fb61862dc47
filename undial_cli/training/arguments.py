"""From the run's train and hardware config to transformers' TrainingArguments, and their checks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from undial_cli.data.schedule import Schedule
from undial_cli.errors import UserError, bad_value, nearest
from undial_cli.launch import autocast_dtype, on_cpu
from undial_cli.schema import TrainingRun

# What the run itself decides; train.args may not contradict it.
OURS = {
    "output_dir", "per_device_train_batch_size", "gradient_accumulation_steps", "max_steps",
    "num_train_epochs", "learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay",
    "max_grad_norm", "optim", "logging_steps", "save_strategy", "save_steps", "report_to", "seed",
    "data_seed", "use_cpu", "bf16", "fp16", "remove_unused_columns", "train_sampling_strategy",
    "eval_strategy", "eval_steps", "disable_tqdm", "push_to_hub", "dataloader_drop_last",
    "activation_checkpointing",
}  # fmt: skip


def check_training(run: TrainingRun) -> None:
    """Refuse names that transformers does not know, before anything is written."""
    from transformers.trainer_utils import SchedulerType
    from transformers.training_args import OptimizerNames

    check_word("train.scheduler", run.train.scheduler, [s.value for s in SchedulerType])
    check_word("train.optim", run.train.optim, [o.value for o in OptimizerNames])
    known = {f.name for f in dataclasses.fields(TrainingArguments)}
    for key, given in (("train.args", run.train.args), ("hardware.args", run.hardware.args)):
        for name in given:
            if name in OURS:
                raise UserError(
                    f"{key}.{name}: set by the run's own keys (train.*, hardware.*, seed)"
                )
            if name not in known:
                raise UserError(
                    f"{key}.{name}: no such TrainingArguments field{nearest(name, known)}"
                )


def check_word(key: str, value: str, allowed: list[str]) -> None:
    """Raise UserError unless `value` is one of `allowed`."""
    if value not in allowed:
        raise bad_value(key, value, allowed)


def training_arguments(run: TrainingRun, schedule: Schedule, folder: Path) -> TrainingArguments:
    """The arguments under which the schedule is one epoch, read sequentially."""
    train, precision = run.train, autocast_dtype(run)
    extra: dict[str, Any] = {}
    if train.activation_checkpointing:
        extra["activation_checkpointing"] = True
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=schedule.dealing.micro,
        gradient_accumulation_steps=schedule.dealing.accumulation,
        max_steps=schedule.steps,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.scheduler,
        warmup_steps=train.warmup_steps or round(train.warmup_epochs * schedule.steps_per_epoch),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        optim=train.optim,
        logging_steps=train.logging_steps,
        save_strategy="steps" if train.save_steps else "no",
        save_steps=train.save_steps or schedule.steps,
        report_to=train.report_to or "none",
        seed=run.seed,
        data_seed=run.seed,
        use_cpu=on_cpu(run),
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        remove_unused_columns=False,
        disable_tqdm=True,
        **extra,
        **{
            "save_total_limit": 1,
            "ddp_find_unused_parameters": False,
            "logging_nan_inf_filter": False,
            **train.args,
            **run.hardware.args,
        },
    )
