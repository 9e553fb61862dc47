"""The losses against their formulas, written here as loops over positions in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from undial_cli.losses import (
    IGNORE,
    cross_entropy_loss,
    ga_loss,
    kl_loss,
    npo_loss,
    sequence_logps,
    undial_loss,
    undial_target,
)

STRENGTHS = (0.0, 3.0, 10.0, 30.0)
X = IGNORE
LAYOUTS = {
    "right_padded": [[X, X, 3, 4, 5, X], [X, 2, 6, X, X, X]],
    "left_padded": [[X, X, X, 3, 4, 5], [X, X, X, X, 2, 6]],
    "hole_and_first_token": [[1, X, 3, X, 4, 0], [5, 5, 5, 5, 5, 5]],
    "one_row_without_target": [[X, X, X, X, X, X], [X, X, 1, 2, X, X], [4, X, X, X, X, X]],
}
VOCABULARY = 7


def logits_like(labels: Tensor, seed: int, vocabulary: int = VOCABULARY) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*labels.shape, vocabulary, dtype=torch.float64, generator=generator)


def positions(labels: Tensor) -> list[tuple[int, int, int]]:
    """(row, predicting position, target token), one by one."""
    rows, length = labels.shape
    return [
        (b, t - 1, int(labels[b, t]))
        for b in range(rows)
        for t in range(1, length)
        if int(labels[b, t]) != -100
    ]


def plain_log_softmax(logits_V: Tensor) -> list[Tensor]:
    norm = torch.log(sum((torch.exp(x) for x in logits_V), torch.zeros((), dtype=torch.float64)))
    return [x - norm for x in logits_V]


def plain_cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    total = 0 * logits.sum()
    for b, t, y in positions(labels):
        total = total - plain_log_softmax(logits[b, t])[y]
    return total, len(positions(labels))


def plain_undial(
    student: Tensor, teacher: Tensor, labels: Tensor, strength: float, weights: Tensor | None = None
) -> tuple[Tensor, int]:
    total = 0 * student.sum()
    for b, t, y in positions(labels):
        lowered = [float(x) - strength * (k == y) for k, x in enumerate(teacher[b, t])]
        exps = [math.exp(x - max(lowered)) for x in lowered]
        log_q = plain_log_softmax(student[b, t])
        entropy = -sum(e / sum(exps) * q for e, q in zip(exps, log_q, strict=True))
        total = total + (1.0 if weights is None else float(weights[b, t + 1])) * entropy
    return total, len(positions(labels))


def plain_npo(logits: Tensor, labels: Tensor, reference: Tensor, beta: float) -> tuple[Tensor, int]:
    total, counted = 0 * logits.sum(), 0
    for b in range(len(labels)):
        if not any(row == b for row, _, _ in positions(labels)):
            continue
        counted += 1
        logp = sum(plain_log_softmax(logits[b, t])[y] for r, t, y in positions(labels) if r == b)
        ratio = logp - float(reference[b])
        total = total + (2 / beta) * torch.log(1 + torch.exp(beta * ratio))
    return total, counted


def plain_kl(student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    total = 0 * student.sum()
    for b, t, _ in positions(labels):
        log_q = plain_log_softmax(student[b, t])
        log_p = [float(x) for x in plain_log_softmax(teacher[b, t])]
        total = total + sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))
    return total, len(positions(labels))


def agree(ours: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], at: Tensor) -> None:
    """Same value and same gradient at a point, to 1e-10."""
    a, b = at.clone().requires_grad_(), at.clone().requires_grad_()
    value, expected = ours(a), plain(b)
    torch.testing.assert_close(value, expected, rtol=1e-10, atol=1e-10)
    (grad,), (expected_grad,) = torch.autograd.grad(value, a), torch.autograd.grad(expected, b)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-10)


def mean(result: tuple[Tensor, int]) -> Tensor:
    return result[0] / max(result[1], 1)


@pytest.fixture(params=list(LAYOUTS))
def labels(request: pytest.FixtureRequest) -> Tensor:
    return torch.tensor(LAYOUTS[request.param])


@pytest.mark.parametrize("strength", STRENGTHS)
def test_undial_equals_the_plain_formula(labels: Tensor, strength: float) -> None:
    student, teacher = logits_like(labels, 1), logits_like(labels, 2)
    agree(
        lambda s: undial_loss(s, teacher, labels, strength),
        lambda s: mean(plain_undial(s, teacher, labels, strength)),
        student,
    )


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0, 4.0])
def test_npo_equals_the_plain_formula(labels: Tensor, beta: float) -> None:
    reference = sequence_logps(logits_like(labels, 4), labels)
    agree(
        lambda s: npo_loss(s, labels, reference, beta),
        lambda s: mean(plain_npo(s, labels, reference, beta)),
        logits_like(labels, 3),
    )


def test_cross_entropy_and_its_ascent_equal_the_plain_formula(labels: Tensor) -> None:
    logits = logits_like(labels, 5)
    plain = lambda s: mean(plain_cross_entropy(s, labels))  # noqa: E731
    agree(lambda s: cross_entropy_loss(s, labels), plain, logits)
    agree(lambda s: ga_loss(s, labels), lambda s: -plain(s), logits)


def test_kl_equals_the_plain_formula_and_is_zero_at_the_teacher(labels: Tensor) -> None:
    student, teacher = logits_like(labels, 6), logits_like(labels, 7)
    agree(
        lambda s: kl_loss(s, teacher, labels), lambda s: mean(plain_kl(s, teacher, labels)), student
    )
    same = teacher.clone().requires_grad_()
    loss = kl_loss(same, teacher, labels)
    (grad,) = torch.autograd.grad(loss, same)
    assert abs(float(loss.detach())) < 1e-12
    assert float(grad.abs().max()) < 1e-12


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_undial_and_npo_hold_on_any_shape_and_any_labels(data: st.DataObject) -> None:
    rows, length = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    vocabulary = data.draw(st.integers(2, 5))
    token = st.one_of(st.just(IGNORE), st.integers(0, vocabulary - 1))
    row = st.lists(token, min_size=length, max_size=length)
    labels = torch.tensor(data.draw(st.lists(row, min_size=rows, max_size=rows)))
    seed = data.draw(st.integers(0, 1000))
    student, teacher = (logits_like(labels, seed + i, vocabulary) for i in range(2))
    strength, beta = data.draw(st.floats(0, 40)), data.draw(st.floats(0.01, 2))
    agree(
        lambda s: undial_loss(s, teacher, labels, strength),
        lambda s: mean(plain_undial(s, teacher, labels, strength)),
        student,
    )
    reference = sequence_logps(teacher, labels)
    agree(
        lambda s: npo_loss(s, labels, reference, beta),
        lambda s: mean(plain_npo(s, labels, reference, beta)),
        student,
    )


def every_loss(labels: Tensor, vocabulary: int = VOCABULARY) -> dict[str, Callable[..., Tensor]]:
    """Each public loss as a function of the student's logits (and keyword arguments)."""
    teacher = logits_like(labels, 11, vocabulary)
    reference = sequence_logps(teacher, labels)
    return {
        "undial": lambda s, **k: undial_loss(s, teacher.to(s.dtype), labels, 10.0, **k),
        "npo": lambda s, **k: npo_loss(s, labels, reference, 0.1, **k),
        "ga": lambda s, **k: ga_loss(s, labels, **k),
        "cross_entropy": lambda s, **k: cross_entropy_loss(s, labels, **k),
        "kl": lambda s, **k: kl_loss(s, teacher.to(s.dtype), labels, **k),
    }


