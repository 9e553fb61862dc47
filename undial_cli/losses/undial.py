"""UnDIAL, and KL to the teacher: cross entropy against a distribution that does not move.

With student q and teacher logits t, UnDIAL is `-sum_k p_k log q_k` for the fixed distribution
`p = softmax(t - strength * onehot(y))`: the model distilled into itself, target token y lowered.
Training writes the gradient `q - p` by hand in place of log q (`cross_entropy_with_gradient_`):
autograd would hold more buffers of the size of the logits.

Source: Dong et al., UnDIAL, NAACL 2025, https://arxiv.org/abs/2402.10052.

Shapes: B sequences, T tokens, N target positions of all B, C of them in a chunk, V vocabulary,
D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undial_cli.losses.chunked import Projection, as_projection
from undial_cli.losses.positions import divide_sum, mean_loss, select_targets, upcast_half
from undial_cli.losses.targets import Targets, TeacherSignal, as_targets

# Into so many parts the rows of a chunk are cut where all of them together would need a buffer.
ROW_PARTS = 8


def undial_target(teacher_NV: Tensor, targets_N: Tensor, strength: float | Tensor) -> Tensor:
    """The fixed target distribution `softmax(t - strength * onehot(y))`, [N, V].

    With strength 0 it is the teacher's own distribution. A strength may be each position's, [N].
    """
    return lower_target_logits_(upcast_half(teacher_NV).clone(), targets_N, strength).softmax(-1)


def lower_target_logits_(logits_NV: Tensor, targets_N: Tensor, strength: float | Tensor) -> Tensor:
    """`t - strength * onehot(y)`, in place."""
    # One number of each row changes; a one-hot [N, V] would be as large as the logits.
    index = targets_N[:, None]
    if isinstance(strength, Tensor):
        minus_strength = -strength[:, None].to(logits_NV.dtype)
    else:
        minus_strength = torch.full_like(index, -strength, dtype=logits_NV.dtype)
    return logits_NV.scatter_add_(1, index, minus_strength)


def prior_strengths(teacher_NV: Tensor, targets_N: Tensor, prior_N: Tensor, limit: float) -> Tensor:
    """How far each target's logit is lowered for the teacher to give it the prior's probability.

    This project's own. `logit(p_y) - logit(prior)`, as a logit of probabilities moves by what the
    token's own logit does: at least 0, so that no token is raised, and at most `limit`.

    Args:
        teacher_NV: the teacher's logits.
        prior_N: log-probability of each target that language alone gives it (-inf: none).
        limit: strength of a token that nothing supports.

    Returns:
        [N], in the logits' dtype.
    """
    index = targets_N[:, None]
    own_N = teacher_NV.gather(1, index)[:, 0]
    # From the other tokens' logits: of a probability that rounds to 1 no logit could be made.
    margin_N = own_N - teacher_NV.scatter(1, index, -torch.inf).logsumexp(-1)
    prior_N = prior_N.double().clamp(max=0)
    prior_logit_N = prior_N - (-prior_N.expm1()).log()
    return (margin_N - prior_logit_N).clamp(0, limit).to(teacher_NV.dtype)


def cross_entropy_per_position(log_q_NV: Tensor, target_NV: Tensor) -> Tensor:
    """`-sum_k p_k log q_k` of each position, [N]."""
    return -(target_NV * log_q_NV).sum(-1)


def sum_row_products(left_CV: Tensor, right_CV: Tensor) -> Tensor:
    """`sum_k left_k right_k` of each row, [C]."""
    # A few rows at a time: all products would be one more buffer of [C, V]. A matrix product needs
    # none, but on a CPU adds V numbers up one after the other: off by 1e-4 for V of 50,000.
    parts = zip(left_CV.chunk(ROW_PARTS), right_CV.chunk(ROW_PARTS), strict=True)
    return torch.cat([(left * right).sum(-1) for left, right in parts])


def cross_entropy_with_gradient_(
    log_q_CV: Tensor, target_CV: Tensor, weights_C: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of the (weighted) cross entropies, and its gradient `q - p` in place of log q."""
    loss_C = -sum_row_products(target_CV, log_q_CV)
    gradient_CV = log_q_CV.exp_().sub_(target_CV)
    if weights_C is not None:
        gradient_CV *= weights_C[:, None]
        loss_C = loss_C * weights_C
    return loss_C.sum(), gradient_CV


