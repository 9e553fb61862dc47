"""RMU's losses against their formula on Python numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from undial_cli.losses import IGNORE, rmu_forget_loss, rmu_retain_loss
from undial_cli.losses.activations import squared_error_sum

X = IGNORE
LABELS = torch.tensor([[X, X, 3, 4, 5, X], [1, 0, 3, X, 4, 0], [5, X, X, X, X, X], [X] * 5 + [2]])


def plain_rmu(hidden: Tensor, wanted: Tensor, labels: Tensor) -> float:
    means = []
    for b, row in enumerate(labels.tolist()):
        errors = [
            sum((float(x) - float(w)) ** 2 for x, w in zip(hidden[b, t], wanted[b, t], strict=True))
            / hidden.shape[-1]
            for t, y in enumerate(row)
            if t and y != X
        ]
        means += [sum(errors) / len(errors)] if errors else []
    return sum(means) / max(len(means), 1)


def gradient(value: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(value, leaf)[0]


def activations(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, frozen = torch.randn(2, *LABELS.shape, 4, dtype=torch.float64, generator=generator)
    return hidden.requires_grad_(), frozen, torch.rand(4, dtype=torch.float64, generator=generator)


def test_rmu_is_its_formula() -> None:
    hidden, frozen, control = activations()
    at = hidden.detach()
    value = float(rmu_forget_loss(hidden, LABELS, control).detach())
    assert value == pytest.approx(plain_rmu(at, control.expand_as(at), LABELS), rel=1e-12)
    retain = float(rmu_retain_loss(hidden, frozen, LABELS).detach())
    assert retain == pytest.approx(plain_rmu(at, frozen, LABELS), rel=1e-12)
    items = float(rmu_retain_loss(hidden, frozen, LABELS, num_items_in_batch=17).detach())
    assert items == pytest.approx(3 * retain / 17)


def test_rmu_gradients_are_what_finite_differences_say() -> None:
    hidden, frozen, control = activations()
    rows, counts = torch.tensor([0, 0, 2]), [2, 0, 1]
    few = hidden[0, :3].detach().requires_grad_()
    forget = lambda h: squared_error_sum(h, control, rows, counts)  # noqa: E731
    retain = lambda h: squared_error_sum(h, frozen[0, :3], rows, counts)  # noqa: E731
    assert torch.autograd.gradcheck(forget, (few,))
    assert torch.autograd.gradcheck(retain, (few,))
    assert torch.autograd.gradcheck(lambda h: rmu_forget_loss(h, LABELS[:2], control), hidden[:2])


def test_rmu_looks_at_the_targets_own_places() -> None:
    hidden, frozen, control = activations()
    own = torch.zeros_like(LABELS, dtype=torch.bool)
    own[:, 1:] = LABELS[:, 1:] != X
    for value in (
        rmu_forget_loss(hidden, LABELS, control),
        rmu_retain_loss(hidden, frozen, LABELS),
    ):
        slope = gradient(value, hidden)
        assert torch.equal(slope.any(-1), own)


def test_rmu_is_zero_where_activations_are_as_wanted() -> None:
    control = activations()[2]
    same = control.expand(*LABELS.shape, 4).clone().requires_grad_()
    for value in (rmu_forget_loss(same, LABELS, control), rmu_retain_loss(same, same, LABELS)):
        assert float(value.detach()) == 0
        assert not gradient(value, same).any()


def test_rmu_weighs_sequences_equally_whatever_their_length() -> None:  # pragma: allowlist secret
    control, labels = torch.zeros(4), torch.tensor([[X, 1, X, X, X, X], [X, 1, 1, 1, 1, 1]])
    hidden = torch.ones(2, 6, 4)
    hidden[1] *= 3
    for either in (hidden, hidden.flip(0)):
        assert float(rmu_forget_loss(either, labels, control)) == pytest.approx((1 + 9) / 2)


def test_rmu_without_a_target_is_zero_with_its_graph_and_half_precision_is_widened() -> None:
    hidden, frozen, control = activations()
    none = torch.full_like(LABELS, X)
    for value in (rmu_forget_loss(hidden, none, control), rmu_retain_loss(hidden, frozen, none)):
        assert float(value.detach()) == 0
        assert not gradient(value, hidden).any()
    empty = torch.zeros(0, 4, requires_grad=True)
    value = squared_error_sum(empty, control, torch.zeros(0, dtype=torch.long), [])
    assert gradient(value, empty).shape == (0, 4)
    large = torch.full((*LABELS.shape, 4), 6e4, dtype=torch.float16)  # its square is no float16
    found = rmu_forget_loss(large, LABELS, torch.zeros(4))
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(3.6e9, rel=1e-3)


def test_no_gradient_reaches_the_frozen_activations() -> None:
    hidden, frozen, _ = activations()
    rmu_retain_loss(hidden, frozen.requires_grad_(), LABELS).backward()
    assert frozen.grad is None
    assert hidden.grad is not None
