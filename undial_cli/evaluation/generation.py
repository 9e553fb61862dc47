"""Generation engine: greedy answers by transformers' own generate, batched by length.

Shared over processes. Knows prompts and a model, no metric.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli import distributed
from undial_cli.data.collate import pad_left, pad_token
from undial_cli.evaluation.scoring import by_length


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase, extra: set[int]) -> list[int]:
    """Every id that ends an answer: the tokenizer's, the model's and the template's."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [*ids, tokenizer.eos_token_id, *extra] if isinstance(i, int)})


@contextlib.contextmanager
def without_defaults(model: Any) -> Iterator[None]:
    """Keep a model's own generation settings (a repetition penalty, say) out of `generate`."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    kept, inner.generation_config = inner.generation_config, GenerationConfig()
    try:
        yield
    finally:
        inner.generation_config = kept


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    batch_size: int,
    max_new_tokens: int,
    ends: set[int],
    advance: Callable[[int], None] = lambda n: None,
) -> list[str]:
    """Greedy continuations of token-id prompts as stripped text, in the order given."""
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=end_tokens(model, tokenizer, ends),
        pad_token_id=pad_token(tokenizer),
    )
    mine = by_length([len(p) for p in prompts])
    found: list[tuple[int, str]] = []
    for start in range(0, len(mine), batch_size):
        chosen = mine[start : start + batch_size]
        batch = pad_left([prompts[i] for i in chosen], pad_token(tokenizer))
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        with without_defaults(model):
            output = model.generate(**batch, generation_config=config)
        texts = tokenizer.batch_decode(
            output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        found += [(i, text.strip()) for i, text in zip(chosen, texts, strict=True)]
        advance(len(chosen))
    answers = dict(distributed.gather(found))
    return [answers[i] for i in range(len(prompts))]
