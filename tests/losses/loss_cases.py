"""The losses of the methods by name: dense, fused as training has them, and by their formulas on
Python numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from undial_cli.losses import (
    IGNORE,
    Projection,
    atwu_loss,
    ceu_loss,
    cross_entropy_loss,
    dpo_loss,
    flat_loss,
    inverted_hinge_loss,
    jensun_loss,
    js_loss,
    max_entropy_loss,
    pdu_forget_loss,
    satimp_loss,
    select_targets,
    sequence_logps,
    shred_loss,
    simnpo_loss,
    undial_loss,
    unilogit_loss,
    wga_loss,
)
from undial_cli.losses.atwu import score_tokens
from undial_cli.losses.targets import Targets, TeacherSignal
from undial_cli.methods import METHODS, make_method
from undial_cli.methods.base import RETAIN_TERMS

X = IGNORE
# Pairs of rows: both with targets, neither, the first alone; sequences longer than most chunks.
LABELS = torch.tensor([
    [X, X, 3, 4, 5, X], [X, 2, 6, X, X, X],
    [X, X, X, X, X, X], [4, X, X, X, X, X],
    [1, 0, 3, X, 4, 0], [5, X, X, X, X, X],
])  # fmt: skip
VOCABULARY, WIDTH = 7, 3
BETA, DELTA, POWERS, STRENGTH = 0.6, 0.4, (0.7, 1.3), 3.0
SHARE, TOP_K, SKIP = 0.4, 4, 1
FLATS = ("flat_tv", "flat_kl", "flat_js", "flat_pearson")
# The model's logits are enough for these; the others ask the teacher or the hidden states as well.
ALONE = (
    "simnpo", "dpo", "wga", "satimp", "ceu", "unilogit", "pdu", "me_gd", "inverted_hinge", "idknll",
    "jensun", *FLATS,
)  # fmt: skip
NAMES = (*ALONE, "hard_focus", "soft_focus", "js", "shred", "atwu")
SCORER = torch.tensor([0.3, -0.5, 0.2, 0.1], dtype=torch.float64)
CHUNKS = (1, 2, 3, 5, None)
COUNTS = dict.fromkeys(NAMES, 9) | {  # what LABELS hold
    "simnpo": 3, "ceu": 6, "idknll": 2, "jensun": 3, **dict.fromkeys(("dpo", *FLATS), 2),
}  # fmt: skip


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
    (s, a), (t, b), (r, other) = ((x[0::2], x[1::2]) for x in (logits, y, reference))
    if name == "atwu":
        return atwu_loss(logits, y, score_tokens(case.hidden.detach(), SCORER), BETA, **how)
    if name not in ALONE:
        teacher = case.head.logits(case.teacher).to(logits.dtype)
        if name == "js":
            return js_loss(logits, teacher, y, **how)
        if name == "shred":
            return shred_loss(logits, teacher, y, STRENGTH, SHARE, TOP_K, SKIP, **how)
        return undial_loss(logits, teacher, y, STRENGTH, case.weights(name), **how)
    if name in FLATS:
        return flat_loss(s, t, a, b, name.removeprefix("flat_"), **how)
    return {
        "dpo": lambda: dpo_loss(s, t, a, b, r, other, BETA, **how),
        "idknll": lambda: cross_entropy_loss(a, b, **how),
        "jensun": lambda: jensun_loss(s, t, b, **how),
        "me_gd": lambda: max_entropy_loss(logits, y, **how),
        "inverted_hinge": lambda: inverted_hinge_loss(logits, y, **how),
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
    "atwu": {"beta": BETA},
    "satimp": {"beta1": POWERS[0], "beta2": POWERS[1]},
    "hard_focus": {"strength": STRENGTH, "focus_mode": "hard"},
    "soft_focus": {"strength": STRENGTH, "focus_mode": "soft", "focus_coeff": 10.0},
    "shred": {"strength": STRENGTH, "share": SHARE, "top_k": TOP_K, "skip": SKIP},
    **{name: {"divergence": name.removeprefix("flat_")} for name in FLATS},
}


def fused(name: str, case: Case, size: int | None = None, **keys: Any) -> Tensor:
    """The same loss's sum, from hidden states, as its method makes it."""
    if name == "js":
        return RETAIN_TERMS[name]().sum(targets_of(case, size))
    method = {"hard_focus": "fundial", "soft_focus": "fundial"} | dict.fromkeys(FLATS, "flat")
    method = method.get(name, name)
    made: Any = make_method(METHODS[method].config(name=method, **KEYS.get(name, {}), **keys))
    if name == "atwu":
        made.scorer_E = SCORER
    return made.sum(targets_of(case, size))


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
    if name == "me_gd":
        return sum(math.log(1 / (size * x)) / size for x in q)
    if name == "inverted_hinge":
        return 1 + q[y] - max(x for k, x in enumerate(q) if k != y)
    if name == "idknll":
        return -math.log(q[y])
    if name == "jensun":
        return jensen_shannon(q, [float(k == y) for k in range(size)])
    assert name == "pdu"
    return (max(s) - sum(s) / size) ** 2


