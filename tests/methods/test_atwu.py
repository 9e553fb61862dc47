"""ATWU's scorer: what it learns against torch's own SGD on the whole batch, saved and restored."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from undial_cli.losses.atwu import scorer_sequence_losses
from undial_cli.losses.chunked import Projection
from undial_cli.losses.targets import Targets, as_targets
from undial_cli.methods import METHODS, make_method

COUNTS, WIDTH = [3, 2, 0, 4], 5
SETTINGS = {"budget": 0.3, "entropy": 0.7, "population": 1.5, "ridge": 0.02}


def make_atwu(**keys: Any) -> Any:
    return make_method(METHODS["atwu"].config(name="atwu", **keys))


def batch(seed: int) -> tuple[Tensor, Tensor]:
    """Hidden states and target tokens of a step."""
    generator = torch.Generator().manual_seed(seed)
    hidden = 2 * torch.randn(sum(COUNTS), WIDTH, dtype=torch.float64, generator=generator)
    return hidden, torch.randint(0, 7, (sum(COUNTS),), generator=generator)


def cut(hidden: Tensor, tokens: Tensor, head: Tensor, sizes: list[int]) -> list[Targets]:
    """A step's micro-batches, of so many sequences each."""
    parts, sequence, token = [], 0, 0
    for size in sizes:
        counts = COUNTS[sequence : sequence + size]
        rows = slice(token, token + sum(counts))
        parts.append(as_targets(hidden[rows], Projection(head), tokens[rows], counts))
        sequence, token = sequence + size, rows.stop
    return parts


def plain_loss(
    scorer: nn.Linear, hidden: Tensor, nll: Tensor, settings: dict[str, float]
) -> Tensor:
    """The scorer's loss of a whole batch, sequence by sequence."""
    scores = scorer(hidden)[:, 0].sigmoid()
    sure = scores.clamp(1e-6, 1 - 1e-6)
    entropy = -(sure * sure.log() + (1 - sure) * (1 - sure).log())
    far, start = [], 0
    for count in COUNTS:
        part = scores[start : start + count]
        hard = (part > 0.5).double()
        far += (
            [((hard.detach() - part.detach() + part).mean() - settings["budget"]) ** 2]
            if count
            else []
        )
        start += count
    ridge = sum((p**2).sum() for p in scorer.parameters())
    return (
        ((1 - scores) * nll).mean() + settings["entropy"] * entropy.mean()
        + settings["population"] * torch.stack(far).mean() + settings["ridge"] * ridge
    )  # fmt: skip


@pytest.mark.parametrize("sizes", [[4], [1, 1, 1, 1], [3, 1]], ids=str)
def test_the_scorer_moves_as_torchs_sgd_does_on_the_whole_batch(sizes: list[int]) -> None:
    method = make_atwu(every=2, scorer_learning_rate=0.5, **SETTINGS)
    scorer = nn.Linear(WIDTH, 1).double()
    nn.init.zeros_(scorer.weight)
    nn.init.zeros_(scorer.bias)
    optimiser = torch.optim.SGD(scorer.parameters(), 0.5, momentum=0.9, weight_decay=1e-4)
    head = torch.randn(7, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    for step in range(8):
        hidden, tokens = batch(step)
        for part in cut(hidden, tokens, head, sizes):
            method.sum(part)
        assert (method.statistics is None) == (step % 2 == 0)
        method.after_step({}, 0.0)
        assert method.statistics is None
        if step % 2:
            nll = torch.nn.functional.cross_entropy(hidden @ head.T, tokens, reduction="none")
            optimiser.zero_grad()
            plain_loss(scorer, hidden, nll, SETTINGS).backward()
            torch.nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
            optimiser.step()
        expected = torch.cat([scorer.weight[0], scorer.bias]).detach()
        torch.testing.assert_close(method.scorer_E, expected, rtol=1e-5, atol=1e-6)
    assert float(expected.abs().min()) > 0.01


def test_a_restored_scorer_goes_on_where_it_was() -> None:
    head = torch.randn(7, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    methods = [make_atwu(every=1, **SETTINGS) for _ in range(2)]
    methods[1].load_state_dict(json.loads(json.dumps(methods[1].state_dict())))
    for step in range(5):
        for method in methods:
            (part,) = cut(*batch(step), head, [4])
            method.sum(part)
            method.after_step({}, 0.0)
        again = make_atwu(every=1, **SETTINGS)
        again.load_state_dict(json.loads(json.dumps(methods[1].state_dict())))
        methods[1] = again
    assert torch.equal(methods[0].scorer_E, methods[1].scorer_E)
    assert torch.equal(methods[0].momentum_E, methods[1].momentum_E)
    assert methods[1].state_dict()["steps"] == 5


def test_the_share_of_scores_above_a_half_is_drawn_to_the_budget() -> None:
    scores = torch.tensor([0.9, 0.8, 0.1, 0.2], dtype=torch.float64, requires_grad=True)
    losses = scorer_sequence_losses(scores, torch.tensor([0, 0, 2, 2]), [2, 0, 2], 0.25)
    torch.testing.assert_close(losses.detach(), torch.tensor([0.75**2, 0, 0.25**2]).double())
    (slope,) = torch.autograd.grad(losses.sum(), scores)
    torch.testing.assert_close(slope, torch.tensor([0.75, 0.75, -0.25, -0.25]).double())
