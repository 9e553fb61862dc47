"""GGUF files of tiny random models, loaded back: the same logits, the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused
from families import FAMILIES
from tokenizers import Regex, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from undial_cli.errors import UserError, WorldError
from undial_cli.models import gguf_fields, gguf_file
from undial_cli.models.gguf_vocabulary import describe_vocabulary

pytest.importorskip("gguf")

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.1,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3_ROPE = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
}  # fmt: skip
GEMMA: dict[str, Any] = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 32}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}
# A model of each family, and the tokenizer that goes with it.
MODELS: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "llama": (LlamaConfig, {"tie_word_embeddings": True}, "smollm2"),
    "llama2": (LlamaConfig, {}, "llama2"),
    "llama3": (LlamaConfig, {"rope_parameters": LLAMA3_ROPE}, "llama3"),
    "mistral": (MistralConfig, {"head_dim": 16, "sliding_window": 64}, "mistral"),
    "qwen2": (Qwen2Config, {}, "qwen2"),
    "qwen3": (Qwen3Config, {"head_dim": 32}, "qwen3"),
    "phi3": (Phi3Config, {}, "phi3"),
    "gemma2": (Gemma2Config, GEMMA, "gemma"),
    "gemma3": (
        Gemma3TextConfig, {**GEMMA, "num_hidden_layers": 7, "rope_parameters": GEMMA3_ROPE}, "gemma"
    ),
}  # fmt: skip
SPLITS = {"llama3": "llama-bpe", "qwen2": "qwen2", "qwen3": "qwen2"}


def make_tokenizer(family: str) -> Any:
    """A family's tokenizer, with the very expression that cuts its texts up."""
    tokenizer = FAMILIES[family]()
    if family in SPLITS:
        split = Regex(GGUF_PRE_TOKENIZER_SPLITS[SPLITS[family]])
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(split, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    return tokenizer


def make_model(name: str, **more: Any) -> tuple[Any, Any]:
    """A random model, all of whose weights matter, and its tokenizer; seven rows are nobody's."""
    kind, fields, family = MODELS[name]
    tokenizer = make_tokenizer(family)
    torch.manual_seed(0)
    config = kind(**{**SIZES, "vocab_size": len(tokenizer) + 7, **fields, **more})
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():  # norms and biases would be ones and zeros
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model, tokenizer


def compare_file(
    file: Path, model: Any, tokenizer: Any, quantise: str
) -> tuple[gguf_file.GgufComparison, list[str]]:
    """Write a model and load it back: what the file says, and what transformers did not read."""
    longest = gguf_fields.find_context_length(model.config)
    rows = gguf_file.encode_fixed_texts(tokenizer, longest)
    before = gguf_file.compute_text_logits(model, rows)
    gguf_file.write_gguf(file, model, tokenizer, quantise, "tiny")
    rounded = gguf_file.compute_text_logits(model, rows)
    loaded, loaded_tokenizer, unread = gguf_file.load_gguf_back(file, model.config)
    assert gguf_file.encode_fixed_texts(loaded_tokenizer, longest) == rows
    after = gguf_file.compute_text_logits(loaded, rows)
    return gguf_file.compare_text_logits(quantise, before, rounded, after), unread


@pytest.mark.parametrize("name", MODELS)
def test_a_file_says_what_its_model_says(name: str, tmp_path: Path) -> None:
    model, tokenizer = make_model(name)
    comparison, unread = compare_file(tmp_path / "x.gguf", model, tokenizer, "f16")
    assert comparison.find_fault() is None
    assert comparison.change < 1e-2
    assert comparison.rounded_change < 1e-5
    assert set(unread) <= set(gguf_fields.UNREAD_FIELDS)
