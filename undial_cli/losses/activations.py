"""RMU's losses: mean squared errors of one layer's activations. Knows no head and no logits.

Sources: Li et al., WMDP, 2024, https://arxiv.org/abs/2403.03218; Dang et al., AAAI 2025,
https://arxiv.org/abs/2408.06223 (adaptive). They look at the target tokens' own positions, not at
those that predict them.

Shapes: B sequences, T tokens, N target tokens of all B, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undial_cli.losses.positions import divide_sum, predicting_mask, upcast_half


def squared_error_sum(
    hidden_ND: Tensor, wanted: Tensor, sequence_N: Tensor, counts: list[int]
) -> Tensor:
    """RMU's loss, summed over the sequences that have a target.

    Of a sequence, the mean over its tokens and over D of the squared distance to what is wanted:
    the control vector [D], or the frozen model's activations [N, D] (see `rmu_forget_loss`,
    `rmu_retain_loss`).
    """
    hidden_ND = upcast_half(hidden_ND)  # squares of half precision overflow, and lose their digits
    error_N = (hidden_ND - wanted.detach().to(hidden_ND.dtype)).square().mean(-1)
    counts_B = torch.tensor(counts, dtype=error_N.dtype, device=error_N.device)
    return (error_N / counts_B[sequence_N]).sum()


def scale_control(
    control_D: Tensor, frozen_ND: Tensor, sequence_N: Tensor, counts: list[int]
) -> Tensor:
    """The control vector times the mean length of the frozen activations of a sequence, [N, D].

    So far adaptive RMU steers, see `adaptive_rmu_forget_loss`.
    """
    lengths_N = upcast_half(frozen_ND).norm(dim=-1)
    counts_B = torch.tensor(counts, dtype=lengths_N.dtype, device=lengths_N.device)
    means_B = torch.zeros_like(counts_B).index_add(0, sequence_N, lengths_N) / counts_B.clamp(min=1)
    return means_B[sequence_N, None] * control_D.to(lengths_N.dtype)


def target_token_mask(labels_BT: Tensor) -> Tensor:
    """Where the target tokens themselves are: bool [B, T], the first column always false."""
    # The first token is predicted by none, so it is no target whatever its label says.
    return predicting_mask(labels_BT).roll(1, 1)


def rmu_forget_loss(
    hidden: Tensor,
    labels: Tensor,
    control: Tensor,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """RMU's forget term: squared error between activations and a fixed control vector.

    Mean over D, then over a sequence's target tokens, then over sequences that have one.

    Args:
        hidden: [B, T, D], one layer's output.
        labels: [B, T] unshifted token ids, -100 where nothing is scored.
        control: [D].
        num_items_in_batch: divisor of the sum; None for the number of sequences with a target.

    Returns:
        Scalar in squared activations, float32 at least.
    """
    return rmu_retain_loss(hidden, control.expand_as(hidden), labels, num_items_in_batch)


def rmu_retain_loss(
    hidden: Tensor,
    frozen_hidden: Tensor,
    labels: Tensor,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """RMU's retain term: squared error to the activations [B, T, D] of the model before unlearning.

    Reduction and arguments as in `rmu_forget_loss`.
    """
    mask = target_token_mask(labels)
    counts = mask.sum(1).tolist()
    sequence_N = mask.nonzero(as_tuple=True)[0]
    total = squared_error_sum(hidden[mask], frozen_hidden[mask], sequence_N, counts)
    return divide_sum(total, sum(count > 0 for count in counts), num_items_in_batch)


def adaptive_rmu_forget_loss(
    hidden: Tensor,
    frozen_hidden: Tensor,
    labels: Tensor,
    control: Tensor,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """Adaptive RMU's forget term: the control vector is as long as the activations, times its own.

    The squared error of `rmu_forget_loss` to `control * mean_t |frozen_t|`, the mean over the
    sequence's target tokens.

    Source: Dang et al., AAAI 2025, https://arxiv.org/abs/2408.06223, by their code
    (RebelsNLU-jaist/llm-unlearning): there the mean is that of the first micro-batch, for the whole
    run, over all its tokens; of each sequence by itself it does not depend on how a batch is cut.

    Args:
        hidden: [B, T, D], one layer's output.
        frozen_hidden: [B, T, D], that of the model before unlearning.
        labels: [B, T] unshifted token ids, -100 where nothing is scored.
        control: [D], of the length `scale` (the authors': 5).
        num_items_in_batch: divisor of the sum; None for the number of sequences with a target.

    Returns:
        Scalar in squared activations, float32 at least.
    """
    mask = target_token_mask(labels)
    sequence_N = mask.nonzero(as_tuple=True)[0]
    wanted = torch.zeros_like(upcast_half(hidden))
    wanted[mask] = scale_control(
        control, frozen_hidden[mask].detach(), sequence_N, mask.sum(1).tolist()
    ).to(wanted.dtype)
    return rmu_retain_loss(hidden, wanted, labels, num_items_in_batch)
