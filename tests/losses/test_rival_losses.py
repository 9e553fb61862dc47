"""What the losses of ME+GD, LoKU, FLAT, JensUn, SHRED and adaptive RMU do in their limits, and what
their authors' code computes where it is meant to be the same."""

from __future__ import annotations

import math

import pytest
import torch
from loss_cases import FLATS, LABELS, NAMES, STRENGTH, X, dense, fused, gradients, make, softmax
from torch import Tensor

from undial_cli.losses import (
    Projection,
    adaptive_rmu_forget_loss,
    flat_loss,
    inverted_hinge_loss,
    jensun_loss,
    js_loss,
    kl_loss,
    max_entropy_loss,
    rmu_forget_loss,
    shred_loss,
    undial_loss,
)
from undial_cli.losses.divergences import cycle_tokens, js_per_position, js_to_token
from undial_cli.losses.shred import select_unlikely


def logits_of(*rows: list[float]) -> Tensor:
    """Logits of one sequence, one row a position, and one more that predicts nothing."""
    return torch.tensor([[*rows, [0.0] * len(rows[0])]], dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("name", NAMES)
def test_padding_on_either_side_changes_nothing(name: str) -> None:
    case = make(LABELS.index_fill(1, torch.tensor([0]), X))
    wide = make(torch.nn.functional.pad(case.labels, (2, 3), value=X), seed=1)
    with torch.no_grad():
        wide.head, wide.reference = case.head, case.reference
        wide.hidden[:, 2:8], wide.teacher[:, 2:8] = case.hidden, case.teacher
        wide.focus[:, 2:8] = case.focus
    for ours, theirs in (
        (dense(name, wide, wide.logits), dense(name, case, case.logits)),
        (fused(name, wide, 2), fused(name, case, 2)),
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            gradients(ours, [wide.hidden])[0][:, 2:8], gradients(theirs, [case.hidden])[0]
        )


def test_maximum_entropy_is_zero_at_uniform_logits_and_blind_to_a_shift_and_to_the_targets() -> (
    None
):
    logits = make().logits.detach().requires_grad_()
    value, shift = max_entropy_loss(logits, LABELS), torch.randn(*LABELS.shape, 1).double() * 9
    torch.testing.assert_close(max_entropy_loss(logits + shift, LABELS), value)
    torch.testing.assert_close(max_entropy_loss(logits, LABELS.clamp(max=1)), value)
    assert float(max_entropy_loss(shift.expand_as(logits), LABELS)) == pytest.approx(0, abs=1e-14)
    (slope,) = gradients(9 * value, [logits])  # q - 1/V at each of 9 positions
    mask = slope.any(-1)
    torch.testing.assert_close(slope[mask], logits.detach().softmax(-1)[mask] - 1 / 7)


def test_maximum_entropy_is_what_its_authors_add_a_trifle_to() -> None:
    logits = make().logits.detach()
    losses = [
        sum((math.log(1 / 7) - math.log(x + 1e-12)) / 7 for x in softmax(logits[b, t - 1].tolist()))
        for b, row in enumerate(LABELS.tolist())
        for t, y in enumerate(row)
        if t and y != X
    ]
    assert float(max_entropy_loss(logits, LABELS)) == pytest.approx(sum(losses) / 9, rel=1e-6)


def test_the_inverted_hinge_is_two_where_the_target_is_certain_and_rests_at_zero() -> None:
    labels = torch.tensor([[X, 2]])
    # Certain; as likely as two others; impossible, where these two share all mass.
    for target, expected in ((800.0, 2.0), (0.0, 1.0), (-800.0, 0.5)):
        value = inverted_hinge_loss(logits_of([0.0, 0.0, target, -800.0]), labels)
        assert float(value.detach()) == pytest.approx(expected, abs=1e-12)
    at_rest = logits_of([0.0, 900.0, 0.0, 0.0])
    value = inverted_hinge_loss(at_rest, labels)
    assert float(value.detach()) == 0
    assert not gradients(value, [at_rest])[0].any()


def test_the_inverted_hinge_lowers_the_target_and_raises_the_likeliest_other_alone() -> None:
    logits = logits_of([1.0, 2.0, 4.0, 1.5])
    (slope,) = gradients(inverted_hinge_loss(logits, torch.tensor([[X, 2]])), [logits])
    assert slope[0, 0].sign().tolist() == [-1, -1, 1, -1]
    assert int(slope[0, 0].argmin()) == 1


def test_the_inverted_hinge_is_its_authors_clamped_margin() -> None:
    logits, losses = make().logits.detach(), []
    for b, row in enumerate(LABELS.tolist()):
        for t, y in enumerate(row):
            if t and y != X:
                q = softmax(logits[b, t - 1].tolist())
                losses.append(max(0.0, 1.0 + q[y] - max(q[:y] + q[y + 1 :])))
    assert float(inverted_hinge_loss(logits, LABELS)) == pytest.approx(sum(losses) / 9, rel=1e-9)


@pytest.mark.parametrize("name", FLATS)
def test_flat_learns_the_template_and_forgets_the_answer(name: str) -> None:
    logits, labels = make().logits.detach()[:2].requires_grad_(), LABELS[:2]
    other, divergence = logits.detach().roll(1, 0).requires_grad_(), name.removeprefix("flat_")
    value = flat_loss(logits, labels, other, labels.roll(1, 0), divergence)
    for leaf, own, sign in ((logits, labels, 1), (other, labels.roll(1, 0), -1)):
        (slope,) = gradients(
            flat_loss(logits, labels, other, labels.roll(1, 0), divergence), [leaf]
        )
        for b, row in enumerate(own.tolist()):
            for t, y in enumerate(row):
                assert y == X or float(slope[b, t - 1, y]) * sign > 0
    assert math.isfinite(float(value.detach()))


def test_flat_by_total_variation_is_zero_between_equals_and_at_most_half_a_tanh() -> None:
    logits = make().logits.detach()
    assert float(flat_loss(logits, LABELS, logits, LABELS, "tv")) == 0
    certain = torch.full((1, 2, 3), -1e4).index_fill_(2, torch.tensor([1]), 1e4)
    yes, no = torch.tensor([[X, 1]]), torch.tensor([[X, 2]])
    assert float(flat_loss(certain, yes, certain, no, "tv")) == pytest.approx(math.tanh(1) / 2)
    assert float(flat_loss(certain, no, certain, yes, "tv")) == pytest.approx(-math.tanh(1) / 2)


def test_flat_is_its_authors_code_on_one_pair_without_padding() -> None:
    """Their P is a mean over a whole micro-batch; their sign turns -log p into p first."""
    labels = torch.tensor([[X, 1, 0, 3], [X, 5, 2, 4]])
    logits = make(labels).logits.detach()
    chances = [
        sum(softmax(logits[b, t - 1].tolist())[row[t]] for t in (1, 2, 3)) / 3
        for b, row in enumerate(labels.tolist())
    ]
    regular, peer = chances[1], chances[0]
    expected = {
        "kl": -regular + math.exp(peer - 1),
        "pearson": -regular + (peer * peer / 4 + peer),
        "js": math.log(1 + math.exp(-regular)) - math.log(2)
        + (peer + math.log(1 + math.exp(-peer))) - math.log(2),
        "tv": -math.tanh(regular) / 2 + math.tanh(peer) / 2,
    }  # fmt: skip
    for divergence, value in expected.items():
        ours = flat_loss(logits[:1], labels[:1], logits[1:], labels[1:], divergence)
        assert float(ours) == pytest.approx(value, rel=1e-9)


def test_js_to_a_token_is_js_to_its_one_hot_distribution_between_zero_and_log_two() -> None:
    q = make().logits.detach().softmax(-1).flatten(0, 1)
    one_hot = torch.eye(7, dtype=torch.float64)[torch.arange(len(q)) % 7]
    tokens = q.gather(1, one_hot.argmax(-1, keepdim=True))[:, 0]
    torch.testing.assert_close(
        js_to_token(tokens.log()), js_per_position(q.log(), (one_hot + 1e-300).log())
    )
    ends = js_to_token(torch.tensor([0.0, -1e4], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, math.log(2)]).double())


