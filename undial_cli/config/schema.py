"""The run of each command, made of the config groups, and what must hold of it as a whole.

A group is a dataclass: types, defaults, units, allowed values. With methods/*.py this room is the
one source of `--help`, of type errors and of range checks. Imports neither torch nor hydra, and
does not know how any value is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from undial_cli.config.alternatives import AlternativesConfig
from undial_cli.config.attacks import AuditConfig
from undial_cli.config.datasets import DataConfig
from undial_cli.config.fields import check_field_value, group, key, walk_fields
from undial_cli.config.methods import MethodConfig
from undial_cli.config.models import ModelConfig
from undial_cli.config.suites import EvalConfig
from undial_cli.config.training import (
    AdapterConfig,
    RecipeConfig,
    TeacherConfig,
    TrainConfig,
)
from undial_cli.errors import UserError, bad_value


@dataclass
class HardwareConfig:
    """Where the run runs."""

    name: str = key("auto", "kind of hardware")
    num_processes: int | None = key(None, "null: one per visible GPU, or one", minimum=1)
    micro_batch_size: int | None = key(
        None, "samples per forward pass; null: batch_size / processes", minimum=1
    )
    gpus_per_run: int | None = key(
        None, "of a sweep: GPUs of each run; null: all, one run after the other", minimum=1
    )
    slots: int | None = key(
        None, "of a sweep: runs side by side; null: as many as the GPUs hold, one on CPU", minimum=1
    )
    precision: str = key(
        "auto", "autocast; auto: bf16 where the GPU has it", allowed=("auto", "no", "bf16", "fp16")
    )
    timeout: int = key(
        1800,
        "seconds that processes may go without a step or a batch done, or wait for one another",
        minimum=1,
    )
    args: dict[str, Any] = key({}, "TrainingArguments of this hardware (fsdp, deepspeed)")


@dataclass
class Run:
    """What every command has."""

    command: str = key("", "the command")
    model: ModelConfig = group(ModelConfig, "which model")
    data: DataConfig = group(DataConfig, "which data")
    hardware: HardwareConfig = group(HardwareConfig, "where")
    eval: EvalConfig = group(EvalConfig, "evaluation")
    seed: int = key(0, "seeds data order, initialisation and dropout", minimum=0, maximum=2**32 - 1)
    name: str | None = key(None, "run folder; null: model-data-method-HASH")
    output_dir: str = key("outputs", "where run folders go")
    overwrite: bool = key(False, "run again over a finished run")
    resume: bool = key(True, "continue an unfinished run")
    objective: list[str] = key([], "metrics that a sweeper optimises (hydra/sweeper=optuna)")
    report: bool = key(True, "write report.html and its pictures when the run is done")


TARGET_HELP = "how a target and a retain model are trained, where they are made"


@dataclass
class EvaluateRun(Run):
    """`undial evaluate`."""

    target: RecipeConfig = group(RecipeConfig, TARGET_HELP)


@dataclass
class AuditRun(Run):
    """`undial audit`."""

    target: RecipeConfig = group(RecipeConfig, TARGET_HELP)
    audit: AuditConfig = group(AuditConfig, "attempts to get the forgotten data back")


@dataclass
class AlternativesRun(Run):
    """`undial alternatives`."""

    target: RecipeConfig = group(RecipeConfig, TARGET_HELP)
    alternatives: AlternativesConfig = group(AlternativesConfig, "other answers of the model's own")
    out: str | None = key(None, "the file that is written, in JSON lines: rows with their answers")


@dataclass
class TrainingRun(Run):
    """What `unlearn` and `finetune` share."""

    adapter: AdapterConfig = group(AdapterConfig, "what is trained")
    train: TrainConfig = group(TrainConfig, "how")
    plan: bool = key(False, "print an estimate of memory and time instead of running")
    push_to_hub: str | None = key(None, "hub repository (org/name) that checkpoint/ is uploaded to")
    push_private: bool = key(True, "make that repository a private one, if it is new")


@dataclass
class FinetuneRun(TrainingRun):
    """`undial finetune`."""


@dataclass
class UnlearnRun(TrainingRun):
    """`undial unlearn`."""

    method: Any = field(default=None, metadata={"help": "the loss", "class": MethodConfig})
    teacher: TeacherConfig = group(TeacherConfig, "teacher signal")
    target: RecipeConfig = group(RecipeConfig, TARGET_HELP)
    audit: AuditConfig = group(AuditConfig, "attempts to get the forgotten data back, at the end")


@dataclass
class DataRun(UnlearnRun):
    """`undial data`: what `undial unlearn` with the same words would train on."""

    rows: int | None = key(
        None, "rows of each set that are shown; null: 3 on the screen, 50 on a page", minimum=0
    )
    show: str | None = key(None, "the one set that is shown", allowed=("forget", "retain"))
    html: str | None = key(None, "write a page too: a file that ends in .html")


RUN_TYPES: dict[str, type[Run]] = {
    "unlearn": UnlearnRun,
    "data": DataRun,
    "finetune": FinetuneRun,
    "evaluate": EvaluateRun,
    "audit": AuditRun,
    "alternatives": AlternativesRun,
}


def is_sharded(run: Run) -> bool:
    """Whether no process holds the whole model in training."""
    return "fsdp" in run.hardware.args or find_zero_stage(run) == 3


def uses_deepspeed(run: Run) -> bool:
    """Whether a training's step is DeepSpeed's engine's."""
    return "deepspeed" in run.hardware.args


def find_zero_stage(run: Run) -> int:
    """What DeepSpeed shares out: 0 nothing, 1 states, 2 gradients too, 3 weights too."""
    config = run.hardware.args.get("deepspeed")
    stage = config.get("zero_optimization", {}) if isinstance(config, dict) else {}
    return stage.get("stage", 0) if isinstance(stage, dict) else 0


def check_ranges(run: Run) -> None:
    """Raise UserError for the first value outside what its field allows."""
    for name, value, f in walk_fields(run):
        check_field_value(name, value, f)
    if "{question}" not in run.model.template.prompt:
        raise bad_value(
            "model.template.prompt", run.model.template.prompt, "a text that holds {question}"
        )
    for name in run.eval.utility:
        if run.eval.sets and name not in run.eval.sets:
            raise bad_value("eval.utility", name, list(run.eval.sets))
    if run.eval.data and run.data.name not in run.eval.data:
        raise UserError(
            f"eval={run.eval.name}: this suite needs data={' or '.join(run.eval.data)}, not "
            f"data={run.data.name}; leave eval out to get the one that fits"
        )
