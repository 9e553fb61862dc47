"""An experiment, written for unlearn, composes for the commands that lack some of its keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import read_jsonl, refused

from undial_cli.cli import run_command
from undial_cli.config.schema import EvaluateRun, FinetuneRun, UnlearnRun
from undial_cli.runs.compose import compose_run


def test_evaluate_takes_an_experiment_without_its_training(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["experiment=focus_smollm2_cpu", "data.path=tofu", "seed=3"]
    unlearned, evaluated = (compose_run(c, words) for c in ("unlearn", "evaluate"))
    assert isinstance(unlearned, UnlearnRun)
    assert isinstance(evaluated, EvaluateRun)
    for section in ("model", "data", "eval", "target", "seed"):
        assert getattr(evaluated, section) == getattr(unlearned, section)
    line = "undial evaluate takes experiment=focus_smollm2_cpu without train\n"
    assert capsys.readouterr().out == line


def test_finetune_trains_as_an_experiments_target_is_trained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["experiment=focus_smollm2_cpu", "data.path=tofu"]
    unlearned, finetuned = (compose_run(c, words) for c in ("unlearn", "finetune"))
    assert isinstance(unlearned, UnlearnRun)
    assert isinstance(finetuned, FinetuneRun)
    for name, value in vars(unlearned.target).items():
        assert getattr(finetuned.train, name) == value
    assert finetuned.train.max_steps is None
    assert "without train; it trains as target says" in capsys.readouterr().out


@pytest.fixture
def write_experiment(tmp_path: Path) -> Callable[[str, str], str]:
    """Writes an experiment of one's own; the folder of configs."""

    def write(name: str, text: str) -> str:
        file = tmp_path / "experiment" / f"{name}.yaml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"# @package _global_\n{text}")
        return str(tmp_path)

    return write


OPTIONS = "defaults: [{override /method: npo}, {override /adapter: lora}]\n"


def test_options_of_groups_that_a_command_lacks_are_left_out(
    write_experiment: Callable[[str, str], str],
) -> None:
    folder = write_experiment("npo_lora", f"{OPTIONS}data: {{forget_split: 'full[:9]'}}\n")
    run = compose_run("evaluate", ["experiment=npo_lora"], folder)
    assert run.data.forget_split == "full[:9]"
    finetuned = compose_run("finetune", ["experiment=npo_lora"], folder)
    assert isinstance(finetuned, FinetuneRun)
    assert finetuned.adapter.name == "lora"


def test_train_of_an_experiment_without_a_target_is_that_of_finetune(
    write_experiment: Callable[[str, str], str],
) -> None:
    folder = write_experiment("three", "train: {epochs: 3}\n")
    run = compose_run("finetune", ["experiment=three"], folder)
    assert isinstance(run, FinetuneRun)
    assert run.train.epochs == 3


@pytest.mark.slow
def test_keys_that_no_command_has_are_refused_as_ever(
    write_experiment: Callable[[str, str], str],
) -> None:
    folder = write_experiment("misspelt", f"{OPTIONS}trian: {{epochs: 3}}\n")
    for command in ("evaluate", "finetune", "unlearn"):
        refused(lambda: compose_run(command, ["experiment=misspelt"], folder), "trian")  # noqa: B023


@pytest.mark.slow
def test_debug_goes_the_whole_way(tmp_path: Path) -> None:
    words = ["experiment=debug", "hardware=cpu", "name=debug", f"output_dir={tmp_path}"]
    assert run_command(["unlearn", *words]) == 0
    folder = tmp_path / "unlearn" / "debug"
    steps = read_jsonl(folder / "metrics.jsonl")
    assert {row["step"] for row in steps if "retain_loss" in row} == set(range(1, 7))
    assert {row["step"] for row in steps if "forget_truth_ratio" in row} == {3, 6}
    assert {2, 4} <= {row["step"] for row in steps if "forget_probability" in row}
    assert (folder / "checkpoint" / "adapter_model.safetensors").is_file()
    assert (folder / "report" / "report.html").is_file()
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
