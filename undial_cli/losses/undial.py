"""UnDIAL: self-distillation with the target token's logit lowered.

Source: Dong et al., UnDIAL, NAACL 2025, https://arxiv.org/abs/2402.10052.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undial_cli.losses.positions import reduce, select_targets, upcast


def undial_target(teacher_NV: Tensor, targets_N: Tensor, strength: float) -> Tensor:
    """The fixed target distribution `softmax(t - strength * onehot(y))`, [N, V].

    With strength 0 it is the teacher's own distribution.
    """
    lowered = upcast(teacher_NV).clone()
    index = targets_N[:, None]
    lowered.scatter_(1, index, lowered.gather(1, index) - strength)
    return lowered.softmax(-1)


def undial_sum(
    student_NV: Tensor,
    teacher_NV: Tensor,
    targets_N: Tensor,
    strength: float,
    weights_N: Tensor | None = None,
) -> Tensor:
    """Sum over N target positions of `logsumexp(s) - sum_k p_k s_k`; the target has no gradient."""
    with torch.no_grad():
        target_NV = undial_target(teacher_NV, targets_N, strength)
    student_NV = upcast(student_NV)
    loss_N = student_NV.logsumexp(-1) - (target_NV * student_NV).sum(-1)
    return (loss_N if weights_N is None else loss_N * weights_N).sum()


def undial_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    strength: float,
    weights: Tensor | None = None,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """UnDIAL's loss: cross entropy of the student against the lowered teacher distribution.

    Args:
        student_logits: [B, T, V].
        teacher_logits: [B, T, V], of the model before unlearning; no gradient flows into them.
        labels: [B, T] unshifted token ids, -100 where nothing is scored.
        strength: how far the target token's logit is lowered (>= 0; the paper takes 3, 10, 30).
        weights: [B, T], at a token's own (unshifted) place; the weight of the position that
            predicts it. The divisor stays the number of target tokens.
        num_items_in_batch: divisor of the sum; None for the number of target tokens.

    Returns:
        Scalar in nats; 0 with the graph attached if there is no target token.
    """
    mask, targets_N, _ = select_targets(labels)
    weights_N = None if weights is None else weights[:, 1:][mask[:, :-1]]
    total = undial_sum(student_logits[mask], teacher_logits[mask], targets_N, strength, weights_N)
    return reduce(total, len(targets_N), num_items_in_batch)
