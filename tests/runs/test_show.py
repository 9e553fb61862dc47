"""`undial show`: every value with its source, as files and words stand in the order of merging."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from undial_cli.cli import run_command
from undial_cli.runs.hydra_configs import find_config_folder


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]):
    """The values that `undial show WORDS --json` prints, by key."""

    def show(*words: str) -> dict[str, dict]:
        assert run_command(["show", *words, "--json"]) == 0
        return {entry["key"]: entry for entry in json.loads(capsys.readouterr().out)}

    return show


def read_line(entry: dict) -> str:
    """The line of a file that is named as the source."""
    return Path(entry["file"]).read_text("utf-8").splitlines()[entry["line"] - 1]


def test_a_value_is_in_the_line_that_is_named_or_nowhere(shown) -> None:
    values = shown("model=llama1b", "data=tofu", "method=npo", "data.limit=3")
    assert {key.split(".")[0] for key in values} == {"model", "data", "method"}
    for entry in values.values():
        if entry["file"] is not None:
            key = entry["key"].rpartition(".")[2]
            assert read_line(entry).strip().startswith(f"{key}:")
    assert values["model.dtype"]["source"] == "configs/model/llama1b.yaml:4"
    assert values["method.retain"]["source"].startswith("configs/recipe/method/npo_tofu.yaml:")
    assert values["data.limit"] | {"value": 3, "source": "command line"} == values["data.limit"]
    assert values["model.path"]["source"] == "default"
    assert values["data.retain_split"] | {
        "value": "retain90", "source": "follows from other keys", "file": None,
    } == values["data.retain_split"]  # fmt: skip


@pytest.mark.slow
def test_the_last_of_several_sources_counts(shown, tmp_path: Path) -> None:
    file = tmp_path / "method" / "undial.yaml"
    file.parent.mkdir()
    text = (find_config_folder() / "method" / "undial.yaml").read_text("utf-8")
    file.write_text(text.replace("strength: 10", "strength: 7"), "utf-8")
    words = ["experiment=debug", "--config-dir", str(tmp_path), "train", "method", "audit"]
    values = shown(*words, "audit=quick", "train.epochs=2", "audit.attack.relearn.epochs=3")
    assert values["method.strength"]["value"] == 7
    assert values["method.strength"]["file"] == str(file)
    assert values["train.max_steps"]["source"].startswith("configs/experiment/debug.yaml:")
    assert values["train.batch_size"]["source"].startswith("configs/recipe/unlearn/tiny.yaml:")
    assert values["train.epochs"]["source"] == "command line"
    assert values["audit.attack.relearn.epochs"]["source"] == "command line"
    assert values["audit.attack.relearn.lora_alpha"]["source"] == "default"


def test_an_interpolation_leads_to_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["show", "train.learning_rate", "adapter=lora"]) == 0
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "3e-3 configs/unlearn.yaml:" in said
    assert "as train.learning_rates.lora (configs/recipe/unlearn/tiny.yaml:4)" in said


def test_another_command_shows_its_keys(shown) -> None:
    values = shown("command=finetune", "experiment=debug", "train.epochs")
    assert values["train.epochs"]["value"] == 1
    assert values["train.epochs"]["source"] == "configs/experiment/debug.yaml"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], ["trian", "no such section or key", "'train'"]),
        (["model=llama1"], ["model=llama1", "'llama1b'"]),
        (["method.strenght=3"], ["method.strenght", "'method.strength'"]),
        (["--jsn"], ["--jsn", "--json"]),
        (["command=unlern"], ["command=unlern", "'unlearn'"]),
        (["--config-dir"], ["--config-dir", "expected a folder"]),
        (["--config-dir", "nowhere"], ["nowhere", "no such folder"]),
        (["seed=1,2"], ["seed=1,2", "several values"]),
        (["tests"], ["run.yaml"]),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    words: list[str], says: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "tests").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run_command(["show", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(part in said for part in says), said