def test_js_to_the_teacher_is_symmetric_zero_where_both_agree_and_at_most_log_two() -> None:
    case = make()
    student, teacher = (
        case.logits.detach().requires_grad_(),
        case.head.logits(case.teacher).detach(),
    )
    value = js_loss(student, teacher, LABELS)
    torch.testing.assert_close(value, js_loss(teacher, student.detach(), LABELS))
    assert 0 < float(value.detach()) < math.log(2)
    same = js_loss(student, student.detach(), LABELS)
    assert float(same.detach()) == pytest.approx(0, abs=1e-15)
    assert float(gradients(same, [student])[0].abs().max()) < 1e-15
    far = js_loss(
        torch.eye(2)[None] * 1e4, torch.eye(2).flip(0)[None] * 1e4, torch.tensor([[X, 1]])
    )
    assert float(far) == pytest.approx(math.log(2))


def test_the_refusal_begins_again_where_it_ends() -> None:
    assert cycle_tokens([5, 2, 0, 3], [2, 0, 4, 3]) == [0, 1, 0, 1, 0, 6, 7, 8]
    labels, refusal = torch.tensor([[X, 0, 0, 0]]), torch.tensor([[X, 1, 2]])
    logits = make(labels).logits.detach()[:1]
    q = [softmax(x) for x in logits[0].tolist()]
    values = [math.log(q[0][1]), math.log(q[1][2]), math.log(q[2][1])]
    expected = js_to_token(torch.tensor(values, dtype=torch.float64)).mean()
    torch.testing.assert_close(jensun_loss(logits, labels, refusal), expected)


