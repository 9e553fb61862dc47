"""Target positions: where a causal model predicts a token that counts. Knows no loss.

Shapes: B sequences, T tokens, N target positions of all B.
"""

from __future__ import annotations

import torch
from torch import Tensor

# The label of a token that is not scored, as in transformers.
IGNORE = -100


def predicting_mask(labels_BT: Tensor) -> Tensor:
    """Positions whose *next* token is a target: bool [B, T], the last column always false."""
    mask = torch.zeros_like(labels_BT, dtype=torch.bool)
    mask[:, :-1] = labels_BT[:, 1:] != IGNORE
    return mask


def select_targets(labels_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The target positions of a batch, in row order.

    Args:
        labels_BT: unshifted labels, -100 where nothing is scored.

    Returns:
        mask [B, T] of predicting positions, targets [N] of token ids, sequence [N] of row numbers.
    """
    mask = predicting_mask(labels_BT)
    targets = labels_BT[:, 1:][mask[:, :-1]]
    sequence = mask.nonzero(as_tuple=True)[0]
    return mask, targets, sequence


def count_targets_before(sequence_N: Tensor, counts_B: Tensor) -> Tensor:
    """How many targets of its own sequence come before each of N, given how many each has: [N]."""
    starts_B = counts_B.cumsum(0) - counts_B
    return torch.arange(len(sequence_N), device=sequence_N.device) - starts_B[sequence_N]


def sum_by_sequence(logps_N: Tensor, sequence_N: Tensor, rows: int) -> Tensor:
    """Log-probabilities summed over the positions of each of `rows` sequences, float64 [rows].

    A long answer's sum has more digits than float32 holds, and what counts is a difference of two.
    """
    zeros_B = logps_N.new_zeros(rows, dtype=torch.float64)
    return zeros_B.index_add(0, sequence_N, logps_N.double())


def upcast_half(logits: Tensor) -> Tensor:
    """Half-precision logits as float32; float32 and float64 as they are."""
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def divide_sum(
    total: Tensor, count: Tensor | int, num_items_in_batch: Tensor | float | None
) -> Tensor:
    """`total / num_items_in_batch`, or the mean over `count` (0 with its graph if that is 0)."""
    divisor = count if num_items_in_batch is None else num_items_in_batch
    # Divided even where nothing counts: a loss without its graph could not go backward.
    if isinstance(divisor, Tensor):
        return total / divisor.clamp(min=1)  # without reading it, for which a GPU would stop
    return total / max(divisor, 1)


def mean_loss(losses_N: Tensor, num_items_in_batch: Tensor | float | None) -> Tensor:
    """The mean of N losses, or their sum divided by `num_items_in_batch`."""
    return divide_sum(losses_N.sum(), len(losses_N), num_items_in_batch)
