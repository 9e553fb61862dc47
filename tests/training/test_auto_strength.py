"""The strength that sets itself, through the teacher's cache, against a plain uncached loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import disturb_weights, random_llama
from torch import Tensor, nn

from undial_cli.data.collate import EMPTY_EXAMPLE, Batch, make_padded_batch
from undial_cli.data.encode import IGNORE, Example
from undial_cli.data.other_questions import draw_other_questions
from undial_cli.losses import prior_strengths, undial_target
from undial_cli.methods import METHODS, make_method
from undial_cli.methods.base import PRIOR_LOGPS, Method
from undial_cli.models.head import find_output_head
from undial_cli.training.packing import PACKED_ATTENTION, pack_batch, switch_attention
from undial_cli.training.teacher_cache import CachedTeacher
from undial_cli.training.teacher_pass import TEACHER_PASS_TOKENS
from undial_cli.training.trainer import compute_term_sum

VOCABULARY = 64


def make_examples() -> list[Example]:
    """Nine questions and answers of different lengths; the last one has no target token."""
    generator = torch.Generator().manual_seed(0)
    examples = []
    for i in range(9):
        ids = torch.randint(0, VOCABULARY, (8 + (i * 5) % 11,), generator=generator).tolist()
        prompt = len(ids) if i == 8 else 3 + i % 3
        examples.append(Example(ids, [IGNORE] * prompt + ids[prompt:], len(ids)))
    return examples


EXAMPLES = make_examples()
EVERY = list(range(len(EXAMPLES)))
QUESTIONS = draw_other_questions(9, 3, seed=0)


def make_auto(limit: float = 10.0, name: str = "undial") -> Method:
    config: Any = METHODS[name].config
    return make_method(config(name=name, strength="auto", auto_limit=limit))


def fill_cache(
    model: nn.Module,
    folder: Path,
    collate: Callable[[list[Example], list[int]], Batch] = make_padded_batch,
    questions: list[tuple[int, ...]] = QUESTIONS,
    method: Method | None = None,
) -> CachedTeacher:
    teacher = CachedTeacher(model, folder, "fingerprint", False)
    teacher.add("forget", EXAMPLES, EVERY, method or make_auto(), questions)
    teacher.fill(model, collate)
    return teacher


@torch.no_grad()
def plain_logps(model: Any, prompt: list[int], example: Example) -> Tensor:
    """Log-probabilities [n, V] at an example's targets behind a prompt, in a pass of its own."""
    answer = [i for i, y in zip(example.input_ids, example.labels, strict=True) if y != IGNORE]
    logits_TV = model(input_ids=torch.tensor([prompt + answer])).logits[0]
    return logits_TV[len(prompt) - 1 : -1].log_softmax(-1)


def plain_targets(model: Any, i: int, limit: float) -> Tensor:
    """The target distributions of an example [n, V], by probabilities instead of by logits."""
    example = EXAMPLES[i]
    answer = torch.tensor([y for y in example.labels if y != IGNORE])[:, None]
    if not len(answer):
        return torch.empty(0, VOCABULARY, dtype=torch.float64)
    others = [EXAMPLES[q].prompt_ids or EXAMPLES[q].input_ids for q in QUESTIONS[i]]
    asked = [plain_logps(model, prompt, example).gather(1, answer) for prompt in others]
    prior = torch.stack(asked).mean(0).exp()
    p = plain_logps(model, example.prompt_ids, example).exp()
    own = p.gather(1, answer)
    lowest = own * math.exp(-limit) / (own * math.exp(-limit) + 1 - own)
    wanted = torch.minimum(own, torch.maximum(prior, lowest))
    return (p * (1 - wanted) / (1 - own)).scatter(1, answer, wanted)


def read_targets(teacher: CachedTeacher, model: nn.Module, i: int, method: Method) -> Tensor:
    """What the same is by the cached signal, at the strength that the loss takes."""
    batch = make_padded_batch([EXAMPLES[i]], [i])
    signal = teacher.signal(model, "forget", batch, method)
    assert signal.hidden_ND is not None
    assert signal.prior_N is not None
    logits = (signal.head or find_output_head(model).projection()).logits(signal.hidden_ND)
    strengths = prior_strengths(logits, batch.targets_N, signal.prior_N, method.config.auto_limit)
    return undial_target(logits, batch.targets_N, strengths)