def test_jensun_is_its_authors_code_where_the_refusal_is_one_token() -> None:
    """Of more tokens their vector of ones is no distribution; and they know no -100."""
    labels = torch.tensor([[X, 1, 0, 3]])
    logits, losses = make(labels).logits.detach()[:1], []
    for row in logits[0, :3].tolist():
        q, peak = softmax(row), [float(k == 4) for k in range(7)]
        m = [max((a + b) / 2, 1e-9) for a, b in zip(q, peak, strict=True)]
        sides = [[max(x, 1e-9) for x in side] for side in (q, peak)]
        losses.append(
            sum(x * math.log(x / y) for side in sides for x, y in zip(side, m, strict=True)) / 2
        )
    ours = float(jensun_loss(logits, labels, torch.tensor([[X, 4]])))
    assert ours == pytest.approx(sum(losses) / 3, rel=1e-6)


def test_the_unlikeliest_share_of_each_sequence_is_chosen_after_its_first_tokens() -> None:
    counts = torch.tensor([4, 0, 3, 1])
    sequence = torch.arange(4).repeat_interleave(counts)
    logps = torch.tensor([-5.0, -1.0, -9.0, -2.0, -1.0, -1.0, -3.0, -4.0])

    def chosen(share: float, skip: int) -> list[int]:
        return select_unlikely(logps, sequence, counts, share, skip).nonzero()[:, 0].tolist()

    assert chosen(0.5, 0) == [0, 2, 4, 6, 7]  # of equal ones the first
    assert chosen(0.5, 1) == [2, 3, 6]  # ceil(3 / 2), ceil(2 / 2), none of none
    assert chosen(0.0, 0) == []
    assert chosen(1.0, 0) == list(range(8))
    assert chosen(1.0, 9) == []


