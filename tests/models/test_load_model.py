"""Loading, the target head, adapters."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused, write_qa
from model_families import tiny_config
from peft import PeftModel
from small import TINY, random_llama
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
)

from undial_cli.cli import run_command
from undial_cli.config.schema import AdapterConfig, ModelConfig
from undial_cli.errors import UserError
from undial_cli.models import load
from undial_cli.models.fingerprints import fingerprint_weights
from undial_cli.models.head import TargetHead, find_output_head, head_job, install_head
from undial_cli.models.load import load_model
from undial_cli.models.lora import adapt_model

IDS = torch.tensor([[1, 5, 9, 30, 2, 7]])
SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_installing_the_head_keeps_parameters_ties_and_keys(tied: bool) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=tied))
    head, weight = model.lm_head, model.lm_head.weight
    keys, parameters = list(model.state_dict()), [id(p) for p in model.parameters()]
    before = model(input_ids=IDS).logits
    install_head(model)
    assert model.lm_head is head
    assert isinstance(head, TargetHead)
    assert head.weight is weight
    assert (head.weight is model.get_input_embeddings().weight) is tied
    assert list(model.state_dict()) == keys
    assert [id(p) for p in model.parameters()] == parameters
    assert torch.equal(model(input_ids=IDS).logits, before)


def test_installing_the_head_twice_changes_nothing() -> None:
    model = random_llama()
    head = find_output_head(model)
    install_head(model)
    assert find_output_head(model) is head


@pytest.mark.parametrize("family", ["gpt_neo", "phi"])
def test_a_job_gives_the_dense_logits_on_other_architectures(family: str) -> None:
    torch.manual_seed(0)
    if family == "gpt_neo":
        shape = {"hidden_size": 16, "num_layers": 1, "attention_types": [[["global"], 1]]}
        model: Any = GPTNeoForCausalLM(GPTNeoConfig(vocab_size=64, num_heads=2, **shape)).eval()
    else:
        keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                "num_attention_heads")  # fmt: skip
        model = PhiForCausalLM(PhiConfig(**{k: SMALL[k] for k in keys})).eval()
        nn.init.normal_(model.lm_head.bias)
    install_head(model)
    dense = model(input_ids=IDS).logits
    with head_job(model, lambda hidden, head: head.logits(hidden[:, 2:4])):
        chosen = model(input_ids=IDS).logits
    torch.testing.assert_close(chosen, dense[:, 2:4])


def test_a_head_that_is_no_linear_layer_is_refused() -> None:
    model = random_llama()
    model.lm_head = nn.Sequential(nn.Linear(32, 64))
    with pytest.raises(UserError, match="no plain linear layer"):
        install_head(model)


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


def test_a_fresh_adapter_changes_nothing_and_trains_itself_alone() -> None:
    base = random_llama()
    with torch.no_grad():
        before = base(input_ids=IDS).logits
        model = adapt_model(base, AdapterConfig(name="lora", rank=4), seed=0).eval()
        assert torch.equal(model(input_ids=IDS).logits, before)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert {name.split(".")[-4] for name in trained} == {"q_proj", "v_proj"}


def test_a_fresh_adapter_is_fixed_by_its_seed_alone() -> None:
    def first(seed: int) -> torch.Tensor:
        torch.seed()
        model = adapt_model(random_llama(), AdapterConfig(name="lora"), seed=seed)
        return next(p.detach() for n, p in model.named_parameters() if "lora_A" in n)

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))


def test_an_unknown_adapter_module_is_refused_by_name() -> None:
    config = AdapterConfig(name="lora", target_modules=["no_such_proj"])
    with pytest.raises(UserError, match=r"adapter\.target_modules=.*no_such_proj"):
        adapt_model(random_llama(), config, seed=0)


def test_full_fine_tuning_trains_every_parameter() -> None:
    model = random_llama()
    model.requires_grad_(False)
    assert all(p.requires_grad for p in adapt_model(model, AdapterConfig(), seed=0).parameters())


def test_the_fingerprint_of_a_model_from_scratch_is_that_of_its_seed_too() -> None:
    """Else a teacher's numbers, or an evaluation, of one seed would be taken for another's."""
    fresh, whole = ModelConfig(base=TINY, from_scratch=True), ModelConfig(base=TINY)
    first, again, other = (fingerprint_weights(fresh, TINY, seed) for seed in (3, 3, 4))
    assert first == again != other
    assert fingerprint_weights(fresh, TINY) not in (first, other)
    assert fingerprint_weights(whole, TINY, 3) == fingerprint_weights(whole, TINY, 4)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["npo", "undial"])
def test_the_teacher_of_a_model_from_scratch_is_of_the_runs_own_seed(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache"))
    retain, forget = write_qa(tmp_path / "retain.jsonl", 3), tmp_path / "forget.jsonl"
    forget.write_text('{"question": "Who is Ann?", "answer": "Ann is a baker."}\n')
    for seed in (0, 1):
        words = ["unlearn", "model=tiny", f"model.path={TINY}", "data=jsonl",
                 f"data.forget_file={forget}", f"data.retain_file={retain}", "hardware=cpu",
                 f"method={method}", "method.retain=klr", "eval=none", "report=false",
                 "train.max_steps=1", f"seed={seed}", f"output_dir={tmp_path}",
                 f"name=seed-{seed}"]  # fmt: skip
        assert run_command(words) == 0
        metrics = (tmp_path / "unlearn" / f"seed-{seed}" / "metrics.jsonl").read_text()
        first = json.loads(metrics.splitlines()[0])
        assert first["retain_loss"] == pytest.approx(0, abs=1e-6)
        if method == "npo":
            assert first["forget_loss"] == pytest.approx(20 * math.log(2), abs=1e-5)


@pytest.mark.parametrize(
    "family, adapted, other",
    [("llama4_text", "q_proj", "router"), ("falcon", "query_key_value", "lm_head")],
)
def test_all_linear_is_every_layer_that_gives_a_product(
    family: str, adapted: str, other: str
) -> None:
    model = AutoModelForCausalLM.from_config(tiny_config(family))
    install_head(model)
    config = AdapterConfig(name="lora", target_modules=["all-linear"], dropout=0.0)
    names = {
        name
        for name, _ in adapt_model(model, config, seed=0).named_parameters()
        if "lora_A" in name
    }
    assert any(adapted in name for name in names)
    assert not any(other in name for name in names)


def test_dropout_on_shared_weights_of_experts_is_refused_by_its_own_key() -> None:
    model = AutoModelForCausalLM.from_config(tiny_config("mixtral"))
    install_head(model)
    config = AdapterConfig(name="lora", target_modules=["all-linear"], dropout=0.1)
    refused(lambda: adapt_model(model, config, seed=0), "adapter.dropout=0.1", "allowed is 0")


def test_an_attention_whose_package_is_not_there_is_refused_by_its_own_key() -> None:
    if importlib.util.find_spec("flash_attn") is not None:
        pytest.skip("flash_attn is installed")
    config = ModelConfig(base=TINY, from_scratch=True, attn_implementation="flash_attention_2")
    key = "model.attn_implementation=flash_attention_2"
    refused(lambda: load.check_model(config, TINY), key, "eager")
