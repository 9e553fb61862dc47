"""Builds what the Trainer will build, on a layer of nothing: what cannot be is refused early.

Packages that are missing and arguments that do not fit are found by transformers' own checks, so
that no table of them is kept here. Knows no run folder and no model.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import typing
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.integrations import integration_utils
from transformers.optimization import get_scheduler
from transformers.training_args import trainer_log_levels

from undial_cli.config.schema import TrainingRun
from undial_cli.config.training_arguments import SHARDING_ARGUMENTS
from undial_cli.errors import UserError, bad_value
from undial_cli.system.hardware import is_cpu_run

FIELD_PHRASES: dict[Any, str] = {
    float: "a number",
    int: "an integer",
    bool: "true or false",
    str: "a text",
    dict: "a dictionary",
    list: "a list",
    type(None): "null",
}
LOGGER_PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet-ml", "flyte": "flytekit"}
CONSTANT_SCHEDULERS = ("constant", "constant_with_warmup")
NO_LOGGER = ("none", "all")
# Enough for weights whose states are held in 8 bits.
TRIAL_WIDTH = 64


class TrialArguments(TrainingArguments):
    """Checked as they are, but joining no processes and touching no device."""

    @cached_property
    def _setup_devices(self) -> torch.device:
        self._n_gpu, self.distributed_state = 0, None
        return torch.device("cpu")


def check_argument_type(key: str, name: str, value: object) -> None:
    """Raise UserError for a value of another type than the field's; transformers does not look."""
    hint = typing.get_type_hints(TrainingArguments)[name]
    kinds = [typing.get_origin(k) or k for k in typing.get_args(hint) or (hint,)]
    if float in kinds:
        kinds.append(int)
    plain = tuple(kind for kind in kinds if isinstance(kind, type))
    if not isinstance(value, plain) or (isinstance(value, bool) and bool not in kinds):
        phrases = [FIELD_PHRASES[kind] for kind in kinds[: len(kinds) - (float in kinds)]]
        raise bad_value(key, value, " or ".join(phrases))


def check_loggers(names: list[str]) -> None:
    """Raise UserError for a logger that transformers does not know or cannot start here."""
    known = [*integration_utils.INTEGRATION_TO_CALLBACK, *NO_LOGGER]
    ready = {*integration_utils.get_available_reporting_integrations(), *NO_LOGGER}
    if importlib.util.find_spec("flytekit") is not None:
        ready.add("flyte")
    for name in names:
        if name not in known:
            raise bad_value("train.report_to", name, known)
        if name not in ready:
            raise UserError(
                f"train.report_to={name}: its package is not installed (pip install "
                f"{LOGGER_PACKAGES.get(name, name)}), or not set up; ready here is "
                f"{', '.join(sorted(ready))}"
            )
    if len(names) > 1 and set(names) & set(NO_LOGGER):
        raise UserError(f"train.report_to=[{','.join(names)}]: none and all stand alone")


def try_out_arguments(run: TrainingRun, fields: dict[str, Any]) -> TrainingArguments:
    """Build arguments, optimiser, scheduler and loader once, and forget all but the arguments.

    Args:
        fields: those of TrainingArguments.

    Returns:
        The arguments, of this process and its CPU alone.

    Raises:
        UserError: one of them cannot be built.
    """
    train, given = run.train, copy.deepcopy(fields)
    for name in SHARDING_ARGUMENTS:  # the processes' own
        given.pop(name, None)
    given.update(use_cpu=True, fp16=False, report_to="none")
    also = f" train.args={train.args}".replace("'", "") if train.args else ""
    for name in ("log_level", "log_level_replica"):
        if name in train.args and train.args[name] not in trainer_log_levels:
            raise bad_value(f"train.args.{name}", train.args[name], trainer_log_levels)
    with refuse_library_errors(also.strip() or "train"):
        arguments = TrialArguments(**given)
        DataLoader(
            [0],  # type: ignore[arg-type]
            num_workers=arguments.dataloader_num_workers,
            prefetch_factor=arguments.dataloader_prefetch_factor,
            persistent_workers=arguments.dataloader_persistent_workers,
            multiprocessing_context=arguments.dataloader_multiprocessing_context,
        )
    if arguments.optim_target_modules is not None:
        arguments.optim_target_modules = "all-linear"  # those of the model are not known yet
    with refuse_library_errors(f"train.optim={train.optim}{also}"):
        model = nn.Sequential(nn.Linear(TRIAL_WIDTH, TRIAL_WIDTH))
        optimiser, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)  # type: ignore[arg-type]
        options.pop("model", None)
        built = optimiser(options.pop("params", list(model.parameters())), **options)
        if optimiser.__module__.startswith("bitsandbytes") and is_cpu_run(run):
            step_once(built, model)
    if train.args.get("lr_scheduler_kwargs") and train.scheduler in CONSTANT_SCHEDULERS:
        raise UserError(
            f"train.args.lr_scheduler_kwargs: train.scheduler={train.scheduler} has none"
        )
    with refuse_library_errors(f"train.scheduler={train.scheduler}{also}"):
        get_scheduler(
            train.scheduler,
            optimizer=built,
            num_warmup_steps=arguments.warmup_steps,  # type: ignore[arg-type]
            num_training_steps=max(2, 2 * train.warmup_steps),
            scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,  # type: ignore[arg-type]
        )
    return arguments


def step_once(optimiser: torch.optim.Optimizer, model: nn.Module) -> None:
    """One step: that an optimiser can be built does not say that its kernels are there."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()


@contextlib.contextmanager
def refuse_library_errors(key: str) -> Iterator[None]:
    """Turns what a library raises into one line that begins with a key."""
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{key}: {text}") from error
