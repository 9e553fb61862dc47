"""Models in fewer bits are what the usual loader makes of their weights; the head stays whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from small import disturb_weights, small_model
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from undial_cli.config.models import ModelConfig
from undial_cli.config.training import AdapterConfig
from undial_cli.models import lora
from undial_cli.models.head import TargetHead
from undial_cli.models.load import load_model, load_rounded_model
from undial_cli.models.quantise import Rounding, explain_no_quantising, quantise_linears

needs_bitsandbytes = pytest.mark.skipif(
    explain_no_quantising() is not None, reason="bitsandbytes is not installed (undial[qlora])"
)
LOADERS = {
    "nf4": {
        "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_compute_dtype": torch.bfloat16,
    },
    "int8": {"load_in_8bit": True},
}  # fmt: skip


@pytest.fixture(params=["llama", "gpt2"])  # linear layers, and transposed ones
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    small_model(request.param, 64, **({} if request.param == "llama" else {"bos_token_id": 1,
                                                                           "eos_token_id": 2})
                ).save_pretrained(tmp_path)  # fmt: skip
    return tmp_path


@needs_bitsandbytes
@pytest.mark.parametrize("precision", list(LOADERS))
def test_a_quantised_model_is_that_of_the_usual_loader(folder: Path, precision: str) -> None:
    whole, ours = (load_model(ModelConfig(), str(folder)) for _ in range(2))
    count = quantise_linears(ours, Rounding(precision))
    config = BitsAndBytesConfig(**LOADERS[precision])
    theirs: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=config, device_map={"": "cpu"}
    )
    for module in theirs.modules():
        module.support_avx512bf16_for_cpu = False  # a packing that takes no layer of this size
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        assert torch.equal(ours(input_ids=ids).logits, expected)
        assert not torch.allclose(whole(input_ids=ids).logits, expected, atol=1e-3)
    left = [m for m in ours.modules() if type(m) is nn.Linear or type(m).__name__ == "Conv1D"]
    assert left == []
    assert count == sum("bitsandbytes" in type(m).__module__ for m in theirs.modules())
    head = ours.get_output_embeddings()
    assert type(head) is TargetHead
    assert torch.equal(head.weight, whole.get_output_embeddings().weight)


@needs_bitsandbytes
@pytest.mark.parametrize("precision", list(LOADERS))
def test_an_adapter_answers_on_the_rounded_layers_that_it_was_trained_on(
    tmp_path: Path, precision: str
) -> None:
    small_model("llama", 64).save_pretrained(tmp_path / "base")
    adapted: Any = lora.add_lora(
        load_model(ModelConfig(), str(tmp_path / "base")),
        AdapterConfig(name="lora", dropout=0.0),
        0,
    )
    disturb_weights(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    rounding = Rounding(precision, torch.float32, trains=True)
    ours = load_rounded_model(
        ModelConfig(), str(tmp_path / "adapter"), rounding, torch.device("cpu")
    )
    given = {"bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.float32}
    loader = BitsAndBytesConfig(**LOADERS[precision] | (given if precision == "nf4" else {}))
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", dtype=torch.float32, quantization_config=loader, device_map={"": "cpu"}
    )
    for module in base.modules():
        module.support_avx512bf16_for_cpu = False
    theirs = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    if precision == "int8":  # of which bitsandbytes rounds the inputs out of training
        theirs.train()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        assert torch.equal(ours(input_ids=ids).logits, expected)
        assert not torch.allclose(adapted.eval()(input_ids=ids).logits, expected, atol=1e-3)


def test_without_bitsandbytes_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    reason = explain_no_quantising()
    assert reason is not None
    assert "pip install 'undial[qlora]'" in reason