def test_shred_of_all_tokens_and_logits_is_undial_and_of_no_token_kl_to_the_teacher() -> None:
    case = make()
    logits, teacher = case.logits.detach().requires_grad_(), case.head.logits(case.teacher)
    every = shred_loss(logits, teacher, LABELS, STRENGTH, 1.0, 7)
    undial = undial_loss(logits, teacher, LABELS, STRENGTH)  # which is higher by p's own entropy
    torch.testing.assert_close(gradients(every, [logits]), gradients(undial, [logits]))
    assert float(every.detach()) < float(undial.detach())
    none = shred_loss(logits, teacher, LABELS, STRENGTH, 0.0, 7)
    torch.testing.assert_close(none, kl_loss(logits, teacher, LABELS))
    torch.testing.assert_close(
        gradients(none, [logits]), gradients(kl_loss(logits, teacher, LABELS), [logits])
    )
    same = shred_loss(teacher, teacher, LABELS, STRENGTH, 0.0, 99)
    assert float(same.detach()) == pytest.approx(0, abs=1e-14)


def test_adaptive_rmu_is_rmu_towards_a_vector_as_long_as_the_frozen_activations() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, frozen = torch.randn(2, *LABELS.shape, 4, dtype=torch.float64, generator=generator)
    control = torch.rand(4, dtype=torch.float64, generator=generator)
    # One sequence, all of whose tokens are targets: what the authors' code has as a micro-batch.
    labels = torch.tensor([[X, 1, 2, 3, 4, 5]])
    lengths = [math.sqrt(sum(x * x for x in row)) for row in frozen[0, 1:].tolist()]
    expected = rmu_forget_loss(hidden[:1], labels, control * sum(lengths) / 5)
    ours = adaptive_rmu_forget_loss(hidden[:1], frozen[:1], labels, control)
    torch.testing.assert_close(ours, expected)
    # Each sequence has its own length; none without a target.
    whole = adaptive_rmu_forget_loss(hidden, frozen, LABELS, control)
    rows = [
        adaptive_rmu_forget_loss(hidden[b : b + 1], frozen[b : b + 1], LABELS[b : b + 1], control)
        for b in (0, 1, 4)
    ]
    torch.testing.assert_close(whole, torch.stack(rows).mean())
    torch.testing.assert_close(
        adaptive_rmu_forget_loss(hidden, 3 * frozen, LABELS, control),
        adaptive_rmu_forget_loss(hidden, frozen, LABELS, 3 * control),
    )


def test_adaptive_rmu_moves_by_finite_differences_and_no_gradient_reaches_what_is_frozen() -> None:
    hidden = torch.randn(*LABELS.shape, 3, dtype=torch.float64).requires_grad_()
    frozen, control = torch.randn_like(hidden).requires_grad_(), torch.ones(3).double()
    assert torch.autograd.gradcheck(
        lambda h: adaptive_rmu_forget_loss(h, frozen, LABELS, control), (hidden,)
    )
    adaptive_rmu_forget_loss(hidden, frozen, LABELS, control).backward()
    assert frozen.grad is None
    none = adaptive_rmu_forget_loss(hidden, frozen, torch.full_like(LABELS, X), control)
    assert float(none.detach()) == 0
    large = torch.full((1, 2, 3), 6e4, dtype=torch.float16)  # its square is no float16
    found = adaptive_rmu_forget_loss(large, large, torch.tensor([[X, 1]]), torch.zeros(3))
    assert float(found) == pytest.approx(3.6e9, rel=1e-3)


def test_a_loss_of_two_tokens_has_a_rival_in_the_other() -> None:
    head = Projection(torch.eye(2, dtype=torch.float64))
    logits = logits_of([1.0, 0.0])
    value = inverted_hinge_loss(head.logits(logits), torch.tensor([[X, 0]]))
    assert float(value.detach()) == pytest.approx(1 + math.tanh(0.5))
