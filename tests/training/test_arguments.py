"""Every field of TrainingArguments is passed on, ours or refused; so is what cannot be built."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest
from conftest import refused
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from undial_cli.config.schema import UnlearnRun
from undial_cli.config.training_arguments import (
    ARGUMENT_KEYS,
    KEY_ALIASES,
    PASSED_ARGUMENTS,
    REFUSED_ARGUMENTS,
    SHARDING_ARGUMENTS,
)
from undial_cli.errors import UserError
from undial_cli.runs.compose import compose_run
from undial_cli.runs.known_keys import list_known_keys
from undial_cli.training.arguments import (
    check_argument_field,
    check_training_arguments,
    fill_argument_fields,
)


def check(*words: str) -> None:
    """What happens to a run of these words before anything is read."""
    run = compose_run("unlearn", ["hardware=cpu", *words])
    assert isinstance(run, UnlearnRun)
    check_training_arguments(run)


def test_every_field_of_transformers_is_sorted_once() -> None:
    fields = {f.name for f in dataclasses.fields(TrainingArguments)}
    sorts = [set(ARGUMENT_KEYS), set(REFUSED_ARGUMENTS), PASSED_ARGUMENTS, SHARDING_ARGUMENTS]
    assert set().union(*sorts) == fields
    assert sum(map(len, sorts)) == len(fields)
    assert not fields & set(KEY_ALIASES)


def test_what_is_ours_names_keys_that_exist() -> None:
    keys = set(list_known_keys("unlearn")) | {
        "hardware",
        "train.args.activation_checkpointing_kwargs",
    }
    for name, phrase in (ARGUMENT_KEYS | KEY_ALIASES).items():
        words = re.split(r" and | or |=cpu| \(.*?\)", phrase)
        assert {w for w in words if w} <= keys | {"eval.*"}, name


def test_a_field_that_would_do_nothing_is_refused_by_name() -> None:
    for name in ARGUMENT_KEYS | REFUSED_ARGUMENTS | KEY_ALIASES:
        phrase = (ARGUMENT_KEYS | KEY_ALIASES | REFUSED_ARGUMENTS)[name]
        refused(
            lambda n=name: check_argument_field(f"train.args.{n}", n, 1), f"args.{name}: ", phrase
        )
    refused(lambda: check("hardware.args.seed=1"), "hardware.args.seed: ", "seed")


def test_a_field_that_is_passed_on_arrives() -> None:
    words = ["train.args.adam_beta1=0.5", "train.args.neftune_noise_alpha=5",
             "train.args.logging_first_step=true", "train.args.save_total_limit=5"]  # fmt: skip
    check(*words)
    run = compose_run("unlearn", words)
    assert isinstance(run, UnlearnRun)
    fields = fill_argument_fields(run, "", 1, 1, 1, 0)
    names = ("adam_beta1", "neftune_noise_alpha", "logging_first_step", "save_total_limit")
    assert [fields[n] for n in names] == [0.5, 5, True, 5]


@pytest.mark.parametrize(
    "words, parts",
    [
        (["train.args.adam_beta1=abc"], ["train.args.adam_beta1=abc", "a number"]),
        (["train.args.adam_beta2=2"], ["train.optim=adamw_torch_fused", "adam_beta2: 2", "beta"]),
        (["train.args.logging_first_step=3"], ["logging_first_step=3", "true or false"]),
        (["train.args.dataloader_num_workers=1.5"], ["dataloader_num_workers=1.5", "an integer"]),
        (["train.args.dataloader_num_workers=-1"], ["train.args=", "non-negative"]),
        (["train.args.dataloader_prefetch_factor=2"], ["train.args=", "dataloader_num_workers"]),
        (["train.args.optim_args=momentum"], ["train.optim=", "optim_args: momentum"]),
        (["train.args.log_level=loud"], ["train.args.log_level=loud", "warning"]),
        (["train.args.debug=overflow"], ["train.args=", "underflow_overflow"]),
        (["train.args.adam_beta=1"], ["train.args.adam_beta", "did you mean 'adam_beta"]),
        (["train.args.lr=1"], ["train.args.lr", "train.learning_rate"]),
        (["train.args.fsdp=true"], ["train.args.fsdp", "hardware.args.fsdp"]),
        (["train.scheduler=reduce_lr_on_plateau"], ["reduce_lr_on_plateau", "cosine"]),
        (["train.scheduler=warmup_stable_decay"], ["warmup_stable_decay", "num_decay_steps"]),
        (["train.scheduler=cosine_with_min_lr"], ["cosine_with_min_lr", "lr_scheduler_kwargs"]),
        (["train.scheduler=polynomial", "train.learning_rate=1e-8"], ["polynomial", "lr_end"]),
        (["train.scheduler=cosine", "train.args.lr_scheduler_kwargs={x: 1}"], ["cosine", "'x'"]),
        (["train.args.lr_scheduler_kwargs={x: 1}"], ["lr_scheduler_kwargs", "has none"]),
        (["train.report_to=[nosuch]"], ["train.report_to=nosuch", "tensorboard, trackio, wandb"]),
        (["train.report_to=wandv"], ["train.report_to=wandv", "did you mean 'wandb'?"]),
    ],
    ids=lambda v: " ".join(v),
)  # fmt: skip
def test_what_cannot_be_built_is_refused_before_anything_is_read(
    words: list[str], parts: list[str]
) -> None:
    refused(lambda: check(*words), *parts)


@pytest.mark.parametrize(
    "words",
    [
        ["train.scheduler=cosine_with_min_lr", "train.args.lr_scheduler_kwargs={min_lr: 1e-6}"],
        ["train.scheduler=warmup_stable_decay", "train.args.lr_scheduler_kwargs.num_decay_steps=2"],
        ["train.scheduler=inverse_sqrt", "train.warmup_steps=0"],
        ["train.args.dataloader_num_workers=2", "train.args.dataloader_prefetch_factor=3"],
        ["train.report_to=none"],
        ["train.report_to=all"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_can_be_built_is_not_refused(words: list[str]) -> None:
    check(*words)


# The package that each optimiser's authors ask for, by hand; torch and transformers have the rest.
PACKAGES = {
    "bitsandbytes": ["adamw_bnb_8bit", "adamw_8bit", "lion_32bit", "lion_8bit", "ademamix",
                     "ademamix_8bit", "rmsprop_bnb", "rmsprop_bnb_8bit", "rmsprop_bnb_32bit"],
    "torchao": ["adamw_torch_4bit", "adamw_torch_8bit"],
    "lomo_optim": ["lomo", "adalomo"],
    "grokadamw": ["grokadamw"],
    "schedulefree": ["schedule_free_radam", "schedule_free_adamw", "schedule_free_sgd"],
    "optimi": ["stable_adamw"],
    "torch_npu": ["adamw_torch_npu_fused"],
    "torch_xla": ["adamw_torch_xla"],
    "torchdistx": ["adamw_anyprecision"],
}  # fmt: skip


def test_an_optimiser_whose_package_is_missing_is_refused() -> None:
    run = compose_run("unlearn", ["hardware=cpu"])
    assert isinstance(run, UnlearnRun)

    def try_optimiser(name: str) -> None:
        run.train.optim = name
        check_training_arguments(run)

    here = ["adafactor", "adagrad", "adamw_torch", "adamw_torch_fused", "rmsprop", "sgd"]
    for name in here:
        try_optimiser(name)
    missing = {p for p in PACKAGES if importlib.util.find_spec(p) is None}
    for package in missing:
        for name in PACKAGES[package]:
            refused(lambda n=name: try_optimiser(n), f"train.optim={name}: ")
    paged = [o.value for o in OptimizerNames if o.value.startswith("paged_")]
    if "bitsandbytes" not in missing:  # each is tried by a step on the CPU, paged ones too
        for name in [*PACKAGES["bitsandbytes"], *paged]:
            try_optimiser(name)
    with_packages = {name for names in PACKAGES.values() for name in names}
    asking = ("galore_", "apollo_", "paged_")
    rest = {o.value for o in OptimizerNames} - with_packages - set(here)
    assert all(name.startswith(asking) for name in rest), rest


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "mlflow", "comet_ml", "flyte"])
def test_a_logger_that_is_not_installed_is_refused(name: str) -> None:
    package = {"comet_ml": "comet-ml", "flyte": "flytekit"}.get(name, name)
    if importlib.util.find_spec(package.replace("-", "_")) is not None:
        pytest.skip(f"{package} is installed")
    refused(lambda: check(f"train.report_to={name}"), f"train.report_to={name}: ", package)


def test_the_trial_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["hardware.args.fsdp=true", "hardware.args.fsdp_config.fsdp_version=2"]
    run = compose_run("unlearn", given)
    assert isinstance(run, UnlearnRun)
    before = str(run)
    check_training_arguments(run)
    assert str(run) == before
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError):
        check("train.optim=nosuch")
