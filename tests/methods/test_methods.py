"""Method objects against the public losses, on a whole batch and on its micro-batches."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from undial_cli.losses import (
    IGNORE,
    cross_entropy_loss,
    ga_loss,
    kl_loss,
    npo_loss,
    select_targets,
    sequence_logps,
    undial_loss,
)
from undial_cli.methods import FORGET, RETAIN, forget_loss, retain_loss
from undial_cli.methods.base import REFERENCE_LOGPS, TEACHER_LOGITS, Loss, Targets
from undial_cli.schema import METHODS, GaConfig, MethodConfig, NpoConfig, UndialConfig

X = IGNORE
LABELS = torch.tensor(
    [
        [X, X, 3, 4, 5, X],
        [X, 2, 6, X, X, X],
        [X, X, X, X, X, X],
        [0, X, X, X, 1, 1],
        [X, 7, 7, 7, 7, 7],
    ]
)
VOCABULARY = 8
SPLITS = [[5], [1, 1, 1, 1, 1], [2, 3], [1, 4], [3, 1, 1]]


def make(name: str) -> tuple[Loss, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """A method object and the public function it should equal, of (student, teacher, labels)."""
    if name == "undial":
        public = lambda s, t, y: undial_loss(s, t, y, 3.0)  # noqa: E731
        return forget_loss(UndialConfig(name="undial", strength=3.0)), public
    if name == "npo":
        public = lambda s, t, y: npo_loss(s, y, sequence_logps(t, y), 0.5)  # noqa: E731
        return forget_loss(NpoConfig(name="npo", beta=0.5)), public
    if name == "ga":
        return forget_loss(GaConfig(name="ga")), lambda s, t, y: ga_loss(s, y)
    if name == "gdr":
        return retain_loss(MethodConfig(retain="gdr")), lambda s, t, y: cross_entropy_loss(s, y)
    return retain_loss(MethodConfig(retain="klr")), kl_loss


def logits(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*LABELS.shape, VOCABULARY, dtype=torch.float64, generator=generator)


def targets_of(loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor) -> Targets:
    """What the trainer hands to a loss: target positions, and the teacher's signal if needed."""
    mask, targets_N, sequence_N = select_targets(labels)
    return Targets(
        student[mask],
        targets_N,
        sequence_N,
        labels,
        teacher[mask] if TEACHER_LOGITS in loss.needs else None,
        sequence_logps(teacher, labels) if REFERENCE_LOGPS in loss.needs else None,
    )


NAMES = ("undial", "npo", "ga", "gdr", "klr")


def test_every_configured_method_and_retain_term_is_tested_here() -> None:
    assert {*FORGET, *RETAIN} == set(NAMES)
    assert set(METHODS) == set(FORGET)


@pytest.mark.parametrize("name", NAMES)
def test_sum_over_weight_is_the_public_loss(name: str) -> None:
    loss, public = make(name)
    student, teacher = logits(1).requires_grad_(), logits(2)
    found = loss.sum(targets_of(loss, student, teacher, LABELS)) / loss.weight(LABELS)
    expected = public(student, teacher, LABELS)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (grad,), (expected_grad,) = (torch.autograd.grad(x, student) for x in (found, expected))
    torch.testing.assert_close(grad, expected_grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_add_up_to_the_whole_batch(name: str, sizes: list[int]) -> None:
    loss, public = make(name)
    student, teacher = logits(3).requires_grad_(), logits(4)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [slice(a, a + n) for a, n in zip(starts, sizes, strict=True)]
    weight = sum(int(loss.weight(LABELS[part])) for part in parts)
    for part in parts:
        targets = targets_of(loss, student[part], teacher[part], LABELS[part])
        (loss.sum(targets) / weight).backward()
    whole = student.detach().clone().requires_grad_()
    public(whole, teacher, LABELS).backward()
    torch.testing.assert_close(student.grad, whole.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_weight_counts_target_tokens_or_sequences_that_have_one(name: str) -> None:
    loss, _ = make(name)
    tokens = sum(int(y) != X for row in LABELS for y in row[1:])
    assert int(loss.weight(LABELS)) == (4 if name == "npo" else tokens)
    assert loss.weight(LABELS).dtype == torch.int64


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_micro_batch_gives_zero_with_its_graph(name: str) -> None:
    loss, _ = make(name)
    empty = LABELS[2:3]
    student = logits(5)[2:3].requires_grad_()
    total = loss.sum(targets_of(loss, student, logits(6)[2:3], empty))
    total.backward()
    assert int(loss.weight(empty)) == 0
    assert float(total.detach()) == 0
    assert student.grad is not None
    assert not student.grad.any()
