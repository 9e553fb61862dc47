"""The losses of the other methods, dense and fused, against their formulas on Python numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import (
    ALONE,
    BETA,
    CHUNKS,
    COUNTS,
    DELTA,
    FLATS,
    LABELS,
    NAMES,
    VOCABULARY,
    WIDTH,
    Case,
    X,
    dense,
    fused,
    gradients,
    make,
    plain,
    targets_of,
)
from torch import Tensor

from undial_cli.losses import (
    Projection,
    ceu_loss,
    ga_loss,
    pdu_forget_loss,
    satimp_loss,
    select_targets,
    sequence_logps,
    simnpo_loss,
    unilogit_loss,
    wga_loss,
)
from undial_cli.losses.preference import dpo_per_pair, npo_per_sequence, simnpo_per_sequence
from undial_cli.losses.targets import as_targets
from undial_cli.losses.tokens import (
    ceu_per_position,
    pdu_forget_per_position,
    satimp_per_token,
    unilogit_per_token,
    wga_per_token,
)


@pytest.mark.parametrize("name", NAMES)
def test_a_dense_loss_is_its_formula_and_its_gradient_what_finite_differences_say(
    name: str,
) -> None:
    case, step = make(), 1e-5
    logits = case.logits.detach().requires_grad_()
    value = dense(name, case, logits)
    at, fixed = logits.tolist(), logits.tolist()
    total, count = plain(name, case, at, fixed)
    assert count == COUNTS[name]
    assert float(value.detach()) == pytest.approx(total / count, rel=1e-10)
    items = dense(name, case, logits, num_items_in_batch=torch.tensor(17))
    assert float(items.detach()) == pytest.approx(total / 17, rel=1e-10)
    expected = torch.zeros_like(logits)
    for b, t, k in torch.cartesian_prod(*map(torch.arange, logits.shape)).tolist():
        x, sums = at[b][t][k], []
        for at[b][t][k] in (x + step, x - step):
            sums.append(plain(name, case, at, fixed)[0] / count)
        at[b][t][k] = x
        expected[b, t, k] = (sums[0] - sums[1]) / (2 * step)
    torch.testing.assert_close(gradients(value, [logits])[0], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_every_chunk_size_gives_the_dense_loss_and_its_gradients(name: str) -> None:
    case = make()
    value = COUNTS[name] * dense(name, case, case.logits)
    expected = gradients(-2.5 * value, case.leaves)
    for size in CHUNKS:
        found = fused(name, case, size)
        torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-10)
        for ours, theirs in zip(gradients(-2.5 * found, case.leaves), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(NAMES),
    rows=st.lists(
        st.lists(st.sampled_from([X, X, 0, 1, 6]), min_size=4, max_size=4), min_size=1, max_size=3
    ).map(lambda rows: [row for row in rows for _ in range(2)]),
    size=st.one_of(st.none(), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_dense_and_fused_are_the_formula_on_any_labels(
    name: str, rows: list[list[int]], size: int | None, seed: int
) -> None:
    case = make(torch.tensor(rows), seed)
    logits = case.logits.tolist()
    total, count = plain(name, case, logits, logits)
    assert float(fused(name, case, size).detach()) == pytest.approx(total, rel=1e-9, abs=1e-9)
    value = float(dense(name, case, case.logits).detach())
    assert value == pytest.approx(total / max(count, 1), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_target_the_loss_is_zero_with_its_graph(name: str) -> None:
    case = make(LABELS[2:4])
    for value in (dense(name, case, case.logits), fused(name, case)):
        assert float(value.detach()) == 0
        assert not any(bool(g.any()) for g in gradients(value, case.leaves))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ALONE)
def test_half_precision_logits_reduce_in_float32(name: str, dtype: torch.dtype) -> None:
    case = make()
    half = case.logits.detach().to(dtype)
    found, expected = dense(name, case, half), dense(name, case, half.float())
    assert found.dtype == torch.float32
    assert float(found.detach()) == float(expected.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ALONE)
def test_certain_and_impossible_targets_keep_loss_and_gradient_finite(
    name: str, dtype: torch.dtype
) -> None:
    """Logits as large as 1e4, through a head that is the identity."""
    case, generator = make(), torch.Generator().manual_seed(1)
    case.head = Projection(torch.eye(VOCABULARY, dtype=dtype))
    mask, targets, _ = select_targets(LABELS)
    signs = (-1.0) ** torch.arange(len(targets))
    for far in (0.0, 30.0, 200.0, 1e4):
        logits = torch.randn(*LABELS.shape, VOCABULARY, generator=generator)
        logits[mask] += far * signs[:, None] * torch.eye(VOCABULARY)[targets]
        case.hidden = logits.to(dtype).requires_grad_()
        value, total = dense(name, case, case.hidden), fused(name, case, 3)
        torch.testing.assert_close(total, COUNTS[name] * value, rtol=1e-5, atol=1e-5)
        for found in (value, total):
            assert math.isfinite(float(found.detach()))
            assert bool(torch.isfinite(gradients(found, [case.hidden])[0]).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_functions_of_log_probabilities_are_finite_from_certain_to_impossible(
    dtype: torch.dtype,
) -> None:
    for logp in (0.0, -1e-9, -1e-7, -1e-3, -30.0, -200.0):
        logps = torch.tensor([logp], dtype=dtype, requires_grad=True)
        q, rest = math.exp(logp), -math.expm1(logp)
        others = rest and rest * math.log(rest / (1 - 1e-5))
        expected = {
            wga_per_token(logps, 0.5): q**0.5 * logp,
            satimp_per_token(logps, 5.0, 1.0): q**5 * rest * logp,
            unilogit_per_token(logps, 100_000): q * (logp + math.log(1e5)) + others,
        }
        for found, value in expected.items():
            assert float(found.detach()) == pytest.approx(value, rel=1e-5, abs=2e-7)
            assert math.isfinite(float(gradients(found, [logps])[0]))


@pytest.mark.parametrize("name", ALONE)
def test_a_large_vocabulary_costs_float32_no_digits(name: str) -> None:
    case, vocabulary = make(LABELS[:2]), 50_000
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(*case.labels.shape, 4, generator=generator)
    weight = torch.randn(vocabulary, 4, generator=generator)
    case.labels = torch.where(case.labels == X, X, case.labels * 8_000)
    case.hidden, case.head = hidden.requires_grad_(), Projection(weight)
    found = fused(name, case, 2)
    pairs = dict.fromkeys(("dpo", *FLATS), 1)
    count = {"simnpo": 2, "ceu": 3, "jensun": 3, "idknll": 2, **pairs}.get(name, 5)
    case.hidden = hidden.detach().double().requires_grad_()
    expected = count * dense(name, case, case.hidden @ weight.double().T)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    (ours,), (theirs,) = gradients(found, [hidden]), gradients(expected, [case.hidden])
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4 * float(theirs.norm()))


@pytest.mark.parametrize("size", CHUNKS)
@pytest.mark.parametrize("group", [1, 2])
def test_a_loss_of_sequences_is_not_asked_about_those_without_targets(
    group: int, size: int | None
) -> None:
    """`log(-logp)` is infinite, with infinite slope, for a sequence that is not there."""
    case = make()

    def loss(logps: Tensor) -> Tensor:
        return logps.unflatten(0, (-1, group)).sum(1).neg().log()

    found = targets_of(case, size).sequence_sum(loss, group)
    logps = sequence_logps(case.logits, case.labels)
    rows = [[0], [1], [4]] if group == 1 else [[0, 1], [4, 5]]
    expected = torch.stack([(-logps[row].sum()).log() for row in rows]).sum()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    for ours, theirs in zip(
        gradients(found, case.leaves), gradients(expected, case.leaves), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_sums_over_micro_batches_are_those_of_the_batch() -> None:
    for name in NAMES:
        case = make()
        parts: list[Tensor] = []
        for rows in (slice(0, 2), slice(2, 6)):
            fields = (case.hidden, case.teacher, case.labels, case.reference, case.focus)
            hidden, teacher, labels, reference, focus = (x[rows] for x in fields)
            parts.append(fused(name, Case(hidden, case.head, teacher, labels, reference, focus), 3))
        torch.testing.assert_close(parts[0] + parts[1], fused(name, case), rtol=1e-12, atol=0)


# What each loss does in its limits.


def test_simnpo_tends_to_ascent_per_token_as_beta_vanishes() -> None:
    """`d/dx -(2/b) log sigmoid(b x) = -2 sigmoid(-b x)` tends to -1, and `dx = -d log pi / len`."""
    logits = make().logits.detach().requires_grad_()
    (found,) = gradients(simnpo_loss(logits, LABELS, 1e-8, DELTA), [logits])
    lengths = select_targets(LABELS)[0].sum(1)
    mean_logps = sequence_logps(logits, LABELS)[lengths > 0] / lengths[lengths > 0]
    (expected,) = gradients(mean_logps.mean(), [logits])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_simnpo_leaves_a_sequence_alone_once_it_is_far_beyond_its_margin() -> None:
    logps = torch.tensor([-5000.0, -3.0], requires_grad=True)
    (slope,) = gradients(simnpo_per_sequence(logps, torch.tensor([5, 5]), 1.0, 0.0).sum(), [logps])
    assert float(slope[0]) == 0
    assert float(slope[1]) > 0.1


def test_dpo_at_its_reference_is_two_log_two_over_beta_and_prefers_the_alternative() -> None:
    logits = make().logits.detach().requires_grad_()
    case, before = make(), sequence_logps(logits, LABELS).detach()
    case.reference = before
    value = dense("dpo", case, logits)
    assert float(value.detach()) == pytest.approx(2 / BETA * math.log(2))
    (slope,) = gradients(value, [logits])
    moved = sequence_logps((logits - 0.1 * slope).detach(), LABELS) - before
    assert moved.sign().tolist() == [-1, 1, 0, 0, -1, 0]


def test_dpo_without_alternatives_is_npo() -> None:
    """A pair whose alternative has no target: `D_alternative = 0`."""
    labels = torch.stack([LABELS[:2], torch.full_like(LABELS[:2], X)], 1).flatten(0, 1)
    case = make(labels)
    expected = targets_of(case, 2).sequence_sum(lambda x: npo_per_sequence(x, case.reference, BETA))
    torch.testing.assert_close(fused("dpo", case, 2), expected)


def test_no_gradient_reaches_a_reference() -> None:
    reference = torch.zeros(4, requires_grad=True)
    logps = torch.full((4,), -1.0, requires_grad=True)
    dpo_per_pair(logps, reference, BETA).sum().backward()
    assert reference.grad is None
    assert logps.grad is not None


@pytest.mark.parametrize("loss", [lambda s, y: wga_loss(s, y, 0.0),
                                  lambda s, y: satimp_loss(s, y, 0.0, 0.0)])  # fmt: skip
def test_weights_with_exponent_zero_are_gradient_ascent(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    logits = make().logits.detach().requires_grad_()
    found, expected = loss(logits, LABELS), ga_loss(logits, LABELS)
    assert torch.equal(found, expected)
    assert torch.equal(gradients(found, [logits])[0], gradients(expected, [logits])[0])


def test_satimp_without_importance_is_wga() -> None:
    logits = make().logits.detach()
    assert torch.equal(satimp_loss(logits, LABELS, BETA, 0.0), wga_loss(logits, LABELS, BETA))


def test_wga_leaves_a_token_alone_once_it_is_unlikely() -> None:
    labels, norms = torch.tensor([[X, 2]]), []
    for lowered in (0.0, 10.0, 40.0, 200.0):
        logits = torch.zeros(1, 2, 5)
        logits[0, 0, 2] = -lowered
        logits.requires_grad_()
        norms.append(float(gradients(wga_loss(logits, labels, 1.0), [logits])[0].norm()))
    assert norms == sorted(norms, reverse=True)
    assert norms[0] > 0.1
    assert norms[-2] < 1e-15
    assert norms[-1] == 0


@settings(deadline=None, max_examples=40)
@given(
    logits=st.lists(st.floats(-60, 60), min_size=3, max_size=3),
    target=st.integers(0, 2),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_ceu_never_raises_the_target(logits: list[float], target: int, dtype: torch.dtype) -> None:
    hidden = torch.tensor([[logits, logits]], dtype=dtype).requires_grad_()
    one, labels = torch.eye(3, dtype=dtype), torch.tensor([[X, target]])
    chosen = as_targets(hidden[0, :1], one, labels[0, 1:])
    total = chosen.logits_sum(lambda x, _: ceu_per_position(x, labels[0, 1:]))
    for value in (ceu_loss(hidden, labels, skip=0), total):
        slope = gradients(value, [hidden])[0][0, 0]
        q = hidden.detach().to(value.dtype).softmax(-1)[0, 0, target]
        torch.testing.assert_close(slope[target].to(q.dtype), q, rtol=0.01, atol=1e-6)
        assert float(slope[target]) >= 0
        assert float(value.detach()) >= 0


@pytest.mark.parametrize("skip", [0, 1, 2, 3, 9])
def test_ceu_skips_the_first_targets_of_each_sequence_in_loss_gradient_and_divisor(
    skip: int,
) -> None:
    case = make()
    places = [b * 6 + t - 1 for b, row in enumerate(LABELS.tolist())
              for t in [t for t, y in enumerate(row) if t and y != X][skip:]]  # fmt: skip
    logits = case.logits.detach().requires_grad_()
    value = ceu_loss(logits, LABELS, skip)
    (slope,) = gradients(value, [logits])
    moved = slope.flatten(0, 1).any(-1)
    assert moved.nonzero()[:, 0].tolist() == places
    elsewhere = torch.randn_like(logits).masked_fill(moved.view(LABELS.shape)[..., None], 0)
    torch.testing.assert_close(ceu_loss(logits + elsewhere, LABELS, skip), value)
    total = fused("ceu", case, 3, skip=skip)
    torch.testing.assert_close(total, len(places) * value, rtol=1e-10, atol=1e-10)


def test_unilogit_is_zero_at_probability_one_over_v_and_pulls_towards_it() -> None:
    uniform = -math.log(11)
    assert float(unilogit_per_token(torch.tensor([uniform]).double(), 11)) == pytest.approx(
        0, abs=1e-15
    )
    for logp in (-40.0, -5.0, uniform - 0.01, uniform + 0.01, -1.0, -1e-3, 0.0):
        logps = torch.tensor([logp], dtype=torch.float64, requires_grad=True)
        value = unilogit_per_token(logps, 11)
        (slope,) = gradients(value, [logps])
        assert 0 < float(value.detach()) <= math.log(11)
        assert (float(slope) > 0) == (logp > uniform)


def test_unilogit_brings_a_known_token_down_to_one_over_v() -> None:
    logits, labels = torch.zeros(1, 2, 5, dtype=torch.float64), torch.tensor([[X, 3]])
    logits[0, 0] = torch.tensor([0.5, 0.0, -1.0, 3.0, 1.0])
    logits.requires_grad_()
    for _ in range(100):
        (slope,) = gradients(unilogit_loss(logits, labels), [logits])
        logits = (logits - slope).detach().requires_grad_()
    assert float(logits[0, 0].softmax(-1)[3].detach()) == pytest.approx(1 / 5, rel=1e-4)


def test_pdu_is_zero_at_uniform_logits_and_blind_to_a_shift_and_to_the_targets() -> None:
    case = make()
    logits, shift = case.logits.detach(), torch.randn(*LABELS.shape, 1).double() * 10
    value = pdu_forget_loss(logits, LABELS)
    torch.testing.assert_close(pdu_forget_loss(logits + shift, LABELS), value)
    torch.testing.assert_close(pdu_forget_loss(logits, LABELS.clamp(max=1)), value)
    assert float(pdu_forget_loss(shift.expand_as(logits), LABELS)) == pytest.approx(0, abs=1e-20)
    flat = Projection(torch.zeros(VOCABULARY, WIDTH).double(), torch.ones(VOCABULARY).double())
    chosen = as_targets(case.hidden[0], flat, LABELS[0], size=2)
    total = chosen.logits_sum(lambda x, _: pdu_forget_per_position(x))
    assert float(total.detach()) == pytest.approx(0, abs=1e-20)
