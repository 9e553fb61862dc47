"""A fresh LoRA: what it is put on, what fixes its numbers, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused, write_qa
from model_families import tiny_config
from safetensors.torch import load_file
from small import random_llama
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    DeepseekV3Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GraniteConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    MptConfig,
    Olmo2Config,
    Phi3Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

import undial_cli
from undial_cli.config.models import ModelConfig
from undial_cli.config.training import AdapterConfig
from undial_cli.errors import UserError
from undial_cli.models.head import install_head
from undial_cli.models.inspection import check_model
from undial_cli.models.lora import adapt_model, add_lora, choose_default_modules

IDS = torch.tensor([[1, 5, 9, 30, 2, 7]])
LORA = AdapterConfig(name="lora", dropout=0.0)


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


@pytest.mark.parametrize("family, text, beside", [
    ("gemma3", "language_model.layers.0.self_attn.q_proj", ["vision_tower", "projector"]),
    ("phi4_multimodal", "layers.0.self_attn.qkv_proj", ["img_processor", "audio_embed.encoder"]),
])  # fmt: skip
@pytest.mark.parametrize("modules", [None, ["all-linear"]], ids=str)
def test_an_adapter_lies_on_what_text_passes_through(
    family: str, text: str, beside: list[str], modules: list[str] | None
) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config(family))
    install_head(model)
    adapted = adapt_model(model, AdapterConfig("lora", target_modules=modules), seed=0)
    names = [name for name, _ in adapted.named_parameters() if "lora_A" in name]
    assert any(text in name for name in names)
    assert not any(part in name for name in names for part in beside)


def test_a_module_beside_the_text_is_no_place_for_an_adapter() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(tiny_config("gemma3"))
    install_head(model)
    config = AdapterConfig(name="lora", target_modules=["fc1"])
    refused(lambda: adapt_model(model, config, seed=0), "adapter.target_modules=fc1", "up_proj")


def test_every_trained_parameter_of_a_model_that_sees_has_a_gradient_from_text() -> None:
    """Or processes that exchange gradients wait for those that never come."""
    model = AutoModelForCausalLM.from_config(tiny_config("gemma3"))
    adapt_model(model, AdapterConfig(), seed=0)(input_ids=IDS).logits.sum().backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in model.named_parameters() if p.grad is not None}
    held = {name for name, _ in model.named_parameters()} - trained
    assert {name.split(".")[1] for name in held} == {"vision_tower", "multi_modal_projector"}


def test_dropout_on_shared_weights_of_experts_is_refused_by_its_own_key() -> None:
    model = AutoModelForCausalLM.from_config(tiny_config("mixtral"))
    install_head(model)
    config = AdapterConfig(name="lora", target_modules=["all-linear"], dropout=0.1)
    refused(lambda: adapt_model(model, config, seed=0), "adapter.dropout=0.1", "allowed is 0")


SHAPE: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
    "num_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MOE = {"moe_intermediate_size": 24}
FAMILIES: dict[str, tuple[Any, set[str]]] = {
    "phi3": (Phi3Config(**SHAPE), {"qkv_proj"}),
    "olmo2": (Olmo2Config(**SHAPE), {"q_proj", "v_proj"}),
    "granite": (GraniteConfig(**SHAPE), {"q_proj", "v_proj"}),
    "cohere": (CohereConfig(**SHAPE), {"q_proj", "v_proj"}),
    "smollm3": (SmolLM3Config(**SHAPE), {"q_proj", "v_proj"}),
    "qwen3": (Qwen3Config(**SHAPE), {"q_proj", "v_proj"}),
    "gemma3_text": (Gemma3TextConfig(**SHAPE), {"q_proj", "v_proj"}),
    "mistral": (MistralConfig(**SHAPE), {"q_proj", "v_proj"}),
    "mixtral": (MixtralConfig(**SHAPE, num_local_experts=4), {"q_proj", "v_proj"}),
    "qwen3_moe": (Qwen3MoeConfig(**SHAPE, **MOE, num_experts=4), {"q_proj", "v_proj"}),
    "gpt_neox": (GPTNeoXConfig(**SHAPE), {"query_key_value"}),
    "mpt": (MptConfig(vocab_size=64, d_model=32, n_heads=4, n_layers=1), {"Wqkv"}),
    "deepseek_v3": (
        DeepseekV3Config(
            **SHAPE, **MOE, n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1,
            q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8,
        ),
        {"all-linear"},
    ),
    "mamba": (
        MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, state_size=8),
        {"in_proj"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_modules_for_a_fresh_adapter(family: str) -> None:
    shape, expected = FAMILIES[family]
    model = AutoModelForCausalLM.from_config(shape)
    install_head(model)
    modules = choose_default_modules(model)
    assert {modules} == expected if isinstance(modules, str) else set(modules) == expected
    head = model.get_output_embeddings()
    adapted = add_lora(model, LORA, 0)
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    assert adapted.get_base_model().get_output_embeddings() is head


@pytest.mark.parametrize("module, parts", [
    ("lm_head", ("adapter.target_modules=lm_head", "head takes no adapter")),
    ("q_prj", ("adapter.target_modules=q_prj", "did you mean 'q_proj'")),
    ("norm", ("adapter.target_modules=norm",)),
])  # fmt: skip
def test_modules_that_take_no_adapter_are_refused_before_weights_are_read(
    module: str, parts: tuple[str, ...], random_model: Path, tmp_path: Path
) -> None:
    shutil.copy(random_model / "config.json", tmp_path)
    config = AdapterConfig(name="lora", target_modules=[module])
    refused(lambda: check_model(ModelConfig(), str(tmp_path), config, weights=False), *parts)


@pytest.mark.slow
def test_recomputed_activations_move_every_part_of_a_fresh_adapter_alike(
    untied_model: Path, tmp_path: Path
) -> None:
    rows = write_qa(tmp_path / "rows.jsonl", 4)
    stored = []
    for recomputed in ("true", "false"):
        undial_cli.run(
            ["model=tiny", f"model.path={untied_model}", "data=jsonl", f"data.forget_file={rows}",
             "adapter=lora", "adapter.dropout=0", f"train.activation_checkpointing={recomputed}",
             "train.max_steps=2", "train.batch_size=4", "train.optim=sgd", "eval=none",
             "report=false", "hardware=cpu", f"output_dir={tmp_path}", f"name=ckpt-{recomputed}"]
        )  # fmt: skip
        file = (
            tmp_path / "unlearn" / f"ckpt-{recomputed}" / "checkpoint" / "adapter_model.safetensors"
        )
        stored.append(load_file(file))
    moved = {name: weight for name, weight in stored[0].items() if "lora_B" in name}
    assert len(moved) == 4  # of two layers, two projections each
    assert all(bool(weight.any()) for weight in moved.values())
    for name, weight in stored[0].items():
        torch.testing.assert_close(weight, stored[1][name])
