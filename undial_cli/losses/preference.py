"""Losses on whole sequences, from summed log-probabilities.

A function `..._of` is what a dense loss shares with the fused engine: the loss of each sequence, or
of each pair of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from undial_cli.losses.positions import reduce, select_targets, target_mask
from undial_cli.losses.tokens import target_logps


def sequence_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of the target tokens of each sequence, float64 [B]; logits [B, T, V].

    A long answer's sum has more digits than float32 holds, and what counts is a difference of two.
    """
    logps_N, sequence_N = target_logps(logits, labels), select_targets(labels)[2]
    zeros_B = logps_N.new_zeros(len(labels), dtype=torch.float64)
    return zeros_B.index_add(0, sequence_N, logps_N.double())


def sum_where(counted_B: Tensor, losses_B: Tensor) -> Tensor:
    """Sum of the losses that count; the others are not looked at, whatever they are."""
    return torch.where(counted_B, losses_B, 0).sum()


def narrowed(total: Tensor, logits: Tensor) -> Tensor:
    """A float64 sum in the precision that logits are computed with, float32 at least."""
    return total.to(torch.promote_types(logits.dtype, torch.float32))


def log_ratio(logps_B: Tensor, reference_B: Tensor) -> Tensor:
    """`log pi - log pi_ref`, [B]."""
    return logps_B - reference_B.detach().to(logps_B.dtype)


def npo_of(logps_B: Tensor, reference_B: Tensor, beta: float) -> Tensor:
    """NPO's loss of each sequence, [B], see `npo_loss`."""
    return -(2 / beta) * F.logsigmoid(-beta * log_ratio(logps_B, reference_B))


def npo_loss(
    logits: Tensor,
    labels: Tensor,
    reference_logps: Tensor,
    beta: float,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """Negative preference optimisation `-(2/beta) log sigmoid(-beta (log pi - log pi_ref))`.

    Mean over sequences that have a target token.

    Source: Zhang et al. 2024, https://arxiv.org/abs/2404.05868.

    Args:
        logits: [B, T, V] of the model in training.
        labels: [B, T] unshifted token ids, -100 where nothing is scored.
        reference_logps: [B] log-probabilities under the reference model (`sequence_logps`).
        beta: inverse temperature (> 0); as it tends to 0 the gradient tends to that of GA.
        num_items_in_batch: divisor of the sum; None for the number of counted sequences.
    """
    counted_B = target_mask(labels).any(1)
    losses_B = npo_of(sequence_logps(logits, labels), reference_logps, beta)
    total = sum_where(counted_B, losses_B)
    return reduce(narrowed(total, logits), counted_B.sum(), num_items_in_batch)


def simnpo_of(logps_B: Tensor, lengths_B: Tensor, beta: float, delta: float) -> Tensor:
    """SimNPO's loss of each sequence of `lengths_B` target tokens, [B], see `simnpo_loss`."""
    mean_nll_B = -logps_B / lengths_B.clamp(min=1)
    return -(2 / beta) * F.logsigmoid(beta * (mean_nll_B - delta))


def simnpo_loss(
    logits: Tensor,
    labels: Tensor,
    beta: float,
    delta: float,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """SimNPO `-(2/beta) log sigmoid(beta (nll / length - delta))`, mean over sequences.

    Source: Fan et al. 2024, https://arxiv.org/abs/2410.07163.

    Args:
        logits: [B, T, V] of the model in training.
        labels: [B, T] unshifted token ids, -100 where nothing is scored.
        beta: inverse temperature (> 0); as it tends to 0 the gradient tends to that of the mean
            over sequences of `log pi / length`.
        delta: margin, in nats per token.
        num_items_in_batch: divisor of the sum; None for the number of sequences with a target.
    """
    lengths_B = target_mask(labels).sum(1)
    losses_B = simnpo_of(sequence_logps(logits, labels), lengths_B, beta, delta)
    counted_B = lengths_B > 0
    total = sum_where(counted_B, losses_B)
    return reduce(narrowed(total, logits), counted_B.sum(), num_items_in_batch)


def dpo_of(logps_B: Tensor, reference_B: Tensor, beta: float) -> Tensor:
    """DPO's loss of each pair, [B/2], see `dpo_loss`; [true_0, alternative_0, true_1, ...]."""
    ratio_B = log_ratio(logps_B, reference_B)
    return -(2 / beta) * F.logsigmoid(beta * (ratio_B[1::2] - ratio_B[0::2]))


def dpo_loss(
    logits: Tensor,
    labels: Tensor,
    alternative_logits: Tensor,
    alternative_labels: Tensor,
    reference_logps: Tensor,
    alternative_reference_logps: Tensor,
    beta: float,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """Preference of an alternative over the true answer, mean over pairs that have a target.

    `-(2/beta) log sigmoid(beta (D_alternative - D_true))`, `D = log pi - log pi_ref`. The same
    question's alternative is an "I don't know" (IdkDPO) or another answer (AltPO).

    Sources: TOFU, https://arxiv.org/abs/2401.06121; Mekala et al. 2025,
    https://arxiv.org/abs/2409.13474.

    Args:
        logits: [B, T, V] on the true answers, of the model in training.
        labels: [B, T] unshifted token ids of the true answers, -100 where nothing is scored.
        alternative_logits: [B, T', V] on the alternatives.
        alternative_labels: [B, T'], of the alternatives.
        reference_logps: [B] log-probabilities of the true answers under the reference model.
        alternative_reference_logps: [B], of the alternatives.
        beta: inverse temperature (> 0).
        num_items_in_batch: divisor of the sum; None for the number of counted pairs.

    Returns:
        Scalar in nats; `(2/beta) log 2` where the model is the reference.
    """
    true_B = sequence_logps(logits, labels)
    other_B = sequence_logps(alternative_logits, alternative_labels)
    logps_2B = torch.stack([true_B, other_B], 1).flatten()
    reference_2B = torch.stack([reference_logps, alternative_reference_logps], 1).flatten()
    counted_B = target_mask(labels).any(1) | target_mask(alternative_labels).any(1)
    total = sum_where(counted_B, dpo_of(logps_2B, reference_2B, beta))
    return reduce(narrowed(total, logits), counted_B.sum(), num_items_in_batch)
