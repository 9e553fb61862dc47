"""Losses on whole sequences, from summed log-probabilities.

A formula gives the loss of each sequence, or of each pair of them; training and dense losses share
it.

Shapes: B sequences, T tokens, N target positions of all B, V vocabulary, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from undial_cli.losses.chunked import Projection
from undial_cli.losses.positions import divide_sum, predicting_mask, select_targets, sum_by_sequence
from undial_cli.losses.targets import as_targets, sum_counted
from undial_cli.losses.tokens import target_logps


def sequence_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of the target tokens of each sequence, float64 [B]; logits [B, T, V]."""
    sequence_N = select_targets(labels)[2]
    return sum_by_sequence(target_logps(logits, labels), sequence_N, len(labels))


def mean_counted(
    counted_B: Tensor,
    losses_B: Tensor,
    logits: Tensor,
    num_items_in_batch: Tensor | float | None,
) -> Tensor:
    """Mean of the losses that count, in the precision that logits are computed with."""
    # Sequences' sums are float64 (`sum_by_sequence`), their loss is again of the model's precision.
    total = sum_counted(counted_B, losses_B).to(torch.promote_types(logits.dtype, torch.float32))
    return divide_sum(total, counted_B.sum(), num_items_in_batch)


def log_ratio(logps_B: Tensor, reference_B: Tensor) -> Tensor:
    """`log pi - log pi_ref`, [B]."""
    return logps_B - reference_B.detach().to(logps_B.dtype)


def preference_of_margin(margin_B: Tensor, beta: float) -> Tensor:
    """`-(2/beta) log sigmoid(beta margin)`, [B]."""
    # By 2/beta its slope at margin 0 is -1 for every beta: that of the plain log-probability.
    return -(2 / beta) * F.logsigmoid(beta * margin_B)


def npo_per_sequence(logps_B: Tensor, reference_B: Tensor, beta: float) -> Tensor:
    """NPO's loss of each sequence, [B], see `npo_loss`."""
    return preference_of_margin(-log_ratio(logps_B, reference_B), beta)


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
    losses_B = npo_per_sequence(sequence_logps(logits, labels), reference_logps, beta)
    return mean_counted(predicting_mask(labels).any(1), losses_B, logits, num_items_in_batch)


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
    chosen = as_targets(hidden, head, targets, counts, size=chunk_size)
    total = chosen.sequence_sum(lambda logps_B: npo_per_sequence(logps_B, reference_logps, beta))
    return divide_sum(total, sum(count > 0 for count in counts), num_items_in_batch)


def simnpo_per_sequence(logps_B: Tensor, lengths_B: Tensor, beta: float, delta: float) -> Tensor:
    """SimNPO's loss of each sequence of `lengths_B` target tokens, [B], see `simnpo_loss`."""
    # Clamped: a sequence without a target has length 0 and a loss that is not counted.
    return preference_of_margin(-logps_B / lengths_B.clamp(min=1) - delta, beta)


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
    lengths_B = predicting_mask(labels).sum(1)
    losses_B = simnpo_per_sequence(sequence_logps(logits, labels), lengths_B, beta, delta)
    return mean_counted(lengths_B > 0, losses_B, logits, num_items_in_batch)


def dpo_per_pair(logps_B: Tensor, reference_B: Tensor, beta: float) -> Tensor:
    """DPO's loss of each pair, [B/2], see `dpo_loss`; [true_0, alternative_0, true_1, ...]."""
    ratio_B = log_ratio(logps_B, reference_B)
    return preference_of_margin(ratio_B[1::2] - ratio_B[0::2], beta)


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
    counted_B = predicting_mask(labels).any(1) | predicting_mask(alternative_labels).any(1)
    losses_B = dpo_per_pair(logps_2B, reference_2B, beta)
    return mean_counted(counted_B, losses_B, logits, num_items_in_batch)


# Of FLAT's f-divergences: g* and f*(g*), of a mean probability.
FLAT_DIVERGENCES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "tv": (lambda p: p.tanh() / 2, lambda p: p.tanh() / 2),
    "kl": (lambda p: p, lambda p: (p - 1).exp()),
    "js": (
        lambda p: math.log(2) + F.logsigmoid(p),
        lambda p: p - F.logsigmoid(p) - math.log(2),
    ),
    "pearson": (lambda p: p, lambda p: p.square() / 4 + p),
}


def flat_per_pair(sums_B: Tensor, lengths_B: Tensor, divergence: str) -> Tensor:
    """FLAT's loss of each pair, [B/2], see `flat_loss`; `sums_B` of target tokens' probabilities.

    [true_0, template_0, true_1, ...].
    """
    means_B = sums_B / lengths_B.clamp(min=1)  # a sequence without a target has the mean 0
    learn, forget = FLAT_DIVERGENCES[divergence]
    return forget(means_B[0::2]) - learn(means_B[1::2])


def flat_loss(
    logits: Tensor,
    labels: Tensor,
    alternative_logits: Tensor,
    alternative_labels: Tensor,
    divergence: str,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """FLAT `f*(g*(P_true)) - g*(P_template)`, mean over pairs that have a target.

    P is the mean probability of an answer's target tokens; minimised, it makes the f-divergence
    between the template answer (a refusal) and the true one large:

    | | `g*(P)` | `f*(g*(P))` |
    | --- | --- | --- |
    | tv (total variation) | `tanh(P) / 2` | `tanh(P) / 2` |
    | kl | `P` | `exp(P - 1)` |
    | js | `log 2 - log(1 + exp(-P))` | `P + log(1 + exp(-P)) - log 2` |
    | pearson | `P` | `P^2 / 4 + P` |

    Source: Wang et al., ICLR 2025, https://arxiv.org/abs/2410.11143, and their code (UCSC-REAL/FLAT
    dataloader.py), whose P is one mean over the whole micro-batch and all padded positions; of one
    pair at a time, and of its answers' own tokens, it does not depend on how a batch is cut.

    Args:
        logits, labels: [B, T, V] and [B, T] of the true answers, unshifted, -100 where nothing is
            scored.
        alternative_logits, alternative_labels: [B, T', V] and [B, T'] of the template answers.
        divergence: a key of the table.
        num_items_in_batch: divisor of the sum; None for the number of counted pairs.

    Returns:
        Scalar without unit; 0 for tv where both probabilities are the same.
    """
    sums_2B = torch.stack(
        [
            sum_by_sequence(target_logps(s, y).exp(), select_targets(y)[2], len(y))
            for s, y in ((logits, labels), (alternative_logits, alternative_labels))
        ],
        1,
    ).flatten()
    lengths_B2 = torch.stack([predicting_mask(y).sum(1) for y in (labels, alternative_labels)], 1)
    losses_B = flat_per_pair(sums_2B, lengths_B2.flatten(), divergence)
    return mean_counted(lengths_B2.any(1), losses_B, logits, num_items_in_batch)
