"""The fused losses against plain formulas on dense logits, differentiated by autograd."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from undial_cli.losses import (
    dpo_loss,
    fused_cross_entropy_loss,
    fused_ga_loss,
    fused_kl_loss,
    fused_npo_loss,
    fused_undial_loss,
    npo_loss,
    sequence_logps,
)
from undial_cli.losses.chunked import Projection, group_into_blocks, split_into_chunks
from undial_cli.losses.targets import TeacherSignal, as_targets
from undial_cli.losses.tokens import ceu_per_position, pdu_forget_per_position
from undial_cli.losses.undial import (
    cross_entropy_per_position,
    cross_entropy_with_gradient_,
    undial_target,
)

NAMES = ("undial", "weighted", "kl", "cross_entropy", "ga", "npo")
STRENGTH, BETA = 3.0, 0.5


@dataclass
class Case:
    """Hidden states of N positions in B sequences, a head, and the same of a teacher."""

    hidden: Tensor
    head: Projection
    teacher: Tensor
    teacher_head: Projection
    targets: Tensor
    counts: list[int]
    weights: Tensor
    reference: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        """What a loss is differentiated by."""
        bias = self.head.bias_V
        return [self.hidden, self.head.weight_VD, *([] if bias is None else [bias])]

    def to(self, dtype: torch.dtype) -> Case:
        """New leaves of another dtype."""
        hidden = self.hidden.detach().to(dtype).requires_grad_()
        head, teacher_head = (p.detach().to(dtype) for p in (self.head, self.teacher_head))
        for leaf in (head.weight_VD, head.bias_V):
            if leaf is not None:
                leaf.requires_grad_()
        return replace(self, hidden=hidden, head=head, teacher=self.teacher.to(dtype),
                       teacher_head=teacher_head)  # fmt: skip


def make(
    counts: list[int],
    width: int = 5,
    vocabulary: int = 7,
    bias: bool = False,
    scale: float = 1.0,
    cap: float | None = None,
    seed: int = 0,
    spread: float = 1.0,
) -> Case:
    """A random case in float64; N is the sum of `counts`."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return spread * torch.randn(*shape, dtype=torch.float64, generator=generator)

    def head(differentiable: bool) -> Projection:
        weight = normal(vocabulary, width).requires_grad_(differentiable)
        return Projection(
            weight, normal(vocabulary).requires_grad_(differentiable) if bias else None, scale, cap
        )

    size = sum(counts)
    teacher, teacher_head = normal(size, width), head(False)
    targets = torch.randint(0, vocabulary, (size,), generator=generator)
    log_p = logits(teacher, teacher_head).log_softmax(-1)[range(size), targets]
    reference = torch.stack([part.sum() for part in log_p.split(counts)]) if counts else log_p
    return Case(
        hidden=normal(size, width).requires_grad_(),
        head=head(True),
        teacher=teacher,
        teacher_head=teacher_head,
        targets=targets,
        counts=counts,
        weights=torch.rand(size, dtype=torch.float64, generator=generator).round(decimals=1),
        reference=reference,
    )


def fused(name: str, case: Case, chunk: int | None = None, items: Any = None) -> Tensor:
    """The fused loss of a case."""
    head = case.head
    plain = head.bias_V is None and head.scale == 1 and head.cap is None
    given_head = head.weight_VD if plain else head
    to_teacher = (case.hidden, given_head, case.teacher, case.teacher_head)
    to_targets = (case.hidden, given_head, case.targets)
    how = {"num_items_in_batch": items, "chunk_size": chunk}
    if name == "undial":
        return fused_undial_loss(*to_teacher, case.targets, STRENGTH, **how)
    if name == "weighted":
        return fused_undial_loss(*to_teacher, case.targets, STRENGTH, case.weights, **how)
    if name == "kl":
        return fused_kl_loss(*to_teacher, **how)
    if name == "cross_entropy":
        return fused_cross_entropy_loss(*to_targets, **how)
    if name == "ga":
        return fused_ga_loss(*to_targets, **how)
    return fused_npo_loss(*to_targets, case.counts, case.reference, BETA, **how)


