"""Generated answers against a plain greedy loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from questions import ENCODER, QUESTIONS, TOKENIZER
from small import random_llama

from undial_cli.config.training import AdapterConfig
from undial_cli.evaluation.decoding import Decoding
from undial_cli.evaluation.generation import GeneratingModel, collect_end_tokens
from undial_cli.evaluation.generation import generate_answers as generate_ids
from undial_cli.models.lora import adapt_model


@pytest.fixture(scope="module")
def model() -> Any:
    return random_llama(vocab=len(TOKENIZER))


def generate(
    model: Any, prompts: list[list[int]], batch_size: int, tokens: int, ends: set[int]
) -> list[str]:
    """Greedy answers as text."""
    generator = GeneratingModel(model, TOKENIZER)
    how = Decoding(tokens, collect_end_tokens(generator, ends))
    found = generate_ids(generator, "test", prompts, how, batch_size)
    return [ENCODER.decode(ids).strip() for ids in found]


@torch.no_grad()
def plain_greedy(model: Any, prompt: list[int], tokens: int, ends: set[int]) -> str:
    """Greedy decoding by hand: no cache, no padding."""
    ids = list(prompt)
    for _ in range(tokens):
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return TOKENIZER.decode(ids[len(prompt) :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_generation_is_plain_greedy_decoding_at_any_batch_size(model: Any, batch_size: int) -> None:
    prompts = [e.prompt_ids for e in ENCODER.encode(QUESTIONS)]
    assert len({len(p) for p in prompts}) > 1
    found = generate(model, prompts, batch_size, 10, set())
    expected = [plain_greedy(model, p, 10, {TOKENIZER.eos_token_id}) for p in prompts]
    assert found == expected
    assert len(set(found)) > 1


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_generation_ignores_the_decoding_settings_that_come_with_a_model(adapter: str) -> None:
    base = random_llama(vocab=len(TOKENIZER))
    prompts = [e.prompt_ids for e in ENCODER.encode(QUESTIONS[:4])]
    expected = [plain_greedy(base, p, 10, {TOKENIZER.eos_token_id}) for p in prompts]
    given = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_new_tokens": 9}
    base.generation_config.update(do_sample=True, temperature=9.0, **given)
    model = adapt_model(base, AdapterConfig(name=adapter), seed=0).eval()
    assert generate(model, prompts, 4, 10, set()) == expected
    assert base.generation_config.to_dict().items() >= given.items()


def test_generation_stops_at_the_end_token_of_the_template(model: Any) -> None:
    prompt = ENCODER.encode(QUESTIONS[:1])[0].prompt_ids
    output = model.generate(
        torch.tensor([prompt]), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    third = int(output[0, len(prompt) + 2])
    (stopped,) = generate(model, [prompt], 1, 6, {third})
    assert stopped == plain_greedy(model, prompt, 6, {third, TOKENIZER.eos_token_id})
    (free,) = generate(model, [prompt], 1, 6, set())
    assert free.startswith(stopped)
    assert len(free) > len(stopped)
