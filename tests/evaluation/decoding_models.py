"""Architectures whose decoding differs, and a plain argmax loop to hold it against."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from small import random_llama
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from undial_cli.models.head import install_head

VOCAB, LONGEST, NEW = 64, 24, 16
WINDOW = 6  # shorter than the texts
COMMON = {"vocab_size": VOCAB, "initializer_range": 0.2, "pad_token_id": 0, "eos_token_id": 2}
LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    **COMMON,
}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: random_llama(VOCAB),
    # No position to spare: the longest prompt and its answer fill them all.
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=LONGEST + NEW, **COMMON)
    ),
    "gpt_neo": lambda: GPTNeoForCausalLM(
        GPTNeoConfig(
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=WINDOW,
            max_position_embeddings=LONGEST + NEW,
            **COMMON,
        )
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(sliding_window=WINDOW, **LLAMA_LIKE)),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1, **LLAMA_LIKE
        )
    ),
    "mamba": lambda: MambaForCausalLM(
        MambaConfig(
            hidden_size=32, num_hidden_layers=2, state_size=8, tie_word_embeddings=False, **COMMON
        )
    ),
    "lfm2": lambda: Lfm2ForCausalLM(
        Lfm2Config(**LLAMA_LIKE, layer_types=["conv", "full_attention"])
    ),
}
STATEFUL = ["mamba", "lfm2"]
PLAIN = [name for name in MODELS if name not in STATEFUL]


@functools.cache
def model_of(name: str, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]()
    install_head(model)
    return model.to(dtype).eval()


@torch.no_grad()
def plain_greedy(model: Any, prompt: list[int], tokens: int, ends: Any = ()) -> list[int]:
    ids = list(prompt)
    for _ in range(tokens):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] in ends:
            break
    return ids[len(prompt) :]


class Rows:
    """While open, notes the rows and columns of every forward pass of a model."""

    def __init__(self, model: Any):
        self.shapes: list[tuple[int, ...]] = []
        self.hook = model.register_forward_pre_hook(
            lambda module, args, kwargs: self.shapes.append(tuple(kwargs["input_ids"].shape)),
            with_kwargs=True,
        )

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *error: object) -> None:
        self.hook.remove()
