"""What each method minimises, from full logits by the public losses: what its fused sum must be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undial_cli.losses import (
    adaptive_rmu_forget_loss,
    atwu_loss,
    ceu_loss,
    cross_entropy_loss,
    dpo_loss,
    flat_loss,
    ga_loss,
    inverted_hinge_loss,
    jensun_loss,
    js_loss,
    kl_loss,
    max_entropy_loss,
    npo_loss,
    pdu_forget_loss,
    rmu_forget_loss,
    rmu_retain_loss,
    satimp_loss,
    sequence_logps,
    shred_loss,
    simnpo_loss,
    undial_loss,
    unilogit_loss,
    wga_loss,
)
from undial_cli.methods import METHODS, make_method
from undial_cli.methods.base import RETAIN_TERMS, Loss

LAYER, SEED = 0, 5


@dataclass
class Seen:
    """A model's logits [B, T, V] and its activations [B, T, D] at LAYER."""

    logits: Tensor
    layer: Tensor


# Of student, teacher, labels [B, T] and where the focus is [B, T].
Dense = Callable[[Seen, Seen, Tensor, Tensor], Tensor]


@dataclass
class Case:
    """A loss as training has it, and the public function that it should equal."""

    loss: Callable[[], Loss]
    dense: Dense


def of(name: str, dense: Dense, **keys: Any) -> Case:
    """A method with some of its keys."""
    return Case(lambda: make_method(METHODS[name].config(name=name, **keys), SEED), dense)


def preferring(student: Seen, teacher: Seen, labels: Tensor, beta: float) -> Tensor:
    """DPO on rows that are answers and their alternatives in turn."""
    reference = sequence_logps(teacher.logits, labels)
    return dpo_loss(
        student.logits[::2], labels[::2], student.logits[1::2], labels[1::2],
        reference[::2], reference[1::2], beta,
    )  # fmt: skip


def calling_flat(student: Seen, labels: Tensor, divergence: str) -> Tensor:
    """FLAT on rows that are answers and their refusals in turn."""
    return flat_loss(
        student.logits[::2], labels[::2], student.logits[1::2], labels[1::2], divergence
    )


def control(width: int) -> Tensor:
    """RMU's vector of length 3."""
    uniform = torch.rand(width, generator=torch.Generator().manual_seed(SEED))
    return uniform / uniform.norm() * 3


CASES = {
    "undial": of("undial", lambda s, t, y, f: undial_loss(s.logits, t.logits, y, 3), strength=3),
    "fundial soft": of(
        "fundial",
        lambda s, t, y, f: undial_loss(s.logits, t.logits, y, 3, torch.where(f, 7.0, 1.0)),
        strength=3, focus_coeff=7,
    ),
    "fundial hard": of(
        "fundial",
        lambda s, t, y, f: undial_loss(s.logits, t.logits, y, 3, torch.where(f, 1.0, 0.0)),
        strength=3, focus_mode="hard",
    ),
    "ga": of("ga", lambda s, t, y, f: ga_loss(s.logits, y)),
    "grad_diff": of("grad_diff", lambda s, t, y, f: ga_loss(s.logits, y)),
    "npo": of(
        "npo",
        lambda s, t, y, f: npo_loss(s.logits, y, sequence_logps(t.logits, y), 0.5),
        beta=0.5,
    ),
    "simnpo": of(
        "simnpo", lambda s, t, y, f: simnpo_loss(s.logits, y, 2.5, 0.3), beta=2.5, delta=0.3
    ),
    **{
        name: of(name, lambda s, t, y, f: preferring(s, t, y, 0.2), beta=0.2)
        for name in ("dpo", "idkdpo", "altpo")
    },
    "wga": of("wga", lambda s, t, y, f: wga_loss(s.logits, y, 0.8), beta=0.8),
    "satimp": of(
        "satimp", lambda s, t, y, f: satimp_loss(s.logits, y, 3, 0.5), beta1=3, beta2=0.5
    ),
    "ceu": of("ceu", lambda s, t, y, f: ceu_loss(s.logits, y, skip=1)),
    "unilogit": of("unilogit", lambda s, t, y, f: unilogit_loss(s.logits, y)),
    "rmu": of(
        "rmu",
        lambda s, t, y, f: rmu_forget_loss(s.layer, y, control(s.layer.shape[-1])),
        layer=LAYER, steering_coeff=3,
    ),
    "adaptive_rmu": of(
        "adaptive_rmu",
        lambda s, t, y, f: adaptive_rmu_forget_loss(
            s.layer, t.layer, y, control(s.layer.shape[-1])
        ),
        layer=LAYER, steering_coeff=3,
    ),
    "mse": Case(
        lambda: make_method(METHODS["rmu"].config(name="rmu", layer=LAYER)).terms()["retain"],
        lambda s, t, y, f: rmu_retain_loss(s.layer, t.layer, y),
    ),
    "me_gd": of("me_gd", lambda s, t, y, f: max_entropy_loss(s.logits, y)),
    "inverted_hinge": of("inverted_hinge", lambda s, t, y, f: inverted_hinge_loss(s.logits, y)),
    "idknll": of("idknll", lambda s, t, y, f: cross_entropy_loss(s.logits[1::2], y[1::2])),
    "flat": of("flat", lambda s, t, y, f: calling_flat(s, y, "tv")),
    "flat pearson": of(
        "flat", lambda s, t, y, f: calling_flat(s, y, "pearson"), divergence="pearson"
    ),
    "jensun": of("jensun", lambda s, t, y, f: jensun_loss(s.logits[::2], y[::2], y[1::2])),
    "atwu": of(  # before the scorer has learnt anything
        "atwu",
        lambda s, t, y, f: atwu_loss(s.logits, y, torch.full(y.shape, 0.5).double(), 3),
        beta=3,
    ),
    "shred": of(
        "shred",
        lambda s, t, y, f: shred_loss(s.logits, t.logits, y, 3, 0.4, 5, 1),
        strength=3, share=0.4, top_k=5, skip=1,
    ),
    "pdu": of("pdu", lambda s, t, y, f: pdu_forget_loss(s.logits, y)),
    "task_arithmetic": of("task_arithmetic", lambda s, t, y, f: cross_entropy_loss(s.logits, y)),
    "contrastive_decoding": of(
        "contrastive_decoding", lambda s, t, y, f: cross_entropy_loss(s.logits, y)
    ),
    "gdr": Case(RETAIN_TERMS["gdr"], lambda s, t, y, f: cross_entropy_loss(s.logits, y)),
    "klr": Case(RETAIN_TERMS["klr"], lambda s, t, y, f: kl_loss(s.logits, t.logits, y)),
    "js": Case(RETAIN_TERMS["js"], lambda s, t, y, f: js_loss(s.logits, t.logits, y)),
}  # fmt: skip
PAIRS = ("dpo", "idkdpo", "altpo", "flat", "flat pearson", "idknll", "jensun")
