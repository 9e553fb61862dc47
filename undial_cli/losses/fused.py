"""Losses straight from hidden states, on the chunked engine: what training uses.

Every function takes the hidden states of N target positions (those that *predict* a target), a
projection and the N target tokens. Half-precision products, float32 reductions; the result does not
depend on the chunk size beyond rounding, and is the same each time on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from undial_cli.losses.chunked import (
    Project,
    Projection,
    chunks,
    compute_dtype,
    distribution_sum,
    logps_of,
    logps_sum,
    rows_per_chunk,
)
from undial_cli.losses.positions import places_within, reduce
from undial_cli.losses.preference import npo_of, sum_where


def cross_entropy_(
    log_q_CV: Tensor, target_CV: Tensor, weights_C: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of the cross entropies against `target_CV`; its gradient `q - p`, in place of log q."""
    loss_C = -torch.bmm(target_CV[:, None], log_q_CV[:, :, None])[:, 0, 0]
    gradient_CV = log_q_CV.exp_().sub_(target_CV)
    if weights_C is not None:
        gradient_CV *= weights_C[:, None]
        loss_C = loss_C * weights_C
    return loss_C.sum(), gradient_CV


def teacher_logits(
    hidden_ND: Tensor, head: Projection, teacher_ND: Tensor, teacher_head: Projection
) -> Project:
    """The teacher's logits of the positions in a slice, in the precision of the student's."""
    low = teacher_head.detach().to(compute_dtype(hidden_ND, head))

    def project(rows: slice) -> Tensor:
        with torch.no_grad():
            return low.logits(teacher_ND[rows].to(low.weight_VD.dtype))

    return project