@pytest.mark.parametrize(
    "tokens, collate", [(1, make_padded_batch), (64, pack_batch), (2048, make_padded_batch)]
)
def test_each_tokens_target_is_that_of_a_plain_loop(
    tokens: int, collate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TEACHER_PASS_TOKENS, "cpu", tokens)
    model = random_llama(VOCABULARY, dtype=torch.float64)
    attention = PACKED_ATTENTION if collate is pack_batch else "sdpa"
    with switch_attention(model, attention):
        teacher = fill_cache(model, tmp_path, collate)
    lowered, left = 0, 0
    for limit in (10.0, 1.5):
        method = make_auto(limit)
        for i in EVERY:
            found, expected = (
                read_targets(teacher, model, i, method),
                plain_targets(model, i, limit),
            )
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
            answer = [y for y in EXAMPLES[i].labels if y != IGNORE]
            own = plain_logps(model, EXAMPLES[i].prompt_ids, EXAMPLES[i]) if answer else found
            for wanted, before, y in zip(found, own, answer, strict=True):
                assert wanted[y] <= before[y].exp() + 1e-12
                lowered += int(wanted[y] < before[y].exp() - 1e-9)
                left += int(wanted[y] >= before[y].exp() - 1e-9)
    assert lowered > 20
    assert left > 20


@pytest.mark.parametrize("name, weighs", [("undial", 1.0), ("fundial", 10.0)])
def test_the_loss_is_the_cross_entropy_against_these_targets(
    name: str, weighs: float, tmp_path: Path
) -> None:
    model = random_llama(VOCABULARY, dtype=torch.float64)
    teacher, method = fill_cache(model, tmp_path), make_auto(name=name)
    expected_p = [plain_targets(model, i, 10.0) for i in EVERY]
    disturb_weights(model, 0.3, seed=9)
    indices = [2, -1, 7, 5]
    batch = make_padded_batch([EXAMPLES[i] if i >= 0 else EMPTY_EXAMPLE for i in indices], indices)
    batch.focus_N[::3] = True
    value = compute_term_sum(model, teacher, "forget", method, batch)
    parts = [i for i in indices if i >= 0]
    log_q = torch.cat([plain_logps(model, EXAMPLES[i].prompt_ids, EXAMPLES[i]) for i in parts])
    losses = -(torch.cat([expected_p[i] for i in parts]) * log_q).sum(-1)
    weights = torch.where(batch.focus_N, weighs, 1.0)
    torch.testing.assert_close(value, (losses * weights).sum(), rtol=1e-9, atol=1e-9)


class Counted:
    """A collate function that counts the sequences that the teacher is asked about."""

    count = 0

    def __call__(self, chosen: list[Example], indices: list[int]) -> Batch:
        self.count += sum(i >= 0 for i in indices)
        return make_padded_batch(chosen, indices)


def test_the_signal_is_shared_until_other_questions_are_asked(tmp_path: Path) -> None:
    model = random_llama(VOCABULARY)
    first, again, bounded, plain, other = (Counted() for _ in range(5))
    fill_cache(model, tmp_path, plain, method=make_method(METHODS["undial"].config(name="undial")))
    fill_cache(model, tmp_path, first)
    fill_cache(model, tmp_path, again)
    fill_cache(model, tmp_path, bounded, method=make_auto(30.0))
    fill_cache(model, tmp_path, other, questions=draw_other_questions(9, 2, seed=0))
    assert plain.count == len(EXAMPLES)
    assert first.count == 3 * len(EXAMPLES)
    assert again.count == bounded.count == 0
    assert other.count == 2 * len(EXAMPLES)


def test_only_a_strength_that_sets_itself_asks_other_questions() -> None:
    assert PRIOR_LOGPS in make_auto().needs
    assert PRIOR_LOGPS in make_auto(name="fundial").needs
    assert PRIOR_LOGPS not in make_method(METHODS["undial"].config(name="undial")).needs
