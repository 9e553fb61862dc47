"""The models that have a name: what docs/models.md says of them, and that a run can be planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import list_options, write_qa
from families import FAMILIES
from model_families import tiny_config
from omegaconf import OmegaConf

from undial_cli.cli import run_command
from undial_cli.config.training import RatesConfig
from undial_cli.runs.hydra_configs import find_config_folder

DOC = Path(__file__).resolve().parents[2] / "docs" / "models.md"
TRAINED = {"none": "whole", "lora": "LoRA", "qlora": "LoRA on 4 bits"}

# By model: its architecture, its tokenizer, and what the plan says of how it is trained.
MODELS = {
    "gemma3_4b": ("gemma3", "gemma3", "teacher's head, frozen"),
    "llama70b": ("llama", "llama31", "linear layers in 4 bits"),
    "smollm3_3b": ("smollm3", "smollm3", "teacher's head, frozen"),
    "mistral7b": ("mistral", "mistral3", "optimiser"),
}


def read_yaml(*names: str) -> dict[str, Any]:
    """A file of configs/, or nothing."""
    file = find_config_folder().joinpath(*names)
    return OmegaConf.to_container(OmegaConf.load(file)) if file.is_file() else {}  # type: ignore[return-value]


def describe_model(name: str) -> str:
    """A shipped model's line of the table."""
    model = read_yaml("model", f"{name}.yaml")
    adapter = model.get("adapter", "none")
    rates = read_yaml("recipe", "unlearn", f"{name}.yaml").get("learning_rates", {})
    rate = float(rates.get(adapter, getattr(RatesConfig(), adapter)))
    return f"| `{name}` | {model['base']} | {TRAINED[adapter]} | {rate:g} |"


def test_the_table_of_names_is_what_the_configs_say() -> None:
    part = DOC.read_text().partition("## By name")[2].partition("\n## ")[0]
    (_, *lines) = [line for line in part.splitlines() if line.startswith("| `")]
    assert lines == [describe_model(name) for name in list_options("model")]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_a_run_is_planned(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    family, tokenizer, said = MODELS[model]
    monkeypatch.chdir(tmp_path)
    config, words = tiny_config(family), FAMILIES[tokenizer]()
    config.get_text_config(decoder=True).vocab_size = len(words)
    config.save_pretrained("tiny")
    words.save_pretrained("tiny")
    write_qa(tmp_path / "forget.jsonl", 4)
    code = run_command([
        "unlearn", f"model={model}", "model.path=tiny", "data=jsonl", "eval=none",
        "data.forget_file=forget.jsonl", "hardware=cpu", "plan=true", "method.retain=none",
    ])  # fmt: skip
    out = capsys.readouterr().out
    assert (code, f"plan: unlearn {model} on jsonl" in out, said in out) == (0, True, True)
