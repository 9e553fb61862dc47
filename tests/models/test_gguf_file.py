"""GGUF files of tiny random models, loaded back: the same logits, the same tokens."""

from __future__ import annotations

from collections import Counter
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

from undial_cli.errors import WorldError
from undial_cli.models import gguf_fields, gguf_file
from undial_cli.models.gguf_kinds import COARSE, LOGIT_BOUNDS
from undial_cli.models.gguf_vocabulary import describe_vocabulary

GGUFReader = pytest.importorskip("gguf").GGUFReader

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


@pytest.mark.parametrize("quantise", [name for name in LOGIT_BOUNDS if name != "f16"])
def test_weights_are_rounded_as_asked_and_the_file_has_what_was_foretold(
    quantise: str, tmp_path: Path
) -> None:
    model, tokenizer = make_model("llama")
    weights = gguf_file.measure_gguf_weights(model, quantise)
    file = tmp_path / "x.gguf"
    comparison, _ = compare_file(file, model, tokenizer, quantise)
    assert comparison.find_fault() is None
    assert comparison.rounded_change < 1e-5
    stored = GGUFReader(file).tensors
    kinds = Counter(tensor.tensor_type.name.lower() for tensor in stored)
    assert kinds == weights.kinds
    assert weights.bytes == sum(tensor.n_bytes for tensor in stored)
    (embedding,) = (tensor for tensor in stored if tensor.name == "token_embd.weight")
    outer = "q8_0" if quantise in COARSE else quantise
    assert embedding.tensor_type.name.lower() == outer


def test_rows_that_lie_otherwise_are_noticed_at_any_rounding(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gguf_fields, "pair_rotary_rows", lambda rows, heads: torch.arange(rows))
    model, tokenizer = make_model("llama")
    comparison, _ = compare_file(tmp_path / "x.gguf", model, tokenizer, "q4_0")
    assert "same rounded weights" in str(comparison.find_fault())


def test_a_weight_that_f16_cannot_hold_is_named(tmp_path: Path) -> None:
    model, tokenizer = make_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = 1e5
    with pytest.raises(WorldError, match=r"blk\.1\.ffn_up\.weight .*quantise=bf16"):
        gguf_file.write_gguf(tmp_path / "x.gguf", model, tokenizer, "f16", "tiny")


def test_the_factors_of_llama3_are_those_of_its_rotation() -> None:
    config = LlamaConfig(**{**SIZES, "rope_parameters": LLAMA3_ROPE})
    factors = gguf_fields.compute_rope_factors(config)
    assert factors is not None
    assert factors.shape == (8,)  # half a head's width
    torch.testing.assert_close(factors[[0, -1]], torch.tensor([1.0, LLAMA3_ROPE["factor"]]))
    assert gguf_fields.compute_rope_factors(LlamaConfig(**SIZES)) is None


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
UNSTATED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "another family": (BloomConfig(), ("type 'bloom'", "qwen2", "convert_hf_to_gguf.py")),
    "biases": (LlamaConfig(attention_bias=True), ("attention_bias=true", "convert_hf_to_gguf")),
    "activation": (Qwen2Config(hidden_act="gelu"), ("activation is gelu",)),
    "rotation": (LlamaConfig(rope_parameters=YARN), ("rope_type is yarn",)),
    "scale of queries": (Gemma2Config(query_pre_attn_scalar=144), ("query_pre_attn_scalar=144",)),
    "a head of its own": (Gemma3TextConfig(tie_word_embeddings=False), ("weights of its own",)),
    "windows": (
        Qwen3Config(num_hidden_layers=1, layer_types=["sliding_attention"], sliding_window=8),
        ("layer 0 is of sliding_attention",),
    ),
}


@pytest.mark.parametrize("name", UNSTATED)
def test_what_a_file_cannot_state_is_refused(name: str) -> None:
    config, parts = UNSTATED[name]
    refused(lambda: gguf_fields.find_gguf_family(config), "format=gguf", *parts)


def test_a_split_is_known_by_what_it_does() -> None:
    tokenizer = FAMILIES["smollm2"]()
    assert describe_vocabulary(tokenizer, len(tokenizer)).split == "gpt-2"
    level = tokenizer.backend_tokenizer.pre_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, level])
    vocabulary = describe_vocabulary(tokenizer, len(tokenizer))
    assert vocabulary.split == "smollm"
    assert not vocabulary.is_read_back(skips_merges=False)


@pytest.mark.parametrize(
    "family, part", [("qwen2", "no name here"), ("t5", "Unigram"), ("cohere", "the model 3 rows")]
)
def test_a_tokenizer_that_has_no_description_is_refused(family: str, part: str) -> None:
    tokenizer = FAMILIES[family]()  # those of qwen2 here are cut up by an expression of nobody's
    rows = 3 if family == "cohere" else len(tokenizer)
    refused(lambda: describe_vocabulary(tokenizer, rows), "format=gguf", part)