def logits(hidden: Tensor, head: Projection) -> Tensor:
    """Dense logits [N, V], as the models that cap or scale define them."""
    found = hidden @ head.weight_VD.T
    found = found if head.bias_V is None else found + head.bias_V
    found = head.scale * found
    return found if head.cap is None else head.cap * torch.tanh(found / head.cap)


def dense(name: str, case: Case, items: Any = None) -> Tensor:
    """The same loss by its formula, on all logits at once."""
    student = logits(case.hidden, case.head)
    teacher = logits(case.teacher, case.teacher_head).detach()
    return formula(name, case, student, teacher, items)


def formula(name: str, case: Case, student: Tensor, teacher: Tensor, items: Any = None) -> Tensor:
    """A loss of dense logits."""
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    chosen = F.one_hot(case.targets, student.shape[1]).to(log_q.dtype)
    logps = (log_q * chosen).sum(-1)
    divisor: Any = len(case.targets)
    if name in ("undial", "weighted"):
        p = (teacher - STRENGTH * chosen).softmax(-1)
        each = -(p * log_q).sum(-1)
        total = (each if name == "undial" else each * case.weights).sum()
    elif name == "kl":
        total = (log_p.exp() * (log_p - log_q)).sum()
    elif name in ("cross_entropy", "ga"):
        total = -logps.sum() if name == "cross_entropy" else logps.sum()
    else:
        total, divisor = 0 * student.sum(), sum(n > 0 for n in case.counts)
        for part, reference in zip(logps.split(case.counts), case.reference, strict=True):
            if len(part):
                ratio = part.sum() - reference
                total = total + 2 / BETA * torch.log(1 + torch.exp(BETA * ratio))
    return total / max(divisor if items is None else float(items), 1)


def gradients(value: Tensor, case: Case) -> list[Tensor]:
    return list(torch.autograd.grad(value, case.leaves))


def agree(name: str, case: Case, chunk: int | None, items: Any = None) -> None:
    """Same value and same gradients, to 1e-10; upstream factors included."""
    found, expected = fused(name, case, chunk, items), dense(name, case, items)
    assert found.shape == ()
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(
        gradients(-2.5 * found, case), gradients(-2.5 * expected, case), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


# Neither, bias, scale, cap, all of them.
HEADS: list[dict[str, Any]] = [
    {}, {"bias": True}, {"scale": 0.25}, {"cap": 3.0}, {"bias": True, "scale": 1.7, "cap": 4.0},
]  # fmt: skip
# Sequences shorter and longer than a chunk, without a position, first, last and in the middle.
COUNTS = [[], [0], [0, 0], [1], [7], [2, 3], [0, 5, 0, 1], [9, 2, 0], [1, 1, 1, 8, 1], [3, 3, 3]]


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=30)
@given(
    counts=st.lists(st.integers(0, 6), max_size=5),
    width=st.integers(1, 6),
    vocabulary=st.integers(2, 9),
    chunk=st.one_of(st.none(), st.integers(1, 12)),
    head=st.sampled_from(HEADS),
    items=st.sampled_from([None, 0, 7, 2.5, torch.tensor(3), torch.tensor(0)]),
    seed=st.integers(0, 99),
)
@example(counts=[5, 2], width=3, vocabulary=4, chunk=2, head={}, items=None, seed=0)
@example(counts=[], width=3, vocabulary=4, chunk=2, head={"bias": True}, items=None, seed=0)
def test_any_shape_and_chunk_gives_the_dense_loss_and_its_gradients(
    name: str,
    counts: list[int],
    width: int,
    vocabulary: int,
    chunk: int | None,
    head: dict[str, Any],
    items: Any,
    seed: int,
) -> None:
    agree(name, make(counts, width, vocabulary, seed=seed, **head), chunk, items)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_chunk_size_gives_the_dense_loss(name: str, counts: list[int]) -> None:
    case = make(counts, cap=3.0, bias=True)
    for chunk in {1, 2, 4, sum(counts), sum(counts) + 1} - {0}:
        agree(name, case, chunk)


