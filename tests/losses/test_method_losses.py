"""The losses of the other methods, dense and fused, against their formulas on Python numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from undial_cli.losses import (
    IGNORE,
    Projection,
    ceu_loss,
    dpo_loss,
    ga_loss,
    pdu_forget_loss,
    satimp_loss,
    select_targets,
    sequence_logps,
    simnpo_loss,
    undial_loss,
    unilogit_loss,
    wga_loss,
)
from undial_cli.losses.preference import dpo_per_pair, npo_per_sequence, simnpo_per_sequence
from undial_cli.losses.targets import Targets, TeacherSignal, as_targets
from undial_cli.losses.tokens import (
    ceu_per_position,
    pdu_forget_per_position,
    satimp_per_token,
    unilogit_per_token,
    wga_per_token,
)
from undial_cli.methods import METHODS, make_method

X = IGNORE
# Pairs of rows: both with targets, neither, the first alone; sequences longer than most chunks.
LABELS = torch.tensor([
    [X, X, 3, 4, 5, X], [X, 2, 6, X, X, X],
    [X, X, X, X, X, X], [4, X, X, X, X, X],
    [1, 0, 3, X, 4, 0], [5, X, X, X, X, X],
])  # fmt: skip
VOCABULARY, WIDTH = 7, 3
BETA, DELTA, POWERS, STRENGTH = 0.6, 0.4, (0.7, 1.3), 3.0
NAMES = ("simnpo", "dpo", "wga", "satimp", "ceu", "unilogit", "pdu", "hard_focus", "soft_focus")
CHUNKS = (1, 2, 3, 5, None)
COUNTS = dict.fromkeys(NAMES, 9) | {"simnpo": 3, "dpo": 2, "ceu": 6}  # what LABELS hold


@dataclass
class Case:
    """Hidden states [B, T, D] of student and teacher, what projects them, labels [B, T]."""

    hidden: Tensor
    head: Projection
    teacher: Tensor
    labels: Tensor
    reference: Tensor
    focus: Tensor

    @property
    def logits(self) -> Tensor:
        return self.head.logits(self.hidden)

    @property
    def leaves(self) -> list[Tensor]:
        bias = self.head.bias_V
        return [self.hidden, self.head.weight_VD, *([] if bias is None else [bias])]

    def weights(self, name: str) -> Tensor:
        """Weights [B, T] of focus tokens at their own places."""
        return self.focus.double() if name == "hard_focus" else 1 + 9 * self.focus.double()


def make(labels: Tensor = LABELS, seed: int = 0) -> Case:
    """Random hidden states and a head with all it may have, in float64."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return 2 * torch.randn(*shape, dtype=torch.float64, generator=generator)

    head = Projection(
        normal(VOCABULARY, WIDTH).requires_grad_(), normal(VOCABULARY).requires_grad_(), 0.7, 9.0
    )
    teacher = normal(*labels.shape, WIDTH)
    return Case(
        hidden=normal(*labels.shape, WIDTH).requires_grad_(),
        head=head,
        teacher=teacher,
        labels=labels,
        reference=sequence_logps(head.logits(teacher).detach(), labels),
        focus=torch.rand(labels.shape, generator=generator) < 0.5,
    )


def dense(name: str, case: Case, logits: Tensor, **how: Any) -> Tensor:
    """A public loss of dense logits."""
    y, reference = case.labels, case.reference
    if name == "dpo":
        (s, a), (y, b), (r, other) = ((x[0::2], x[1::2]) for x in (logits, y, reference))
        return dpo_loss(s, y, a, b, r, other, BETA, **how)
    if name in ("hard_focus", "soft_focus"):
        teacher = case.head.logits(case.teacher).to(logits.dtype)
        return undial_loss(logits, teacher, y, STRENGTH, case.weights(name), **how)
    return {
        "simnpo": lambda: simnpo_loss(logits, y, BETA, DELTA, **how),
        "wga": lambda: wga_loss(logits, y, BETA, **how),
        "satimp": lambda: satimp_loss(logits, y, *POWERS, **how),
        "ceu": lambda: ceu_loss(logits, y, **how),
        "unilogit": lambda: unilogit_loss(logits, y, **how),
        "pdu": lambda: pdu_forget_loss(logits, y, **how),
    }[name]()


def targets_of(case: Case, size: int | None = None) -> Targets:
    """A case as training has it."""
    mask, targets, sequence = select_targets(case.labels)
    teacher = TeacherSignal(case.teacher[mask], case.head, case.reference)
    return Targets(
        case.hidden[mask], case.head, targets, sequence, mask.sum(1).tolist(),
        case.focus[:, 1:][mask[:, :-1]], teacher, size,
    )  # fmt: skip


