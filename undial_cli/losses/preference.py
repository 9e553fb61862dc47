"""Losses on whole sequences, from summed log-probabilities.

Source: NPO, Zhang et al. 2024, https://arxiv.org/abs/2404.05868.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from undial_cli.losses.positions import reduce, select_targets, upcast


def summed_logps(logits_NV: Tensor, targets_N: Tensor, sequence_N: Tensor, rows: int) -> Tensor:
    """Log-probability of each of `rows` sequences, summed over its target tokens: [rows]."""
    logps_N = -F.cross_entropy(upcast(logits_NV), targets_N, reduction="none")
    return logps_N.new_zeros(rows).index_add(0, sequence_N, logps_N)


def sequence_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of the target tokens of each sequence, [B]; logits [B, T, V]."""
    mask, targets_N, sequence_N = select_targets(labels)
    return summed_logps(logits[mask], targets_N, sequence_N, len(labels))


def npo_sum(logps_B: Tensor, reference_B: Tensor, counted_B: Tensor, beta: float) -> Tensor:
    """Sum of `-(2/beta) log sigmoid(-beta (log pi - log pi_ref))` over counted sequences."""
    loss_B = -(2 / beta) * F.logsigmoid(-beta * (logps_B - reference_B.detach()))
    return (loss_B * counted_B).sum()


def npo_loss(
    logits: Tensor,
    labels: Tensor,
    reference_logps: Tensor,
    beta: float,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """Negative preference optimisation, mean over sequences that have a target token.

    Args:
        logits: [B, T, V] of the model in training.
        labels: [B, T] unshifted token ids, -100 where nothing is scored.
        reference_logps: [B] log-probabilities under the reference model (`sequence_logps`).
        beta: inverse temperature (> 0); as it tends to 0 the gradient tends to that of GA.
        num_items_in_batch: divisor of the sum; None for the number of counted sequences.
    """
    counted_B = (labels[:, 1:] != -100).any(1)
    total = npo_sum(sequence_logps(logits, labels), reference_logps, counted_B, beta)
    return reduce(total, counted_B.sum(), num_items_in_batch)
