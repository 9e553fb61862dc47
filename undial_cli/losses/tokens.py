"""Losses that are sums over target tokens.

A formula is a function of N target tokens' log-probabilities, or of the logits of their positions,
and gives N losses. Training runs it chunk by chunk (`Targets.token_sum`, `Targets.logits_sum`), a
dense loss on all positions at once. `fixed_N` is a value without gradient: a weight, or a target.

Shapes: B sequences, T tokens, N target positions of all B, V vocabulary, D width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from undial_cli.losses.chunked import Projection
from undial_cli.losses.positions import (
    count_targets_before,
    divide_sum,
    mean_loss,
    select_targets,
    upcast_half,
)
from undial_cli.losses.targets import as_targets


def target_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probabilities of the N target tokens of a batch, in nats, [N]; logits [B, T, V]."""
    mask, targets_N, _ = select_targets(labels)
    return -F.cross_entropy(upcast_half(logits[mask]), targets_N, reduction="none")


def cross_entropy_loss(
    logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | float | None = None
) -> Tensor:
    """Mean negative log-likelihood of the target tokens; `logits` [B, T, V], `labels` [B, T]."""
    return mean_loss(-target_logps(logits, labels), num_items_in_batch)


def fused_cross_entropy_loss(
    hidden: Tensor,
    head: Tensor | Projection,
    targets: Tensor,
    num_items_in_batch: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Mean negative log-likelihood of N targets; arguments as in `fused_undial_loss`."""
    total = as_targets(hidden, head, targets, size=chunk_size).token_sum(torch.neg)
    return divide_sum(total, len(targets), num_items_in_batch)


def ga_loss(
    logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | float | None = None
) -> Tensor:
    """Gradient ascent: minus the cross entropy. Unbounded below, which is why it collapses.

    Sources: Jang et al. 2023, https://arxiv.org/abs/2210.01504, and TOFU,
    https://arxiv.org/abs/2401.06121.
    """
    return -cross_entropy_loss(logits, labels, num_items_in_batch)


def fused_ga_loss(
    hidden: Tensor,
    head: Tensor | Projection,
    targets: Tensor,
    num_items_in_batch: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Gradient ascent: minus `fused_cross_entropy_loss`."""
    return -fused_cross_entropy_loss(hidden, head, targets, num_items_in_batch, chunk_size)


def wga_per_token(logps_N: Tensor, beta: float) -> Tensor:
    """WGA's loss of each token, see `wga_loss`."""
    return satimp_per_token(logps_N, beta, 0.0)


def wga_loss(
    logits: Tensor,
    labels: Tensor,
    beta: float,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """Weighted gradient ascent `q_y^beta log q_y`, the weight without gradient; mean over tokens.

    Source: Wang et al., ICLR 2025, https://arxiv.org/abs/2502.19301.

    Args:
        logits: [B, T, V] of the model in training.
        labels: [B, T] unshifted token ids, -100 where nothing is scored.
        beta: how much less a token counts that is unlikely already (>= 0; 0 is gradient ascent).
        num_items_in_batch: divisor of the sum; None for the number of target tokens.

    Returns:
        Scalar in nats, at most 0; 0 with its graph if there is no target token.
    """
    return mean_loss(wga_per_token(target_logps(logits, labels), beta), num_items_in_batch)


def satimp_per_token(logps_N: Tensor, beta1: float, beta2: float) -> Tensor:
    """SatImp's loss of each token, see `satimp_loss`."""
    fixed_N = logps_N.detach()
    # expm1: 1 - q_y where q_y is almost 1 has no digits left otherwise.
    weights_N = (beta1 * fixed_N).exp() * (-fixed_N.expm1()) ** beta2
    return weights_N * logps_N


def satimp_loss(
    logits: Tensor,
    labels: Tensor,
    beta1: float,
    beta2: float,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """SatImp `q_y^beta1 (1 - q_y)^beta2 log q_y`, the weight without gradient; mean over tokens.

    Source: Yang et al., ICML 2025, https://arxiv.org/abs/2505.11953.

    Args:
        logits, labels, num_items_in_batch: as in `wga_loss`.
        beta1: of saturation, less weight on what is unlikely already (>= 0).
        beta2: of importance, less weight on what is almost certain (>= 0).

    Returns:
        Scalar in nats, at most 0.
    """
    return mean_loss(
        satimp_per_token(target_logps(logits, labels), beta1, beta2), num_items_in_batch
    )


def unilogit_per_token(logps_N: Tensor, vocabulary: int) -> Tensor:
    """Unilogit's loss of each token, see `unilogit_loss`.

    `KL(q || p)` of the two events "y" and "not y", between which p divides `1/V` and `1 - 1/V`.
    Its log-ratios have no share in the gradient, as `q` sums to 1.
    """
    fixed_N = logps_N.detach()
    # Where q_y rounds to 1 the others' share is 0, whose logarithm the clamp keeps finite.
    others_N = (-fixed_N.expm1()).clamp(min=torch.finfo(fixed_N.dtype).eps)
    ratio_N = fixed_N + math.log(vocabulary)
    others_ratio_N = others_N.log() - math.log1p(-1 / vocabulary)
    return logps_N.exp() * ratio_N - logps_N.expm1() * others_ratio_N


def unilogit_loss(
    logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | float | None = None
) -> Tensor:
    """Unilogit: reverse KL to the model's own distribution with the target's logit made uniform.

    `KL(q || p)`, p without gradient: q with the target's logit replaced so that `p_y = 1/V`. It is
    `q_y log(V q_y) + (1 - q_y) log((1 - q_y) / (1 - 1/V))`; mean over target tokens.

    Source: Vasilev et al. 2025, https://arxiv.org/abs/2505.06027.

    Args:
        logits, labels, num_items_in_batch: as in `wga_loss`.

    Returns:
        Scalar in nats, between 0 (where every `q_y` is 1/V) and `log V`.
    """
    return mean_loss(
        unilogit_per_token(target_logps(logits, labels), logits.shape[-1]), num_items_in_batch
    )


def ceu_per_position(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """CE-U's loss of each position, [N], see `ceu_loss`.

    As `q_k = (1 - q_y) p_k`, it is `H(p) - log(1 - q_y)`, of which H(p) has no gradient. So written
    the gradient `q_y (onehot - p)` loses no digits where q_y is small, as `q - p` would.
    """
    index = targets_N[:, None]
    others_NV = logits_NV.scatter(1, index, -torch.inf)
    # entr is 0 at p = 0, where p log p would be NaN.
    entropy_N = torch.special.entr(others_NV.detach().softmax(-1)).sum(-1)
    margin_N = logits_NV.gather(1, index)[:, 0] - others_NV.logsumexp(-1)
    return entropy_N - F.logsigmoid(-margin_N)


def ceu_loss(
    logits: Tensor,
    labels: Tensor,
    skip: int = 1,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """CE-U: cross entropy against the model's own distribution without the target token.

    `-sum_k p_k log q_k`, `p = softmax(s with s_y = -inf)` without gradient; mean over the tokens
    that are not skipped.

    Source: https://arxiv.org/abs/2503.01224.

    Args:
        logits: [B, T, V] of the model in training.
        labels: [B, T] unshifted token ids, -100 where nothing is scored.
        skip: first targets of each sequence that count nowhere.
        num_items_in_batch: divisor of the sum; None for the number of tokens not skipped.

    Returns:
        Scalar in nats.
    """
    mask, targets_N, sequence_N = select_targets(labels)
    counted_N = count_targets_before(sequence_N, mask.sum(1)) >= skip
    losses_N = ceu_per_position(upcast_half(logits[mask][counted_N]), targets_N[counted_N])
    return mean_loss(losses_N, num_items_in_batch)


def pdu_forget_per_position(logits_NV: Tensor) -> Tensor:
    """PDU's forget loss of each position, [N], see `pdu_forget_loss`."""
    return (logits_NV.max(-1).values - logits_NV.mean(-1)).square()


def pdu_forget_loss(
    logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | float | None = None
) -> Tensor:
    """PDU's forget term `(max_k s_k - mean_k s_k)^2`, mean over the target positions.

    Source: Entesari et al. 2025, https://arxiv.org/abs/2506.05314.

    Args:
        logits, labels, num_items_in_batch: as in `wga_loss`; the target tokens do not matter.

    Returns:
        Scalar, in squared logits; 0 where all logits are equal.
    """
    return mean_loss(
        pdu_forget_per_position(upcast_half(logits[select_targets(labels)[0]])), num_items_in_batch
    )