NAMES = ("undial", "npo", "ga", "cross_entropy", "kl")


@pytest.mark.parametrize("name", NAMES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    labels = torch.tensor([[X, 1, 2, X], [X, X, X, 0]])
    point = logits_like(labels, 12, 3).requires_grad_()
    assert torch.autograd.gradcheck(every_loss(labels, 3)[name], (point,), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "rows", [[[X, X, X], [X, X, X]], [[2, X, X], [1, X, X]], [[3]]], ids=["none", "first", "short"]
)
def test_without_a_target_token_the_loss_is_zero_with_its_graph(
    name: str, rows: list[list[int]]
) -> None:
    labels = torch.tensor(rows)
    for items in (None, 5, torch.tensor(0)):
        logits = logits_like(labels, 13).requires_grad_()
        loss = every_loss(labels)[name](logits, num_items_in_batch=items)
        loss.backward()
        assert float(loss.detach()) == 0
        assert logits.grad is not None
        assert not logits.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_num_items_in_batch_replaces_the_divisor(labels: Tensor, name: str) -> None:
    logits, loss = logits_like(labels, 14), every_loss(labels)[name]
    rows = len({b for b, _, _ in positions(labels)})
    count = rows if name == "npo" else len(positions(labels))
    total = loss(logits) * count
    for items in (1, 17, torch.tensor(17), torch.tensor(17.0)):
        torch.testing.assert_close(loss(logits, num_items_in_batch=items), total / int(items))


@pytest.mark.parametrize("name", NAMES)
def test_shards_of_a_batch_add_up_under_num_items_in_batch(labels: Tensor, name: str) -> None:
    logits, teacher = logits_like(labels, 15), logits_like(labels, 16)
    reference = sequence_logps(teacher, labels)

    def loss(rows: slice, items: int | None) -> Tensor:
        s, t, y, r = logits[rows], teacher[rows], labels[rows], reference[rows]
        return {
            "undial": lambda: undial_loss(s, t, y, 3.0, num_items_in_batch=items),
            "npo": lambda: npo_loss(s, y, r, 0.1, num_items_in_batch=items),
            "ga": lambda: ga_loss(s, y, items),
            "cross_entropy": lambda: cross_entropy_loss(s, y, items),
            "kl": lambda: kl_loss(s, t, y, items),
        }[name]()

    rows = len({b for b, _, _ in positions(labels)})
    items = rows if name == "npo" else len(positions(labels))
    parts = sum(loss(slice(i, i + 1), items) for i in range(len(labels)))
    torch.testing.assert_close(parts, loss(slice(None), None), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_undial_target_lowers_only_the_target_token(strength: float) -> None:
    teacher = logits_like(torch.zeros(1, 5), 20)[0]
    targets = torch.tensor([0, 6, 3, 3, 1])
    found, before = undial_target(teacher, targets, strength), teacher.softmax(-1)
    for row, y in enumerate(targets.tolist()):
        odds, odds_before = found[row] / found[row, y], before[row] / before[row, y]
        for k in range(VOCABULARY):
            factor = 1 if k == y else math.exp(strength)
            assert float(odds[k]) == pytest.approx(float(odds_before[k]) * factor, rel=1e-9)
    torch.testing.assert_close(found.sum(-1), torch.ones(5, dtype=torch.float64))


def test_undial_at_strength_zero_distils_the_teacher_itself(labels: Tensor) -> None:
    teacher = logits_like(labels, 21)
    flat = teacher.reshape(-1, VOCABULARY)
    target = undial_target(flat, torch.zeros(len(flat), dtype=torch.long), 0.0)
    torch.testing.assert_close(target, flat.softmax(-1))
    student = teacher.clone().requires_grad_()
    (grad,) = torch.autograd.grad(undial_loss(student, teacher, labels, 0.0), student)
    assert float(grad.abs().max()) < 1e-12
    (moved,) = torch.autograd.grad(undial_loss(student, teacher, labels, 3.0), student)
    assert float(moved.abs().max()) > 1e-4


def test_the_teacher_receives_no_gradient(labels: Tensor) -> None:
    student = logits_like(labels, 22).requires_grad_()
    teacher = logits_like(labels, 23).requires_grad_()
    reference = sequence_logps(teacher, labels)
    loss = undial_loss(student, teacher, labels, 10.0) + kl_loss(student, teacher, labels)
    (loss + npo_loss(student, labels, reference, 0.1)).backward()
    assert student.grad is not None
    assert student.grad.any()
    assert teacher.grad is None


def test_weights_scale_each_position_and_leave_the_divisor_alone(labels: Tensor) -> None:
    student, teacher = logits_like(labels, 24), logits_like(labels, 25)
    weights = torch.rand(labels.shape, dtype=torch.float64) * 9
    agree(
        lambda s: undial_loss(s, teacher, labels, 10.0, weights),
        lambda s: mean(plain_undial(s, teacher, labels, 10.0, weights)),
        student,
    )
    plain = undial_loss(student, teacher, labels, 10.0)
    tenfold = undial_loss(student, teacher, labels, 10.0, torch.full_like(weights, 10.0))
    torch.testing.assert_close(tenfold, 10 * plain)
    none = undial_loss(student, teacher, labels, 10.0, torch.zeros_like(weights))
    assert float(none) == 0


def test_npo_tends_to_ascent_on_summed_log_probabilities_as_beta_vanishes(labels: Tensor) -> None:
    logits = logits_like(labels, 26).requires_grad_()
    reference = sequence_logps(logits_like(labels, 27), labels)
    (npo,) = torch.autograd.grad(npo_loss(logits, labels, reference, 1e-7), logits)
    negative, _ = plain_cross_entropy(logits, labels)
    (ascent,) = torch.autograd.grad(-negative, logits)
    rows = len({b for b, _, _ in positions(labels)})
    torch.testing.assert_close(npo, ascent / rows, rtol=1e-5, atol=1e-7)


def test_npo_starts_at_two_log_two_over_beta_with_the_gradient_of_ascent(labels: Tensor) -> None:
    logits = logits_like(labels, 28).requires_grad_()
    loss = npo_loss(logits, labels, sequence_logps(logits, labels), 0.1)
    assert float(loss.detach()) == pytest.approx(2 / 0.1 * math.log(2))
    (grad,) = torch.autograd.grad(loss, logits)
    rows = len({b for b, _, _ in positions(labels)})
    (ascent,) = torch.autograd.grad(sequence_logps(logits, labels).sum() / rows, logits)
    torch.testing.assert_close(grad, ascent, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padding_never_touches_the_token_at_minus_one_hundred(name: str, left: bool) -> None:
    vocabulary = 110
    inner = torch.tensor([[X, X, 10, 109, 3]])
    padding = torch.full((1, 4), X)
    labels = torch.cat([padding, inner] if left else [inner, padding], 1)
    logits = logits_like(inner, 29, vocabulary)
    teacher = logits_like(inner, 30, vocabulary)
    # At the place -100 indexes (token V - 100 = 10), padding logits are made to stand out.
    loud = torch.zeros(1, 4, vocabulary, dtype=torch.float64)
    loud[..., vocabulary - 100] = 50

    def padded(x: Tensor) -> Tensor:
        return torch.cat([loud, x] if left else [x, loud], 1)

    def loss(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return {
            "undial": lambda: undial_loss(s, t, y, 30.0),
            "npo": lambda: npo_loss(s, y, sequence_logps(t, y), 0.1),
            "ga": lambda: ga_loss(s, y),
            "cross_entropy": lambda: cross_entropy_loss(s, y),
            "kl": lambda: kl_loss(s, t, y),
        }[name]()

    short, long = logits.clone().requires_grad_(), padded(logits).requires_grad_()
    value, expected = loss(long, padded(teacher), labels), loss(short, teacher, inner)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    (grad,) = torch.autograd.grad(value, long)
    (expected_grad,) = torch.autograd.grad(expected, short)
    zeros = torch.zeros_like(loud)
    around = [zeros, expected_grad] if left else [expected_grad, zeros]
    torch.testing.assert_close(grad, torch.cat(around, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_logits_reduce_in_float32(
    labels: Tensor, name: str, dtype: torch.dtype
) -> None:
    half = logits_like(labels, 31).to(dtype)
    teacher = logits_like(labels, 32).to(dtype)

    def loss(s: Tensor, t: Tensor) -> Tensor:
        reference = sequence_logps(t, labels)
        return {
            "undial": lambda: undial_loss(s, t, labels, 10.0),
            "npo": lambda: npo_loss(s, labels, reference, 0.1),
            "ga": lambda: ga_loss(s, labels),
            "cross_entropy": lambda: cross_entropy_loss(s, labels),
            "kl": lambda: kl_loss(s, t, labels),
        }[name]()

    found = loss(half, teacher)
    assert found.dtype == torch.float32
    assert float(found) == float(loss(half.float(), teacher.float()))


def test_a_huge_strength_stays_finite_and_removes_the_target_token(labels: Tensor) -> None:
    student = logits_like(labels, 33).float().requires_grad_()
    teacher = logits_like(labels, 34).float()
    loss = undial_loss(student, teacher, labels, 1e4)
    (grad,) = torch.autograd.grad(loss, student)
    assert torch.isfinite(loss)
    assert torch.isfinite(grad).all()
    for b, t, y in positions(labels):
        assert float(grad[b, t, y]) > 0
