"""Stored PEFT adapters: bases, revisions, kinds, tokens that they add, merging."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused
from peft import IA3Config, LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from small import disturb_weights, random_llama
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
)

from undial_cli.config.models import ModelConfig
from undial_cli.config.training import AdapterConfig
from undial_cli.errors import UserError, WorldError
from undial_cli.models.adapters import merge_adapter, order_adapter_modules
from undial_cli.models.fingerprints import find_adapter_revision, fingerprint_weights
from undial_cli.models.inspection import check_model
from undial_cli.models.load import load_model, load_tokenizer
from undial_cli.models.lora import add_lora
from undial_cli.runs.hydra_configs import PACKAGE_FOLDER

IDS = torch.tensor([[1, 5, 9, 30, 2, 7]])
LORA = AdapterConfig(name="lora", dropout=0.0)
ON_ATTENTION: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": ["q_proj", "v_proj"]}


@torch.no_grad()
def model_logits(model: Any) -> Tensor:
    return model.eval()(input_ids=IDS).logits


def save_adapter(base: Path, folder: Path, config: Any, **changes: Any) -> Tensor:
    """A disturbed adapter on a base in `folder`, its config changed; its unmerged logits."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    disturb_weights(model)
    model.save_pretrained(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return model_logits(model)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The local copy of a hub repository `org/two` whose main and v1 hold different weights."""
    from huggingface_hub import constants

    root = tmp_path / "hub" / "models--org--two"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folders, commits = {}, {"main": "a" * 40, "v1": "b" * 40}
    (root / "refs").mkdir(parents=True)
    tiny = PACKAGE_FOLDER / "models" / "tiny"
    for seed, (name, commit) in enumerate(commits.items()):
        shape = AutoConfig.from_pretrained(tiny)
        shape.num_hidden_layers, shape.initializer_range = 1, 0.2
        torch.manual_seed(seed)
        folders[name] = root / "snapshots" / commit
        AutoModelForCausalLM.from_config(shape).save_pretrained(folders[name])
        AutoTokenizer.from_pretrained(tiny).save_pretrained(folders[name])
        (root / "refs" / name).write_text(commit)
    return folders


@pytest.mark.parametrize("path, on, remembers", [
    ("org/two@v1", "v1", "v1"), ("org/two", "main", "a" * 40), ("org/two@main", "main", "main"),
])  # fmt: skip
def test_an_adapter_remembers_the_revision_it_lies_on(
    path: str, on: str, remembers: str, hub: dict[str, Path], tmp_path: Path
) -> None:
    config = ModelConfig()
    model = add_lora(load_model(config, path), LORA, 0, find_adapter_revision(config, path))
    disturb_weights(model)
    model.save_pretrained(tmp_path / "adapter")
    stored = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (stored["base_model_name_or_path"], stored["revision"]) == ("org/two", remembers)
    again = load_model(config, str(tmp_path / "adapter"))
    assert_close(model_logits(again), model_logits(model))
    plain = AutoModelForCausalLM.from_pretrained(hub[on])
    assert_close(
        model_logits(PeftModel.from_pretrained(plain, tmp_path / "adapter")), model_logits(model)
    )


def test_a_main_that_moved_since_leaves_an_adapter_where_it_was(
    hub: dict[str, Path], tmp_path: Path
) -> None:
    config = ModelConfig()
    model = add_lora(
        load_model(config, "org/two"), LORA, 0, find_adapter_revision(config, "org/two")
    )
    disturb_weights(model)
    model.save_pretrained(tmp_path / "adapter")
    (hub["main"].parents[1] / "refs" / "main").write_text("b" * 40)
    assert_close(model_logits(load_model(config, str(tmp_path / "adapter"))), model_logits(model))


def test_the_fingerprint_of_an_adapter_is_that_of_its_base_at_its_revision(
    hub: dict[str, Path], tmp_path: Path
) -> None:
    seen = set()
    for revision in (None, "v1", "a" * 40):
        folder = tmp_path / "adapter"
        save_adapter(hub["main"], folder, LoraConfig(**ON_ATTENTION),
                     base_model_name_or_path="org/two")  # fmt: skip
        file = folder / "adapter_config.json"
        fixed = json.loads(file.read_text())
        fixed["revision"] = revision
        file.write_text(json.dumps(fixed))
        seen.add(fingerprint_weights(ModelConfig(), str(folder))[-40:])
    assert seen == {"a" * 40, "b" * 40}


@pytest.mark.parametrize("named", ["../target", "target", "."])
def test_a_relative_base_is_looked_for_from_here_then_from_the_adapter(
    named: str, random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = save_adapter(
        random_model,
        tmp_path / "adapter",
        LoraConfig(**ON_ATTENTION),
        base_model_name_or_path=named,
    )
    (tmp_path / "elsewhere").mkdir()
    if named == ".":
        monkeypatch.chdir(random_model)
    else:
        beside = tmp_path / "elsewhere" if named == "target" else tmp_path
        shutil.copytree(random_model, beside / "target")
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert_close(model_logits(load_model(ModelConfig(), str(tmp_path / "adapter"))), expected)


@pytest.mark.parametrize("named", ["/nowhere/llama", "../gone", "org/absent", ""])
def test_a_base_that_is_gone_is_named_with_its_adapter_and_the_remedy(
    named: str, random_model: Path, tmp_path: Path
) -> None:
    adapter = tmp_path / "adapter"
    expected = save_adapter(
        random_model, adapter, LoraConfig(**ON_ATTENTION), base_model_name_or_path=named
    )
    with pytest.raises((UserError, WorldError)) as caught:
        check_model(ModelConfig(), str(adapter))
    line = str(caught.value)
    assert "\n" not in line
    for part in (str(adapter), named, "model.adapter_base=PATH"):
        assert part in line
    config = ModelConfig(adapter_base=str(random_model))
    check_model(config, str(adapter))
    assert_close(model_logits(load_model(config, str(adapter))), expected)


def test_a_base_that_is_there_is_taken_whatever_adapter_base_says(
    random_model: Path, untied_model: Path, tmp_path: Path
) -> None:
    expected = save_adapter(random_model, tmp_path / "adapter", LoraConfig(**ON_ATTENTION))
    config = ModelConfig(adapter_base=str(untied_model))
    assert_close(model_logits(load_model(config, str(tmp_path / "adapter"))), expected)


def test_an_adapter_without_a_tokenizer_has_its_bases(random_model: Path, tmp_path: Path) -> None:
    save_adapter(random_model, tmp_path / "bare", LoraConfig(**ON_ATTENTION))
    bases = load_tokenizer(ModelConfig(), str(random_model))
    found = load_tokenizer(ModelConfig(), str(tmp_path / "bare"))
    assert found.get_vocab() == bases.get_vocab()
    assert found.chat_template == bases.chat_template
    own = AutoTokenizer.from_pretrained(random_model)
    own.add_tokens(["<new>"])
    own.save_pretrained(tmp_path / "bare")
    assert "<new>" in load_tokenizer(ModelConfig(), str(tmp_path / "bare")).get_vocab()


def test_kinds_that_become_weights_are_loaded(random_model: Path, tmp_path: Path) -> None:
    ia3 = IA3Config(
        task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    )  # fmt: skip
    dora = LoraConfig(**ON_ATTENTION, use_dora=True, use_rslora=True)
    for name, config in (("ia3", ia3), ("dora", dora)):
        expected = save_adapter(random_model, tmp_path / name, config)
        assert_close(model_logits(load_model(ModelConfig(), str(tmp_path / name))), expected)


def test_a_kind_that_adds_no_weights_is_refused_by_name(random_model: Path, tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(AutoModelForCausalLM.from_pretrained(random_model), config).save_pretrained(
        tmp_path
    )
    refused(lambda: check_model(ModelConfig(), str(tmp_path)), str(tmp_path), "PROMPT_TUNING")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("options", [
    {"modules_to_save": ["embed_tokens", "lm_head"]}, {"modules_to_save": ["embed_tokens"]}, {},
])  # fmt: skip
def test_an_adapter_that_adds_tokens_brings_their_rows(
    options: dict[str, Any], tied: bool, random_model: Path, untied_model: Path, tmp_path: Path
) -> None:
    folder = random_model if tied else untied_model
    base = AutoModelForCausalLM.from_pretrained(folder)
    rows = len(base.get_input_embeddings().weight)
    base.resize_token_embeddings(rows + 3)
    model: Any = get_peft_model(base, LoraConfig(**ON_ATTENTION, **options))
    disturb_weights(model)
    model.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[1, 5, rows + 2, 7, rows]])
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
        loaded = load_model(ModelConfig(), str(tmp_path / "adapter"))
        assert_close(loaded(input_ids=ids).logits, expected)
        loaded.save_pretrained(tmp_path / "whole")
        assert_close(
            load_model(ModelConfig(), str(tmp_path / "whole"))(input_ids=ids).logits, expected
        )


def test_an_adapter_of_another_model_is_refused_in_one_line(
    random_model: Path, tmp_path: Path
) -> None:
    other = AutoConfig.from_pretrained(random_model)
    other.hidden_size, other.head_dim = 64, 16
    AutoModelForCausalLM.from_config(other).save_pretrained(tmp_path / "other")
    save_adapter(tmp_path / "other", tmp_path / "adapter", LoraConfig(**ON_ATTENTION),
                 base_model_name_or_path=str(random_model))  # fmt: skip
    refused(lambda: load_model(ModelConfig(), str(tmp_path / "adapter")),
            str(tmp_path / "adapter"), "does not fit its base", str(random_model))  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("modules", [["embed_tokens"], ["embed_tokens", "q_proj"], ["all-linear"]])
def test_merging_keeps_the_logits_whatever_is_tied(
    modules: list[str], tied: bool, random_model: Path, untied_model: Path, tmp_path: Path
) -> None:
    """In memory, saved merged, and saved as an adapter that is merged when it is loaded."""
    base = load_model(ModelConfig(), str(random_model if tied else untied_model))
    model = add_lora(base, AdapterConfig(name="lora", dropout=0.0, target_modules=modules), 0)
    disturb_weights(model)
    expected = model_logits(model)
    model.save_pretrained(tmp_path / "adapter")
    assert_close(model_logits(load_model(ModelConfig(), str(tmp_path / "adapter"))), expected)
    merged = merge_adapter(model)
    assert_close(model_logits(merged), expected)
    merged.save_pretrained(tmp_path / "merged")
    assert_close(model_logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), expected)
    shape = AutoConfig.from_pretrained(tmp_path / "merged")
    assert shape.tie_word_embeddings is (tied and modules == ["all-linear"])


def test_a_merge_that_changes_the_logits_is_not_saved(
    random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = add_lora(load_model(ModelConfig(), str(random_model)), LORA, 0)
    disturb_weights(model)
    layer = next(m for m in model.modules() if hasattr(m, "get_delta_weight"))
    own = layer.get_delta_weight
    monkeypatch.setattr(layer, "get_delta_weight", lambda name: 1.5 * own(name))
    with pytest.raises(WorldError, match=r"cannot be merged .* logits move by"):
        merge_adapter(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rounding_alone_is_no_reason_against_a_merge(
    dtype: torch.dtype, random_model: Path
) -> None:
    model = load_model(ModelConfig(dtype=str(dtype).split(".")[1]), str(random_model))
    everything = AdapterConfig(name="lora", dropout=0.0, target_modules=["all-linear"])
    adapted = add_lora(model, everything, 0)
    disturb_weights(adapted, 0.1)
    assert merge_adapter(adapted).dtype == dtype


def test_a_saved_adapter_names_its_modules_in_order(tmp_path: Path) -> None:
    model = get_peft_model(
        random_llama(), LoraConfig(r=2, target_modules=["v_proj", "q_proj", "up_proj", "k_proj"])
    )
    model.save_pretrained(tmp_path)
    order_adapter_modules(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["k_proj", "q_proj", "up_proj", "v_proj"]
    again = PeftModel.from_pretrained(random_llama(), str(tmp_path))
    assert (
        again.peft_config["default"].target_modules == model.peft_config["default"].target_modules
    )  # type: ignore[index]
    order_adapter_modules(tmp_path / "none")  # whole weights have nothing to order