@pytest.mark.parametrize("counts", [[], [0, 0]], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_without_a_position_the_loss_is_zero_with_its_graph(name: str, counts: list[int]) -> None:
    case = make(counts, bias=True)
    value = fused(name, case)
    assert float(value.detach()) == 0
    assert [not g.any() for g in gradients(value, case)] == [True] * 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("head", HEADS, ids=str)
def test_gradients_are_what_finite_differences_say(name: str, head: dict[str, Any]) -> None:
    case, step = make([2, 0, 1], 2, 3, seed=4, **head), 1e-6
    found = gradients(fused(name, case, 2), case)
    for leaf, gradient in zip(case.leaves, found, strict=True):
        flat, expected = leaf.detach().view(-1), torch.zeros(leaf.numel(), dtype=torch.float64)
        for i in range(leaf.numel()):
            at = float(flat[i])
            values = []
            for place in (at + step, at - step):
                flat[i] = place
                values.append(float(fused(name, case, 2).detach()))
            flat[i] = at
            expected[i] = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close(gradient.flatten(), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", ["undial", "weighted", "kl"])
def test_no_gradient_reaches_the_teacher(name: str) -> None:
    case = make([3, 2], bias=True)
    case.teacher.requires_grad_()
    case.teacher_head.weight_VD.requires_grad_()
    assert case.teacher_head.bias_V is not None
    case.teacher_head.bias_V.requires_grad_()
    fused(name, case, 2).backward()
    assert case.teacher.grad is None
    assert case.teacher_head.weight_VD.grad is None
    assert case.teacher_head.bias_V.grad is None
    assert all(leaf.grad is not None for leaf in case.leaves)


@pytest.mark.parametrize("name", ["undial", "kl"])
def test_a_head_that_is_the_teachers_as_well_has_the_students_gradient_alone(name: str) -> None:
    case = make([3, 2], bias=True, cap=3.0)
    case.teacher_head = case.head
    agree(name, case, 2)


@pytest.mark.parametrize("frozen", ["head", "weight", "bias", "hidden"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(name: str, frozen: str) -> None:
    case = make([4, 0, 3], bias=True, scale=0.7, cap=3.0)
    expected = gradients(fused(name, case, 2), case)
    hidden, weight, bias = case.leaves
    left_out = {"head": (weight, bias), "weight": (weight,), "bias": (bias,), "hidden": (hidden,)}
    for leaf in left_out[frozen]:
        leaf.requires_grad_(False)
    fused(name, case, 2).backward()
    for leaf, gradient in zip(case.leaves, expected, strict=True):
        if leaf.requires_grad:
            assert leaf.grad is not None
            assert torch.equal(leaf.grad, gradient)
        else:
            assert leaf.grad is None


@pytest.mark.parametrize("name", NAMES)
def test_the_chunk_size_changes_no_more_than_rounding(name: str) -> None:
    case = make([30, 0, 11, 23], 8, 50, cap=5.0)
    value, *expected = fused(name, case), *gradients(fused(name, case), case)
    for chunk in (1, 2, 7, 11, 12, 63, 64, 65):
        torch.testing.assert_close(fused(name, case, chunk), value, rtol=1e-13, atol=1e-13)
        for ours, theirs in zip(gradients(fused(name, case, chunk), case), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_call_gives_the_same_bits(name: str, dtype: torch.dtype) -> None:
    case = make([30, 0, 11, 23], 16, 100, bias=True, cap=5.0).to(dtype)
    first, again = (
        [value, *gradients(value, case)] for value in (fused(name, case, 9) for _ in range(2))
    )
    for ours, theirs in zip(first, again, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_goes_backward_once(name: str) -> None:
    value = fused(name, make([3, 2]), 2)
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward once"):
        value.backward()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_add_up_in_leaves_that_several_losses_share(name: str) -> None:
    case, other = make([3, 2], seed=1), make([4], seed=2)
    other = replace(other, head=case.head)
    (fused(name, case, 2) + 3 * fused("cross_entropy", other)).backward()
    first = gradients(dense(name, case), case)
    second = gradients(3 * dense("cross_entropy", other), other)
    torch.testing.assert_close(case.hidden.grad, first[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(case.head.weight_VD.grad, first[1] + second[1], rtol=1e-10, atol=0)


# Unit roundoff of bfloat16: half the spacing of numbers at 1.
ROUND = 2.0**-8


def bf16_bounds(name: str, case: Case) -> list[Tensor]:
    """How far bfloat16 products may take a loss and its gradients from the exact ones.

    Rounding hidden states, weights and their product moves each logit by at most
    `d = 3u |h| |W|^T` (the scales and caps here are contractions), and the loss by d times its
    slopes. It changes each probability by a factor of `exp(2d)` at most, and NPO's slope by one of
    `exp(beta 2d n)` for n positions; rounding the logits' gradient and what it is multiplied with
    adds `3u`.
    """
    with torch.no_grad():
        student, teacher = logits(case.hidden, case.head), logits(case.teacher, case.teacher_head)
        pairs = ((case.hidden, case.head), (case.teacher, case.teacher_head))
        moved = [3 * ROUND * h.abs() @ head.weight_VD.abs().T for h, head in pairs]
    at = [student.requires_grad_(), teacher.requires_grad_()]
    slopes = torch.autograd.grad(
        formula(name, case, student, teacher), at, allow_unused=True, materialize_grads=True
    )
    value = sum(((slope.abs() * d).sum() for slope, d in zip(slopes, moved, strict=True)))
    q, p, chosen = student.softmax(-1), teacher, F.one_hot(case.targets, teacher.shape[1])
    if name in ("undial", "kl"):
        p = (teacher - (name == "undial") * STRENGTH * chosen).softmax(-1)
    else:
        p = chosen.double()
    shift = 2 * float(torch.cat(moved).max())
    slope, longest, divisor = 1.0, 0, len(case.targets)
    if name == "npo":
        slope, longest, divisor = 2.0, max(case.counts), sum(n > 0 for n in case.counts)
    factor = slope * (math.expm1(shift * (1 + BETA * longest)) + 3 * ROUND) / divisor
    with torch.no_grad():
        each = factor * (q + p)
        return [1.1 * value, each @ case.head.weight_VD.abs(), each.T @ case.hidden.abs()]


BF16 = ("undial", "kl", "cross_entropy", "ga", "npo")


@pytest.mark.parametrize("how", ["weights", "autocast"])
@pytest.mark.parametrize("head", [{}, {"scale": 0.5}, {"cap": 8.0}], ids=str)
@pytest.mark.parametrize("name", BF16)
def test_bfloat16_products_stay_within_their_rounding(
    name: str, head: dict[str, Any], how: str
) -> None:
    exact = make([2, 0, 1, 3] * 5, 16, 24, spread=0.35, **head)
    value = dense(name, exact)
    expected = [value.detach(), *gradients(value, exact)]
    dtype = torch.bfloat16 if how == "weights" else torch.float32
    case = exact.to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        low = fused(name, case, 7)
    assert low.dtype == torch.float32
    found = [low.detach(), *gradients(low, case)]
    assert [g.dtype for g in found[1:]] == [dtype] * 2
    for ours, theirs, bound in zip(found, expected, bf16_bounds(name, exact), strict=True):
        gap = (ours.double() - theirs).abs()
        assert bool((gap <= bound).all())
        assert float(gap.norm()) < 2 * ROUND * float(theirs.norm())  # roundings mostly cancel


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_logits_are_reduced_in_float32(name: str) -> None:
    """Hundreds of nats, added one by one: a sum in bfloat16 would be off by its first hundred."""
    case = make([100, 0, 40, 60], 8, 12, spread=0.5).to(torch.bfloat16)
    low = fused(name, case, 1)

    def rows(hidden: Tensor, head: Projection) -> Tensor:
        parts = [F.linear(hidden[i : i + 1], head.weight_VD) for i in range(len(hidden))]
        return torch.cat(parts).detach().double()

    student = rows(case.hidden, case.head).requires_grad_()
    expected = formula(name, case, student, rows(case.teacher, case.teacher_head))
    # NPO's loss depends on sums of hundreds of nats, which float32 knows to 1e-4.
    tolerance = 1e-3 if name == "npo" else 2e-6
    torch.testing.assert_close(low.double(), expected, rtol=tolerance, atol=0)
    (slope,) = torch.autograd.grad(expected, student)
    hidden, weight = (leaf.detach().double() for leaf in case.leaves)
    products = slope @ weight, slope.T @ hidden
    for ours, theirs in zip(gradients(low, case), products, strict=True):
        gap = (ours.double() - theirs).norm() / theirs.norm()
        assert float(gap) < 2 * ROUND


def test_float64_weights_stay_float64_under_autocast() -> None:
    case = make([3, 2])
    with torch.autocast("cpu", torch.bfloat16):
        agree("undial", case, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_autocast_around_a_loss_does_not_reach_into_its_reductions(dtype: torch.dtype) -> None:
    case = make([5, 4], bias=True).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        outside = fused("kl", case, 3)
    exact = dense("kl", case)
    tolerance = 0.05 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(outside, exact, rtol=tolerance, atol=tolerance)


class Memory(TorchDispatchMode):
    """Notes the largest tensor that any operation returns, and the most that live together."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.most = 0, 0
        self.alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
                self.alive[id(tensor)] = weakref.ref(tensor)
        self.alive = {key: ref for key, ref in self.alive.items() if ref() is not None}
        tensors = [t for ref in self.alive.values() if (t := ref()) is not None]
        sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        self.most = max(self.most, sum(sizes.values()))
        return found


@pytest.mark.parametrize("counts", [[6, 0, 10] * 6, [96]], ids=["short", "long"])
@pytest.mark.parametrize("name", NAMES)
def test_logits_of_one_chunk_at_most_exist(name: str, counts: list[int]) -> None:
    size, vocabulary, chunk, width = 96, 600, 3, 2
    case = make(counts, width, vocabulary, cap=5.0).to(torch.float32)
    with Memory() as memory:
        fused(name, case, chunk).backward()
    assert memory.largest == chunk * vocabulary
    assert memory.most < 4 * size * vocabulary / 3


@settings(deadline=None, max_examples=30)
@given(
    counts=st.lists(st.integers(0, 6), max_size=6),
    vocabulary=st.integers(2, 9),
    chunk=st.one_of(st.none(), st.integers(1, 12)),
    head=st.sampled_from(HEADS),
    seed=st.integers(0, 99),
)
def test_log_probabilities_of_sequences_are_those_of_dense_logits(
    counts: list[int], vocabulary: int, chunk: int | None, head: dict[str, Any], seed: int
) -> None:
    case = make(counts, 4, vocabulary, seed=seed, **head)
    found = as_targets(case.hidden, case.head, case.targets, counts, size=chunk).sequence_logps()
    log_q = logits(case.hidden, case.head).detach().log_softmax(-1)
    parts = log_q[range(sum(counts)), case.targets].split(counts)
    expected = [float(part.sum()) for part in parts]
    assert found.dtype == torch.float64
    assert not found.requires_grad
    assert found.tolist() == pytest.approx(expected, rel=1e-10, abs=1e-10)


@given(start=st.integers(0, 9), length=st.integers(0, 40), size=st.integers(1, 12))
def test_chunks_cover_a_range_in_order_and_are_of_even_size(
    start: int, length: int, size: int
) -> None:
    found = split_into_chunks(start, start + length, size)
    assert [i for part in found for i in range(part.start, part.stop)] == [
        *range(start, start + length)
    ]
    assert all(0 < part.stop - part.start <= size for part in found)
    assert len(found) == math.ceil(length / size)


@given(counts=st.lists(st.integers(0, 20), max_size=12), size=st.integers(1, 12))
def test_blocks_keep_each_unit_whole_and_each_chunk_small(counts: list[int], size: int) -> None:
    found = group_into_blocks(counts, size)
    covered = [i for block in found for part in block for i in range(part.start, part.stop)]
    assert covered == list(range(sum(counts)))
    edges = {0, *itertools.accumulate(counts)}
    for block in found:
        assert {block[0].start, block[-1].stop} <= edges
        assert all(part.stop - part.start <= size for part in block)
        inside = [e for e in edges if block[0].start < e < block[-1].stop]
        assert len(block) == 1 or not inside


def test_a_projection_is_what_it_says_in_every_precision() -> None:
    case = make([6], bias=True, scale=0.3, cap=2.0)
    dense_logits = logits(case.hidden, case.head)
    torch.testing.assert_close(case.head.logits(case.hidden), dense_logits, rtol=1e-12, atol=1e-12)
    low = case.to(torch.bfloat16)
    assert low.head.logits(low.hidden).dtype == torch.float32
    gap = (low.head.logits(low.hidden) - dense_logits).detach().abs()
    assert float(gap.max()) < 0.1
    assert not case.head.detach().weight_VD.requires_grad


def test_npo_far_from_its_reference_neither_overflows_nor_loses_its_gradient() -> None:
    case = make([4, 4])
    for far in (-1e4, 1e4):
        case.reference = torch.full((2,), far, dtype=torch.float64)
        value = fused("npo", case, 3)
        assert math.isfinite(float(value.detach()))
        assert all(bool(torch.isfinite(g).all()) for g in gradients(value, case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("counts", [[3600], [7, 3590, 3]], ids=str)
def test_a_long_answer_against_its_own_reference_has_no_ratio_at_all(
    counts: list[int], dtype: torch.dtype
) -> None:
    """The model is its own reference: (2/beta) ln 2, however large both sums are."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(sum(counts), 32, generator=generator).to(dtype).requires_grad_()
    head = Projection((torch.randn(800, 32, generator=generator) * 0.2).to(dtype))
    targets = torch.randint(0, 800, (sum(counts),), generator=generator)
    chosen = as_targets(hidden, head, targets, counts)
    reference = chosen.sequence_logps()
    assert float(reference.min()) < -15_000
    expected = 2 / 0.1 * math.log(2)
    npo = fused_npo_loss(hidden, head, targets, counts, reference, 0.1)
    assert float(npo.detach()) == pytest.approx(expected, abs=1e-6)
    seen: list[Tensor] = []  # the sums of each block, those of other blocks 0

    def loss(logps_B: Tensor) -> Tensor:
        seen.append(logps_B.detach())
        return logps_B

    chosen.sequence_sum(loss)
    torch.testing.assert_close(torch.stack(seen).sum(0), reference, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_sum_of_many_log_probabilities_keeps_their_last_digit(dtype: torch.dtype) -> None:
    """One token a little likelier: the ratio is that difference, to float32 of *one* token."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 50, (1, 5001), generator=generator)
    logits = (4 * torch.randn(1, 5001, 50, generator=generator)).to(dtype)
    moved = logits.clone()
    moved[0, 4000, labels[0, 4001]] += 0.5
    one, other = (t[0, 4000].float().log_softmax(-1)[labels[0, 4001]] for t in (logits, moved))
    found = sequence_logps(moved, labels) - sequence_logps(logits, labels)
    assert float(found) == pytest.approx(float(other - one), abs=1e-6)
    plain = npo_loss(logits, labels, sequence_logps(logits, labels), 0.1)
    assert float(plain) == pytest.approx(20 * math.log(2), abs=1e-5)
    references = sequence_logps(logits, labels), sequence_logps(moved, labels)
    assert float(dpo_loss(logits, labels, moved, labels, *references, 0.1)) == pytest.approx(
        20 * math.log(2), abs=1e-5
    )
    assert plain.dtype == torch.float32


# A loss that is given as its formula, and the gradients that are written by hand.


@pytest.mark.parametrize("weighted", [False, True])
def test_the_gradient_written_by_hand_is_that_of_its_formula(weighted: bool) -> None:
    logits = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    target = torch.randn(5, 9, dtype=torch.float64).softmax(-1)
    weights = torch.rand(5, dtype=torch.float64) if weighted else torch.ones(5).double()
    log_q = logits.log_softmax(-1)
    expected = (cross_entropy_per_position(log_q, target) * weights).sum()
    log_q = log_q.detach().clone()
    found, slope = cross_entropy_with_gradient_(log_q, target, weights if weighted else None)
    assert slope is log_q
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (theirs,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(slope, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("chunk", [1, 2, 4, None])
def test_undial_as_a_formula_alone_is_undial(head: dict[str, Any], chunk: int | None) -> None:
    """What a user writes, who derives no gradient."""
    case = make([4, 0, 3], **head)
    signal = TeacherSignal(case.teacher, case.teacher_head)
    targets = as_targets(case.hidden, case.head, case.targets, case.counts, signal, chunk)

    def loss(logits_CV: Tensor, rows: slice) -> Tensor:
        target_CV = undial_target(targets.teacher_logits(rows), case.targets[rows], STRENGTH)
        return cross_entropy_per_position(logits_CV.log_softmax(-1), target_CV) * case.weights[rows]

    found, expected = targets.logits_sum(loss), 7 * fused("weighted", case, chunk)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(found, case), gradients(expected, case), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "a number in many places": lambda x: x,  # its gradient is an expanded 1
    "each row's norm": lambda x: x.square().sum(-1),
    "a scalar": lambda x: x.logsumexp(-1).sum(),
    "some rows": lambda x: x[:1].sigmoid(),
}


@pytest.mark.parametrize("head", HEADS, ids=str)
@pytest.mark.parametrize("name", FORMULAS)
def test_any_formula_of_logits_has_its_own_gradient(name: str, head: dict[str, Any]) -> None:
    case, formula = make([1, 2, 0, 1], **head), FORMULAS[name]
    targets = as_targets(case.hidden, case.head, case.targets, size=1)
    found = targets.logits_sum(lambda logits_CV, _: formula(logits_CV))
    rows = logits(case.hidden, case.head).split(1)
    expected = sum((formula(row).sum() for row in rows), torch.zeros(()).double())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(found, case), gradients(expected, case), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "formula", [ceu_per_position, lambda x, _: pdu_forget_per_position(x)], ids=["ceu", "pdu"]
)
def test_a_formula_holds_logits_of_one_chunk_at_most(formula: Callable[..., Tensor]) -> None:
    size, vocabulary, chunk = 96, 600, 3
    case = make([size], 2, vocabulary, cap=5.0).to(torch.float32)
    targets = as_targets(case.hidden, case.head, case.targets, size=chunk)
    with Memory() as memory:
        targets.logits_sum(lambda logits, rows: formula(logits, case.targets[rows])).backward()
    assert memory.largest == chunk * vocabulary
    assert memory.most < 4 * size * vocabulary / 3


@pytest.mark.parametrize("name", ["undial", "kl"])
def test_in_float32_the_sum_over_a_large_vocabulary_is_that_of_float64(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(4, 16, generator=generator)
    head = torch.randn(50_000, 16, generator=generator)
    frozen, targets = hidden + 0.1, torch.tensor([3, 70, 4000, 49_999])

    def fused(dtype: torch.dtype) -> float:
        parts = hidden.to(dtype), head.to(dtype), frozen.to(dtype), head.to(dtype)
        if name == "kl":
            return fused_kl_loss(*parts).item()
        return fused_undial_loss(*parts, targets, STRENGTH).item()

    assert fused(torch.float32) == pytest.approx(fused(torch.float64), rel=5e-6, abs=2e-6)
