"""Losses that are sums over target tokens: cross entropy, gradient ascent, KL to the teacher.

Sources: GA, Jang et al. 2023 (arXiv 2210.01504) and TOFU (arXiv 2401.06121).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from undial_cli.losses.positions import reduce, select_targets, upcast


def cross_entropy_sum(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Summed negative log-likelihood of N targets, in nats."""
    return F.cross_entropy(upcast(logits_NV), targets_N, reduction="sum")


def cross_entropy_loss(
    logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | float | None = None
) -> Tensor:
    """Mean negative log-likelihood of the target tokens; `logits` [B, T, V], `labels` [B, T]."""
    mask, targets_N, _ = select_targets(labels)
    total = cross_entropy_sum(logits[mask], targets_N)
    return reduce(total, len(targets_N), num_items_in_batch)


def ga_loss(
    logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | float | None = None
) -> Tensor:
    """Gradient ascent: minus the cross entropy. Unbounded below, which is why it collapses."""
    return -cross_entropy_loss(logits, labels, num_items_in_batch)


def kl_sum(student_NV: Tensor, teacher_NV: Tensor) -> Tensor:
    """Sum over N positions of `KL(teacher || student)`, in nats."""
    log_q = upcast(student_NV).log_softmax(-1)
    log_p = upcast(teacher_NV).detach().log_softmax(-1)
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True)


def kl_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """`KL(reference || student)`, mean over the target positions; logits [B, T, V]."""
    mask, targets_N, _ = select_targets(labels)
    total = kl_sum(student_logits[mask], teacher_logits[mask])
    return reduce(total, len(targets_N), num_items_in_batch)