def undial_sum(
    targets: Targets,
    strength: float,
    weights_N: Tensor | None = None,
    lowers_to_prior: bool = False,
) -> Tensor:
    """Sum of UnDIAL's loss, see `fused_undial_loss`.

    Args:
        lowers_to_prior: each target as far as `prior_strengths` says, `strength` at most.
    """

    def loss(log_q_CV: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        teacher_CV, targets_C = targets.teacher_logits(rows), targets.targets_N[rows]
        lowered: float | Tensor = strength
        if lowers_to_prior:
            lowered = prior_strengths(teacher_CV, targets_C, targets.prior_N[rows], strength)
        target_CV = lower_target_logits_(teacher_CV, targets_C, lowered).softmax(-1)
        weights_C = None if weights_N is None else weights_N[rows].to(log_q_CV.dtype)
        return cross_entropy_with_gradient_(log_q_CV, target_CV, weights_C)

    return targets.distribution_sum(loss)


def undial_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    strength: float | Tensor,
    weights: Tensor | None = None,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """UnDIAL's loss: cross entropy of the student against the lowered teacher distribution.

    Args:
        student_logits: [B, T, V].
        teacher_logits: [B, T, V], of the model before unlearning; no gradient flows into them.
        labels: [B, T] unshifted token ids, -100 where nothing is scored.
        strength: how far the target token's logit is lowered (>= 0; the paper takes 3, 10, 30);
            or each target's, [N], as `prior_strengths` gives it.
        weights: [B, T], at a token's own (unshifted) place; the weight of the position that
            predicts it. The divisor stays the number of target tokens.
        num_items_in_batch: divisor of the sum; None for the number of target tokens.

    Returns:
        Scalar in nats; 0 with the graph attached if there is no target token.
    """
    mask, targets_N, _ = select_targets(labels)
    target_NV = undial_target(teacher_logits[mask].detach(), targets_N, strength)
    losses_N = cross_entropy_per_position(
        upcast_half(student_logits[mask]).log_softmax(-1), target_NV
    )
    if weights is not None:
        losses_N = losses_N * weights[:, 1:][mask[:, :-1]]
    return mean_loss(losses_N, num_items_in_batch)


def fused_undial_loss(
    hidden: Tensor,
    head: Tensor | Projection,
    teacher_hidden: Tensor,
    teacher_head: Tensor | Projection,
    targets: Tensor,
    strength: float,
    weights: Tensor | None = None,
    num_items_in_batch: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """UnDIAL's loss from hidden states: what `undial_loss` is of their logits.

    Args:
        hidden: [N, D], the student's, at the positions that predict a target.
        head: the student's weight [V, D], or a `Projection` where there is more to it.
        teacher_hidden: [N, D], the frozen teacher's at the same positions.
        teacher_head: the teacher's weight or projection; it may be the student's.
        targets: [N] token ids.
        strength: how far the target token's logit is lowered (>= 0).
        weights: [N], of each position; the divisor stays the number of targets.
        num_items_in_batch: divisor of the sum; None for N.
        chunk_size: positions whose logits exist at one time; None for what suits the device.

    Returns:
        Scalar in nats, float32 at least; 0 with its graph if N is 0. It goes backward once.
    """
    signal = TeacherSignal(teacher_hidden, as_projection(teacher_head))
    chosen = as_targets(hidden, head, targets, signal=signal, size=chunk_size)
    return divide_sum(undial_sum(chosen, strength, weights), len(targets), num_items_in_batch)


def kl_per_position(log_q_NV: Tensor, log_p_NV: Tensor) -> Tensor:
    """`KL(p || q)` of each position, [N]: the cross entropy less p's own entropy."""
    return cross_entropy_per_position(log_q_NV, log_p_NV.exp()) - cross_entropy_per_position(
        log_p_NV, log_p_NV.exp()
    )


def kl_sum(targets: Targets) -> Tensor:
    """Sum of `KL(teacher || student)`, see `fused_kl_loss`."""

    def loss(log_q_CV: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        log_p_CV = targets.teacher_logits(rows).log_softmax(-1)
        target_CV = log_p_CV.exp()
        # The teacher's entropy: it moves no weight, and makes the logged loss 0 where both agree.
        entropy = -sum_row_products(target_CV, log_p_CV).sum()
        total, gradient_CV = cross_entropy_with_gradient_(log_q_CV, target_CV)
        return total - entropy, gradient_CV

    return targets.distribution_sum(loss)


def kl_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """`KL(reference || student)`, mean over the target positions; logits [B, T, V]."""
    mask = select_targets(labels)[0]
    log_q_NV, log_p_NV = (
        upcast_half(logits[mask]).log_softmax(-1)
        for logits in (student_logits, teacher_logits.detach())
    )
    return mean_loss(kl_per_position(log_q_NV, log_p_NV), num_items_in_batch)


def fused_kl_loss(
    hidden: Tensor,
    head: Tensor | Projection,
    teacher_hidden: Tensor,
    teacher_head: Tensor | Projection,
    num_items_in_batch: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """`KL(teacher || student)`, mean over N positions; arguments as in `fused_undial_loss`."""
    signal = TeacherSignal(teacher_hidden, as_projection(teacher_head))
    chosen = as_targets(hidden, head, hidden.new_empty(0), signal=signal, size=chunk_size)
    return divide_sum(kl_sum(chosen), len(hidden), num_items_in_batch)