def jensen_shannon(q: list[float], p: list[float]) -> float:
    """By its definition."""
    middle = [(a + b) / 2 for a, b in zip(q, p, strict=True)]
    return sum(
        x * math.log(x / m) / 2 for side in (q, p) for x, m in zip(side, middle, strict=True) if x
    )


def plain_flat(name: str, true: float, template: float) -> float:
    """FLAT's `f*(g*(P_true)) - g*(P_template)`, by the conjugate of each f."""
    learn, conjugate = {
        "flat_tv": (lambda p: math.tanh(p) / 2, lambda u: u),
        "flat_kl": (lambda p: p, lambda u: math.exp(u - 1)),
        "flat_js": (
            lambda p: math.log(2 / (1 + math.exp(-p))),
            lambda u: -math.log(2 - math.exp(u)),
        ),
        "flat_pearson": (lambda p: p, lambda u: u * u / 4 + u),
    }[name]
    return conjugate(learn(true)) - learn(template)


def plain_shred(
    logits: list[list[float]], teacher: list[list[float]], row: list[tuple[int, int]]
) -> list[float]:
    """SHRED's losses of one sequence's targets, given as places and tokens."""
    chances = sorted((softmax(teacher[t])[y], t) for t, y in row[SKIP:])
    lowered = {t for _, t in chances[: math.ceil(SHARE * len(chances))]}
    losses = []
    for t, y in row:
        scores = [x - STRENGTH * (k == y and t in lowered) for k, x in enumerate(teacher[t])]
        largest = sorted(zip(scores, range(len(scores)), strict=True), reverse=True)[:TOP_K]
        p, q = softmax([score for score, _ in largest]), softmax(logits[t])
        losses.append(sum(x * math.log(x / q[k]) for x, (_, k) in zip(p, largest, strict=True)))
    return losses


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
    elif name in FLATS:
        chances = [
            sum(softmax(logits[b][t])[y] for b, t, y in row) / max(len(row), 1) for row in found
        ]
        losses = [
            plain_flat(name, chances[i], chances[i + 1])
            for i in range(0, len(found), 2)
            if found[i] or found[i + 1]
        ]
    elif name == "jensun":
        losses = [
            plain_token(name, logits[b][t], fixed[b][t], others[place % len(others)][2])
            for row, others in zip(found[0::2], found[1::2], strict=True)
            if others
            for place, (b, t, _) in enumerate(row)
        ]
    elif name == "atwu":
        losses = []
        for b, t, y in (token for row in found for token in row):
            *weights, bias = SCORER.tolist()
            states = case.hidden[b, t].tolist()
            total = sum(w * h for w, h in zip(weights, states, strict=True)) + bias
            score = 1 / (1 + math.exp(-total))
            saturation = math.exp(BETA * score * math.log(softmax(fixed[b][t])[y]))
            losses.append(saturation * score * math.log(softmax(logits[b][t])[y]))
    elif name == "shred":
        teacher = case.head.logits(case.teacher).tolist()
        losses = [
            loss
            for b, row in enumerate(found)
            for loss in plain_shred(logits[b], teacher[b], [(t, y) for _, t, y in row])
        ]
    elif name == "js":
        teacher = case.head.logits(case.teacher).tolist()
        losses = [
            jensen_shannon(softmax(logits[b][t]), softmax(teacher[b][t]))
            for b, t, _ in (token for row in found for token in row)
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
        rows = found[1::2] if name == "idknll" else found
        tokens = [token for row in rows for token in row[skip:]]
        losses = [plain_token(name, logits[b][t], fixed[b][t], y) for b, t, y in tokens]
    return sum(losses), len(losses)


def gradients(value: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value, leaves))