def undial_sum(
    hidden_ND: Tensor,
    head: Projection,
    teacher_ND: Tensor,
    teacher_head: Projection,
    targets_N: Tensor,
    strength: float,
    weights_N: Tensor | None = None,
    size: int | None = None,
) -> Tensor:
    """Sum of UnDIAL's loss, see `fused_undial_loss`."""
    teacher = teacher_logits(hidden_ND, head, teacher_ND, teacher_head)

    def loss(log_q_CV: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        lowered_CV, index = teacher(rows), targets_N[rows, None]
        lowered_CV.scatter_add_(1, index, torch.full_like(index, -strength, dtype=log_q_CV.dtype))
        weights_C = None if weights_N is None else weights_N[rows].to(log_q_CV.dtype)
        return cross_entropy_(log_q_CV, lowered_CV.softmax(-1), weights_C)

    return distribution_sum(hidden_ND, head, loss, size)


def kl_sum(
    hidden_ND: Tensor,
    head: Projection,
    teacher_ND: Tensor,
    teacher_head: Projection,
    size: int | None = None,
) -> Tensor:
    """Sum of `KL(teacher || student)`, see `fused_kl_loss`."""
    teacher = teacher_logits(hidden_ND, head, teacher_ND, teacher_head)

    def loss(log_q_CV: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        log_p_CV = teacher(rows).log_softmax(-1)
        target_CV = log_p_CV.exp()
        entropy = -torch.bmm(target_CV[:, None], log_p_CV[:, :, None]).sum()
        total, gradient_CV = cross_entropy_(log_q_CV, target_CV)
        return total - entropy, gradient_CV

    return distribution_sum(hidden_ND, head, loss, size)


@torch.no_grad()
def sequence_logps(
    hidden_ND: Tensor,
    head: Projection,
    targets_N: Tensor,
    sequence_N: Tensor,
    rows: int,
    size: int | None = None,
) -> Tensor:
    """Log-probability of each of `rows` sequences, summed over its targets: float64 [rows]."""
    low = head.detach().to(compute_dtype(hidden_ND, head))
    logps_B = torch.zeros(rows, dtype=torch.float64, device=hidden_ND.device)
    for part in chunks(0, len(hidden_ND), rows_per_chunk(hidden_ND, head, size)):
        logits_CV = low.logits(hidden_ND[part].to(low.weight_VD.dtype))
        logps_C = logps_of(logits_CV.log_softmax(-1), targets_N[part])
        logps_B.index_add_(0, sequence_N[part], logps_C.double())
    return logps_B


def cross_entropy_sum(
    hidden_ND: Tensor, head: Projection, targets_N: Tensor, size: int | None = None
) -> Tensor:
    """Summed negative log-likelihood of the targets, see `fused_cross_entropy_loss`."""
    return logps_sum(hidden_ND, head, targets_N, lambda logps, _: -logps.sum(), size=size)


def sequences_sum(
    hidden_ND: Tensor,
    head: Projection,
    targets_N: Tensor,
    sequence_N: Tensor,
    counts: list[int],
    loss: Callable[[Tensor], Tensor],
    group: int = 1,
    size: int | None = None,
) -> Tensor:
    """Sum of a loss of B sequences' log-probabilities, over those that have a target.

    Args:
        sequence_N: [N] the sequence of each position, in order; `counts`: positions of each.
        loss: given summed log-probabilities (float64 [B], as `sequence_logps` sums the
            reference's), differentiable losses [B / group]. Those of sequences in other blocks are
            passed as 0, and what becomes of them is left out.
        group: consecutive sequences that one loss needs; it counts if any of them has a target.
        size: positions per chunk.
    """
    units = [sum(counts[start : start + group]) for start in range(0, len(counts), group)]

    def of_block(logps_n: Tensor, rows: slice) -> Tensor:
        rows_n = sequence_N[rows]
        zeros_B = logps_n.new_zeros(len(counts), dtype=torch.float64)
        losses_U = loss(zeros_B.index_add(0, rows_n, logps_n.double()))
        here_U = torch.zeros_like(losses_U, dtype=torch.bool)
        return sum_where(here_U.index_fill(0, rows_n // group, True), losses_U)

    return logps_sum(hidden_ND, head, targets_N, of_block, units, size)


def npo_sum(
    hidden_ND: Tensor,
    head: Projection,
    targets_N: Tensor,
    sequence_N: Tensor,
    counts: list[int],
    reference_B: Tensor,
    beta: float,
    size: int | None = None,
) -> Tensor:
    """Sum of NPO's loss over sequences that have a target, see `fused_npo_loss`."""

    def loss(logps_B: Tensor) -> Tensor:
        return npo_of(logps_B, reference_B, beta)

    return sequences_sum(hidden_ND, head, targets_N, sequence_N, counts, loss, size=size)


def ceu_sum(
    hidden_ND: Tensor,
    head: Projection,
    targets_N: Tensor,
    sequence_N: Tensor,
    counts: list[int],
    skip: int,
    size: int | None = None,
) -> Tensor:
    """Sum of CE-U's loss over all but the first `skip` targets of each sequence, see `ceu_loss`.

    Its gradient `q - p` is `q_y (onehot - p)`, which loses no digits where `q_y` is small.
    """
    counts_B = torch.tensor(counts, dtype=torch.long, device=sequence_N.device)
    kept_N = places_within(sequence_N, counts_B) >= skip

    def loss(log_q_CV: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        index, kept_C = targets_N[rows, None], kept_N[rows]
        target_CV = log_q_CV.scatter(1, index, -torch.inf).softmax(-1)
        loss_C = -torch.bmm(target_CV[:, None], log_q_CV[:, :, None])[:, 0, 0]
        slope_C1 = log_q_CV.gather(1, index).exp() * kept_C[:, None]
        gradient_CV = target_CV.mul_(-slope_C1).scatter_(1, index, slope_C1)
        return torch.where(kept_C, loss_C, 0).sum(), gradient_CV

    return distribution_sum(hidden_ND, head, loss, size)


def pdu_forget_sum(hidden_ND: Tensor, head: Projection, size: int | None = None) -> Tensor:
    """Sum of PDU's forget term, see `pdu_forget_loss`; log q serves as well as logits."""

    def loss(log_q_CV: Tensor, _: slice) -> tuple[Tensor, Tensor]:
        most = log_q_CV.max(-1, keepdim=True)
        margin_C1 = most.values - log_q_CV.mean(-1, keepdim=True)
        gradient_CV = log_q_CV.copy_(margin_C1 * (-2 / log_q_CV.shape[1]))
        gradient_CV.scatter_add_(1, most.indices, 2 * margin_C1)
        return margin_C1.square().sum(), gradient_CV

    return distribution_sum(hidden_ND, head, loss, size)


def as_projection(head: Tensor | Projection) -> Projection:
    """A bare weight [V, D] as a projection."""
    return head if isinstance(head, Projection) else Projection(head)


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

    Source: Dong et al., UnDIAL, NAACL 2025, https://arxiv.org/abs/2402.10052.

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
    total = undial_sum(
        hidden, as_projection(head), teacher_hidden, as_projection(teacher_head), targets,
        strength, weights, chunk_size,
    )  # fmt: skip
    return reduce(total, len(targets), num_items_in_batch)


def fused_kl_loss(
    hidden: Tensor,
    head: Tensor | Projection,
    teacher_hidden: Tensor,
    teacher_head: Tensor | Projection,
    num_items_in_batch: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """`KL(teacher || student)`, mean over N positions; arguments as in `fused_undial_loss`."""
    total = kl_sum(
        hidden, as_projection(head), teacher_hidden, as_projection(teacher_head), chunk_size
    )
    return reduce(total, len(hidden), num_items_in_batch)


def fused_cross_entropy_loss(
    hidden: Tensor,
    head: Tensor | Projection,
    targets: Tensor,
    num_items_in_batch: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Mean negative log-likelihood of N targets; arguments as in `fused_undial_loss`."""
    total = cross_entropy_sum(hidden, as_projection(head), targets, chunk_size)
    return reduce(total, len(targets), num_items_in_batch)


def fused_ga_loss(
    hidden: Tensor,
    head: Tensor | Projection,
    targets: Tensor,
    num_items_in_batch: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Gradient ascent: minus `fused_cross_entropy_loss`."""
    return -fused_cross_entropy_loss(hidden, head, targets, num_items_in_batch, chunk_size)


def fused_npo_loss(
    hidden: Tensor,
    head: Tensor | Projection,
    targets: Tensor,
    counts: list[int],
    reference_logps: Tensor,
    beta: float,
    num_items_in_batch: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Negative preference optimisation, mean over sequences that have a target.

    Source: Zhang et al. 2024, https://arxiv.org/abs/2404.05868.

    Args:
        hidden: [N, D], the positions of sequence 0 first, then those of sequence 1, and so on.
        head: the weight [V, D], or a `Projection`.
        targets: [N] token ids.
        counts: positions of each of B sequences; they add up to N.
        reference_logps: [B] summed log-probabilities under the reference model.
        beta: inverse temperature (> 0).
        num_items_in_batch: divisor of the sum; None for the number of sequences with a target.
        chunk_size: positions whose logits exist at one time; a longer sequence is projected twice.
    """
    lengths = torch.tensor(counts, dtype=torch.long, device=targets.device)
    sequence = torch.arange(len(counts), device=targets.device).repeat_interleave(lengths)
    total = npo_sum(
        hidden, as_projection(head), targets, sequence, counts, reference_logps, beta, chunk_size
    )
    return reduce(total, sum(count > 0 for count in counts), num_items_in_batch)
