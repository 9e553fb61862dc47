"""Model folders of somebody else: what is taken, what is said of it, what is never run.

What is refused stands in the table of bad inputs (bad_models.py).
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_models import HostileObject, break_weights, change_tensors, pickle_weights, set_fields
from conftest import refused
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from small import small_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from undial_cli import ui
from undial_cli.config.models import ModelConfig
from undial_cli.models import inspection, load
from undial_cli.models.claims import refuse_broken_weights

IDS = torch.tensor([[1, 5, 9, 30, 2, 7]])


@pytest.fixture
def folder(random_model: Path, tmp_path: Path) -> Path:
    """A model of one's own to change."""
    shutil.copytree(random_model, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that were said."""
    lines: list[str] = []
    monkeypatch.setattr(ui, "say", lambda line, *more, **options: lines.append(str(line)))
    return lines


@torch.no_grad()
def compute_logits(path: Path | str, **config: Any) -> Tensor:
    return load.load_model(ModelConfig(**config), str(path))(input_ids=IDS).logits


def check_folder(folder: Path, **config: Any) -> None:
    inspection.check_model(ModelConfig(**config), str(folder))


@pytest.mark.parametrize("kind", ["gpt2", "neo", "gemma2", "mamba"])
def test_what_a_family_saves_is_taken_without_a_word(
    kind: str, tmp_path: Path, said: list[str]
) -> None:
    small_model(kind, 64).save_pretrained(tmp_path)
    check_folder(tmp_path, attn_implementation="eager")
    assert not said


def test_shards_are_taken_as_one_file_is(folder: Path, said: list[str]) -> None:
    whole = compute_logits(folder)
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="200KB")
    (folder / "model.safetensors").unlink()
    assert len(list(folder.glob("*.safetensors"))) > 3
    check_folder(folder)
    assert torch.equal(compute_logits(folder), whole)
    assert not said


def test_tensors_without_a_place_are_counted_and_left_out(folder: Path, said: list[str]) -> None:
    whole = compute_logits(folder)
    heads = {f"model.mtp.{n}.weight": torch.ones(3) for n in range(5)}
    change_tensors(lambda tensors: tensors.update(heads))(folder / "model.safetensors")
    check_folder(folder)
    (line,) = said
    for part in (f"model.path={folder}", "5 tensors", "model.mtp.0.weight", "..."):
        assert part in line
    assert torch.equal(compute_logits(folder), whole)


def test_layers_beyond_the_config_are_said(folder: Path, said: list[str]) -> None:
    set_fields(num_hidden_layers=1)(folder / "config.json")
    check_folder(folder)
    assert "9 tensors" in said[0]
    assert "model.layers.1" in said[0]


def test_code_that_comes_with_a_model_is_not_run_and_that_is_said(
    folder: Path, said: list[str]
) -> None:
    set_fields(auto_map={"AutoModelForCausalLM": "evil.Model"})(folder / "config.json")
    (folder / "evil.py").write_text("open('pwned', 'w')\nclass Model: pass\n")
    check_folder(folder)
    assert "auto_map" in said[0]
    assert "not run" in said[0]
    set_fields(model_type="unheard", auto_map={"AutoConfig": "evil.Model"})(folder / "config.json")
    refused(lambda: check_folder(folder), f"model.path={folder}", "model.trust_remote_code=true")


def test_pickled_weights_are_read_where_the_user_says_so(folder: Path) -> None:
    whole = compute_logits(folder)
    pickle_weights(folder / "model.safetensors")
    for call in (check_folder, compute_logits):
        refused(lambda call=call: call(folder), f"model.path={folder}", "model.allow_pickle=true")
    check_folder(folder, allow_pickle=True)
    assert torch.equal(compute_logits(folder, allow_pickle=True), whole)
    torch.save({"model.norm.weight": torch.ones(128)}, folder / "pytorch_model.bin")
    refused(lambda: compute_logits(folder, allow_pickle=True), "its weights lack", "embed_tokens")


def test_a_hostile_pickle_is_not_run_even_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(HostileObject()))
    refused(lambda: compute_logits(folder, allow_pickle=True), f"model.path={folder}")
    assert not Path("pwned").exists()


@pytest.fixture
def cached(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model as the hub's cache holds it: a snapshot of links to its blobs."""
    from huggingface_hub import constants

    root = folder.parent / "hub" / "models--org--linked"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root.parent))
    snapshot, blobs = root / "snapshots" / ("c" * 40), root / "blobs"
    for part in (snapshot, blobs, root / "refs"):
        part.mkdir(parents=True)
    (root / "refs" / "main").write_text("c" * 40)
    for number, file in enumerate(sorted(folder.iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def test_links_of_the_hubs_cache_are_followed(cached: Path, random_model: Path) -> None:
    expected = compute_logits(random_model)
    for path in (str(cached), "org/linked"):
        inspection.check_model(ModelConfig(), path)
        assert torch.equal(compute_logits(path), expected)
    (cached / "generation_config.json").unlink()
    (cached / "generation_config.json").symlink_to(cached.parents[3] / "secret.json")
    (cached.parents[3] / "secret.json").write_text("{}")
    for path in (str(cached), "org/linked"):
        check = partial(inspection.check_model, ModelConfig(), path)
        refused(check, path, "secret.json", "copy")


def test_a_folder_of_links_to_another_model_is_taken(random_model: Path, tmp_path: Path) -> None:
    (tmp_path / "farm").mkdir()
    for file in random_model.iterdir():
        (tmp_path / "farm" / file.name).symlink_to(file)
    check_folder(tmp_path / "farm")


@pytest.mark.parametrize("change, parts", [
    (lambda file: pickle_weights(file), ("pickled", "model.allow_pickle=true")),
    (change_tensors(lambda tensors: tensors.popitem()), ("lack 1 tensor",)),
    (change_tensors(break_weights), ("NaN", "layers.1.self_attn.q_proj.weight")),
])  # fmt: skip
def test_weights_of_the_hub_are_looked_at_when_they_are_there(
    change: Callable[[Path], None], parts: tuple[str, ...], cached: Path
) -> None:
    weights = cached / "model.safetensors"
    held = load_file(weights)
    weights.unlink()
    save_file(held, weights, {"format": "pt"})
    change(weights)
    refused(lambda: load.load_model(ModelConfig(), "org/linked"), "model.path=org/linked", *parts)


def test_the_base_that_an_adapter_names_is_said(
    random_model: Path, tmp_path: Path, said: list[str]
) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2)
    base: Any = AutoModelForCausalLM.from_pretrained(random_model)
    get_peft_model(base, config).save_pretrained(str(tmp_path))
    check_folder(tmp_path)
    assert said == [f"adapter {tmp_path}: on the base {random_model}"]
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "x")
    torch.save({}, tmp_path / "adapter_model.bin")
    refused(lambda: check_folder(tmp_path), "adapter_model.bin", "model.allow_pickle=true")


def test_broken_weights_are_told_from_large_ones() -> None:
    model = torch.nn.Linear(64, 64, dtype=torch.float16)
    model.weight.data.fill_(60_000)  # which sum up to infinity
    refuse_broken_weights(model, "model.path=x")
    model.bias.data[3] = torch.inf
    refused(lambda: refuse_broken_weights(model, "model.path=x"), "model.path=x", "1 tensor (bias)")


def test_generation_settings_of_a_known_kind_are_taken(folder: Path) -> None:
    """Of some released models: the library does not save them so any more."""
    content = {"do_sample": False, "temperature": 0.9, "top_p": 0.6}
    (folder / "generation_config.json").write_text(json.dumps(content))
    check_folder(folder)
    load.load_model(ModelConfig(), str(folder))