KEYS: dict[str, dict[str, Any]] = {
    "simnpo": {"beta": BETA, "delta": DELTA},
    "dpo": {"beta": BETA},
    "wga": {"beta": BETA},
    "satimp": {"beta1": POWERS[0], "beta2": POWERS[1]},
    "hard_focus": {"strength": STRENGTH, "focus_mode": "hard"},
    "soft_focus": {"strength": STRENGTH, "focus_mode": "soft", "focus_coeff": 10.0},
}


def fused(name: str, case: Case, size: int | None = None, **keys: Any) -> Tensor:
    """The same loss's sum, from hidden states, as its method makes it."""
    method = "fundial" if name.endswith("focus") else name
    config = METHODS[method].config(name=method, **KEYS.get(name, {}), **keys)
    return make_method(config).sum(targets_of(case, size))


def softmax(logits: list[float]) -> list[float]:
    exps = [math.exp(x - max(logits)) for x in logits]
    return [x / sum(exps) for x in exps]


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


def plain_token(name: str, s: list[float], fixed: list[float], y: int) -> float:
    """One token's loss; what has no gradient is computed from `fixed`."""
    q, kept, size = softmax(s), softmax(fixed), len(s)
    if name == "wga":
        return kept[y] ** BETA * math.log(q[y])
    if name == "satimp":
        return kept[y] ** POWERS[0] * (1 - kept[y]) ** POWERS[1] * math.log(q[y])
    if name == "ceu":
        others = [k for k in range(size) if k != y]
        rest = sum(math.exp(fixed[k]) for k in others)
        return -sum(math.exp(fixed[k]) / rest * math.log(q[k]) for k in others)
    if name == "unilogit":
        rest = sum(math.exp(x) for k, x in enumerate(fixed) if k != y)
        p = softmax([math.log(rest / (size - 1)) if k == y else x for k, x in enumerate(fixed)])
        assert p[y] == pytest.approx(1 / size)
        return sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))
    assert name == "pdu"
    return (max(s) - sum(s) / size) ** 2


def plain(name: str, case: Case, logits: list, fixed: list) -> tuple[float, int]:
    """A loss by its formula, one token after the other: its sum and what that is divided by."""
    found = [
        [(b, t - 1, y) for t, y in enumerate(row) if t and y != X]
        for b, row in enumerate(case.labels.tolist())
    ]
    logps = [sum(math.log(softmax(logits[b][t])[y]) for b, t, y in row) for row in found]
    if name == "simnpo":
        losses = [
            -2 / BETA * log_sigmoid(BETA * (-logp / len(row) - DELTA))
            for logp, row in zip(logps, found, strict=True)
            if row
        ]
    elif name == "dpo":
        ratios = [a - b for a, b in zip(logps, case.reference.tolist(), strict=True)]
        losses = [
            -2 / BETA * log_sigmoid(BETA * (ratios[i + 1] - ratios[i]))
            for i in range(0, len(found), 2)
            if found[i] or found[i + 1]
        ]
    elif name in ("hard_focus", "soft_focus"):
        teacher, weights = case.head.logits(case.teacher).tolist(), case.weights(name).tolist()
        losses = []
        for b, t, y in (token for row in found for token in row):
            p = softmax([x - STRENGTH * (k == y) for k, x in enumerate(teacher[b][t])])
            each = zip(p, softmax(logits[b][t]), strict=True)
            losses.append(-weights[b][t + 1] * sum(x * math.log(q) for x, q in each))
    else:
        skip = 1 if name == "ceu" else 0
        tokens = [token for row in found for token in row[skip:]]
        losses = [plain_token(name, logits[b][t], fixed[b][t], y) for b, t, y in tokens]
    return sum(losses), len(losses)


def gradients(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value, leaves))


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
@pytest.mark.parametrize("name", NAMES[:7])
def test_half_precision_logits_reduce_in_float32(name: str, dtype: torch.dtype) -> None:
    case = make()
    half = case.logits.detach().to(dtype)
    found, expected = dense(name, case, half), dense(name, case, half.float())
    assert found.dtype == torch.float32
    assert float(found.detach()) == float(expected.detach())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES[:7])
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


@pytest.mark.parametrize("name", NAMES[:7])
def test_a_large_vocabulary_costs_float32_no_digits(name: str) -> None:
    case, vocabulary = make(LABELS[:2]), 50_000
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(*case.labels.shape, 4, generator=generator)
    weight = torch.randn(vocabulary, 4, generator=generator)
    case.labels = torch.where(case.labels == X, X, case.labels * 8_000)
    case.hidden, case.head = hidden.requires_grad_(), Projection(weight)
    found = fused(name, case, 2)
    count = {"simnpo": 2, "dpo": 1, "ceu": 3}.get(name, 5)
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
