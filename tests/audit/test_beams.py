"""Beam search against all answers there are, and what ends one."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from small import random_llama

from undial_cli.audit.beams import search_beams
from undial_cli.evaluation.decoding import Decoding, decode_prompts
from undial_cli.evaluation.sharding import NO_JOURNAL

VOCAB, END = 5, 2
PROMPTS = [[3, 4], [4, 3, 1], [4, 4]]


@torch.no_grad()
def score_answer(model: Any, prompt: list[int], answer: list[int]) -> float:
    """Mean log-probability per token, the end token one of them."""
    log_p = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    return sum(float(log_p[len(prompt) + i - 1, y]) for i, y in enumerate(answer)) / len(answer)


@pytest.mark.parametrize("seed", range(2))
def test_as_many_beams_as_answers_find_the_likeliest(seed: int) -> None:
    model = random_llama(vocab=VOCAB, seed=seed)
    how = Decoding(3, frozenset({END}))
    every = [
        list(ids)
        for size in (1, 2, 3)
        for ids in itertools.product(range(VOCAB), repeat=size)
        if END not in ids[:-1] and (ids[-1] == END or size == 3)
    ]
    best = search_beams(model, "all", PROMPTS, how, VOCAB**2, VOCAB**2 * 2, NO_JOURNAL)
    greedy: dict[int, list[int]] = {}
    decode_prompts(model, dict(enumerate(PROMPTS)), 4, how, greedy.__setitem__)
    for n, (prompt, ids) in enumerate(zip(PROMPTS, best, strict=True)):
        likeliest = max(every, key=lambda answer: score_answer(model, prompt, answer))
        assert ids == how.without_end(likeliest)
        assert score_answer(model, prompt, likeliest) >= score_answer(model, prompt, greedy[n])


def test_a_batch_gives_what_each_prompt_gives_alone() -> None:
    model = random_llama()
    model.generation_config.repetition_penalty = 9.0  # a model's own settings stay out of it
    prompts = [[3, 4, 5], [7, 8], [9, 10, 11], [20, 21, 22], [5]]
    how = Decoding(6, frozenset({END}))
    together = search_beams(model, "all", prompts, how, 3, 9, NO_JOURNAL)
    alone = [search_beams(model, "one", [p], how, 3, 1, NO_JOURNAL)[0] for p in prompts]
    assert together == alone
    assert model.generation_config.repetition_penalty == 9.0
    model.generation_config.repetition_penalty = None
    assert together == search_beams(model, "all", prompts, how, 3, 9, NO_JOURNAL)
