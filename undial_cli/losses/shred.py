"""SHRED: distil the model into itself, with the tokens lowered that it finds unlikeliest.

Of each sequence the target tokens of the lowest teacher probability are demoted; all others keep
what the teacher says of them. Of either only the K largest logits are learnt. How far a logit is
demoted could be read nowhere: here it is lowered by `strength`, as in UnDIAL.

Source: Hu et al. 2026, https://arxiv.org/abs/2605.07482, by its abstract and the authors' page.

Shapes: B sequences, N target positions of all B, n of them at once, V vocabulary, K kept logits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from undial_cli.losses.positions import (
    count_targets_before,
    mean_loss,
    select_targets,
    upcast_half,
)
from undial_cli.losses.targets import Targets


def select_unlikely(
    teacher_N: Tensor, sequence_N: Tensor, counts_B: Tensor, share: float, skip: int
) -> Tensor:
    """The `ceil(share * n)` unlikeliest of each sequence's n tokens after its first `skip`: [N].

    Args:
        teacher_N: the teacher's log-probability of each target; equal ones go by their place.
        counts_B: how many targets each sequence has.
    """
    before_N = count_targets_before(sequence_N, counts_B)
    # Sorted by log-probability, then by sequence: both sorts are stable.
    order_N = teacher_N.masked_fill(before_N < skip, math.inf).argsort(stable=True)
    order_N = order_N[sequence_N[order_N].argsort(stable=True)]
    rank_N = torch.empty_like(order_N).scatter_(0, order_N, before_N)
    return rank_N < ((counts_B - skip).clamp(min=0) * share).ceil()[sequence_N]


def shred_per_position(
    logits_nV: Tensor, teacher_nV: Tensor, targets_n: Tensor, lowered_n: Tensor, top_k: int
) -> Tensor:
    """SHRED's loss of each position, [n], see `shred_loss`; `lowered_n`: how far y's logit is."""
    teacher_nV = teacher_nV.scatter_add(1, targets_n[:, None], -lowered_n[:, None])
    largest_nK, index_nK = teacher_nV.topk(min(top_k, teacher_nV.shape[-1]))
    target_nK = largest_nK.softmax(-1)
    log_q_nK = logits_nV.log_softmax(-1).gather(1, index_nK)
    return -(target_nK * log_q_nK + torch.special.entr(target_nK)).sum(-1)


def shred_sum(targets: Targets, strength: float, share: float, top_k: int, skip: int) -> Tensor:
    """Sum of SHRED's loss over a micro-batch, see `shred_loss`."""
    counts_B = targets.targets_N.new_tensor(targets.counts)
    logps_N = targets.teacher_logps()
    chosen_N = select_unlikely(logps_N, targets.sequence_N, counts_B, share, skip)

    def loss(logits_nV: Tensor, rows: slice) -> Tensor:
        teacher_nV = targets.teacher_logits(rows)
        lowered_n = strength * chosen_N[rows].to(teacher_nV.dtype)
        return shred_per_position(logits_nV, teacher_nV, targets.targets_N[rows], lowered_n, top_k)

    return targets.logits_sum(loss)


def shred_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    strength: float,
    share: float,
    top_k: int,
    skip: int = 0,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """SHRED `KL(p || q)`, mean over target tokens.

    p is the softmax of the K largest of the teacher's logits among themselves, of `t - strength *
    onehot(y)` at the `ceil(share * n)` targets of a sequence that the teacher finds unlikeliest, of
    t at the others.

    Args:
        student_logits: [B, T, V].
        teacher_logits: [B, T, V], of the model before unlearning; no gradient flows into them.
        labels: [B, T] unshifted token ids, -100 where nothing is scored.
        strength: how far the target token's logit is lowered (>= 0).
        share: of a sequence's targets that are lowered (0 to 1).
        top_k: K (>= 1).
        skip: first targets of each sequence that are never lowered.
        num_items_in_batch: divisor of the sum; None for the number of target tokens.

    Returns:
        Scalar in nats; 0 where q has all its mass in p.
    """
    mask, targets_N, sequence_N = select_targets(labels)
    teacher_NV = upcast_half(teacher_logits[mask].detach())
    logps_N = teacher_NV.log_softmax(-1).gather(1, targets_N[:, None])[:, 0]
    chosen_N = select_unlikely(logps_N, sequence_N, mask.sum(1), share, skip)
    lowered_N = strength * chosen_N.to(teacher_NV.dtype)
    rows_NV = upcast_half(student_logits[mask])
    losses_N = shred_per_position(rows_NV, teacher_NV, targets_N, lowered_N, top_k)
    return mean_loss(losses_N, num_items_in_batch)
