"""Loading: seeds, dtypes, adapters on their bases, attention that is not there."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused
from peft import PeftModel
from small import TINY, random_llama
from torch import nn
from transformers import (
    AutoModelForCausalLM,
)

from undial_cli.config.models import ModelConfig
from undial_cli.config.training import AdapterConfig
from undial_cli.errors import UserError
from undial_cli.models import inspection
from undial_cli.models.head import TargetHead, find_output_head
from undial_cli.models.load import load_model
from undial_cli.models.lora import adapt_model

IDS = torch.tensor([[1, 5, 9, 30, 2, 7]])


def test_a_model_from_scratch_is_fixed_by_its_seed_alone() -> None:
    config = ModelConfig(base=TINY, from_scratch=True)
    torch.manual_seed(1)
    first = load_model(config, TINY, seed=3)
    torch.manual_seed(2)
    again, other = load_model(config, TINY, seed=3), load_model(config, TINY, seed=4)
    weights = [dict(m.state_dict()) for m in (first, again, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["lm_head.weight"], weights[2]["lm_head.weight"])
    assert not first.training


def test_a_model_from_scratch_needs_leave() -> None:
    with pytest.raises(UserError, match=r"model\.path="):
        load_model(ModelConfig(base=TINY), TINY)


def test_saved_weights_come_back_in_the_dtype_asked_for(tmp_path: Path) -> None:
    model = random_llama()
    model.save_pretrained(tmp_path)
    loaded = load_model(ModelConfig(dtype="float32"), str(tmp_path))
    assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(plain.eval()(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert load_model(ModelConfig(dtype="bfloat16"), str(tmp_path)).dtype == torch.bfloat16


@pytest.fixture
def adapted(tmp_path: Path) -> tuple[nn.Module, Path, Path]:
    """A LoRA model with weights that matter, and where its base and its adapter are saved."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    random_llama().save_pretrained(base)
    model: Any = adapt_model(
        load_model(ModelConfig(), str(base)), AdapterConfig(name="lora", dropout=0.1), seed=0
    )
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(adapter)
    return model.eval(), base, adapter


@torch.no_grad()
def test_a_saved_adapter_is_reloaded_by_plain_peft(adapted: tuple[Any, Path, Path]) -> None:
    model, base, adapter = adapted
    ours = model(input_ids=IDS).logits
    plain_base = AutoModelForCausalLM.from_pretrained(base).eval()
    assert not torch.allclose(plain_base(input_ids=IDS).logits, ours, atol=1e-2)
    plain = PeftModel.from_pretrained(plain_base, adapter).eval()
    assert torch.equal(plain(input_ids=IDS).logits, ours)


@torch.no_grad()
def test_loading_an_adapter_merges_it_into_its_base(adapted: tuple[Any, Path, Path]) -> None:
    model, _, adapter = adapted
    merged = load_model(ModelConfig(), str(adapter))
    assert isinstance(find_output_head(merged), TargetHead)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(
        merged(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=1e-4, atol=1e-4
    )


def test_an_attention_whose_package_is_not_there_is_refused_by_its_own_key() -> None:
    if importlib.util.find_spec("flash_attn") is not None:
        pytest.skip("flash_attn is installed")
    config = ModelConfig(base=TINY, from_scratch=True, attn_implementation="flash_attention_2")
    key = "model.attn_implementation=flash_attention_2"
    refused(lambda: inspection.check_model(config, TINY), key, "eager")
