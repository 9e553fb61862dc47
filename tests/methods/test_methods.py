"""Method objects against the public losses, on a whole batch and on its micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
from undial_cli.losses.chunked import Projection
from undial_cli.methods import FORGET, RETAIN, forget_loss, retain_loss
from undial_cli.methods.base import REFERENCE_LOGPS, TEACHER_LOGITS, Loss, Signal, Targets
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
VOCABULARY, WIDTH = 8, 5
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


@dataclass
class Model:
    """Hidden states [B, T, D] and the head [V, D] that makes logits of them."""

    hidden: Tensor
    head: Tensor

    @property
    def logits(self) -> Tensor:
        return self.hidden @ self.head.T

    def of(self, rows: slice) -> Model:
        return Model(self.hidden[rows], self.head)


def model(seed: int, differentiable: bool = False) -> Model:
    generator = torch.Generator().manual_seed(seed)
    hidden, head = (
        torch.randn(*shape, WIDTH, dtype=torch.float64, generator=generator)
        for shape in (LABELS.shape, (VOCABULARY,))
    )
    return Model(hidden.requires_grad_(differentiable), head.requires_grad_(differentiable))


def counts_of(labels: Tensor) -> list[int]:
    """Target tokens of each row."""
    return [sum(int(y) != X for y in row[1:]) for row in labels]


def targets_of(loss: Loss, student: Model, teacher: Model, labels: Tensor) -> Targets:
    """What the trainer hands to a loss: target positions, and the teacher's signal if needed."""
    mask, targets_N, sequence_N = select_targets(labels)
    signal = Signal()
    if TEACHER_LOGITS in loss.needs:
        signal = Signal(teacher.hidden[mask], Projection(teacher.head))
    if REFERENCE_LOGPS in loss.needs:
        signal.logps_B = sequence_logps(teacher.logits, labels)
    head = Projection(student.head)
    return Targets(student.hidden[mask], head, targets_N, sequence_N, counts_of(labels), signal)


def agree(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


NAMES = ("undial", "npo", "ga", "gdr", "klr")


def test_every_configured_method_and_retain_term_is_tested_here() -> None:
    assert {*FORGET, *RETAIN} == set(NAMES)
    assert set(METHODS) == set(FORGET)


@pytest.mark.parametrize("name", NAMES)
def test_sum_over_weight_is_the_public_loss(name: str) -> None:
    loss, public = make(name)
    student, teacher = model(1, differentiable=True), model(2)
    targets = targets_of(loss, student, teacher, LABELS)
    found = loss.sum(targets) / loss.weight(targets.counts)
    expected = public(student.logits, teacher.logits, LABELS)
    agree([found], [expected])
    at = (student.hidden, student.head)
    agree([*torch.autograd.grad(found, at)], [*torch.autograd.grad(expected, at)])


@pytest.mark.parametrize("sizes", SPLITS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_add_up_to_the_whole_batch(name: str, sizes: list[int]) -> None:
    loss, public = make(name)
    student, teacher = model(3, differentiable=True), model(4)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [slice(a, a + n) for a, n in zip(starts, sizes, strict=True)]
    weight = sum(loss.weight(counts_of(LABELS[part])) for part in parts)
    for part in parts:
        targets = targets_of(loss, student.of(part), teacher.of(part), LABELS[part])
        (loss.sum(targets) / weight).backward()
    whole = model(3, differentiable=True)
    public(whole.logits, teacher.logits, LABELS).backward()
    for ours, theirs in ((student.hidden, whole.hidden), (student.head, whole.head)):
        assert ours.grad is not None
        assert theirs.grad is not None
        agree([ours.grad], [theirs.grad])


@pytest.mark.parametrize("name", ["undial", "klr"])
def test_a_signal_without_a_head_is_projected_by_the_students(name: str) -> None:
    loss, public = make(name)
    student, teacher = model(7, differentiable=True), model(8)
    shared = Model(teacher.hidden, student.head)
    targets = targets_of(loss, student, shared, LABELS)
    targets.signal.head = None
    total = loss.sum(targets)
    fixed = Model(teacher.hidden, student.head.detach())
    expected = public(student.logits, fixed.logits, LABELS) * loss.weight(targets.counts)
    at = (student.hidden, student.head)
    agree([total], [expected])
    agree([*torch.autograd.grad(total, at)], [*torch.autograd.grad(expected, at)])


@pytest.mark.parametrize("name", NAMES)
def test_weight_counts_target_tokens_or_sequences_that_have_one(name: str) -> None:
    loss, _ = make(name)
    tokens = sum(int(y) != X for row in LABELS for y in row[1:])
    weight = loss.weight(counts_of(LABELS))
    assert weight == (4 if name == "npo" else tokens)
    assert isinstance(weight, int)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_micro_batch_gives_zero_with_its_graph(name: str) -> None:
    loss, _ = make(name)
    empty, row = LABELS[2:3], slice(2, 3)
    student = model(5, differentiable=True)
    targets = targets_of(loss, student.of(row), model(6).of(row), empty)
    total = loss.sum(targets)
    total.backward()
    assert loss.weight(targets.counts) == 0
    assert float(total.detach()) == 0
    for leaf in (student.hidden, student.head):
        assert leaf.grad is not None
        assert not leaf.grad.any()
