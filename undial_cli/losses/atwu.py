"""ATWU: each token weighs what a scorer of its hidden state says, which is learnt beside the model.

Source: Yuce et al. 2026, https://arxiv.org/abs/2606.06320, by the repository of one of the authors
(giorgosnikolaou/open-unlearning, configs/trainer/SBGradDiffLearned.yaml).

Shapes: B sequences, N target positions of all B, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from undial_cli.losses.positions import mean_loss, select_targets, upcast_half
from undial_cli.losses.tokens import target_logps

# A score's logarithm is taken no nearer to 0 and 1 than this.
LEAST_SCORE = 1e-6


def score_tokens(hidden_ND: Tensor, scorer_E: Tensor) -> Tensor:
    """How much each token is to be forgotten, 0 to 1: `sigmoid(w h + b)`, [N]; E is w, then b."""
    hidden_ND = upcast_half(hidden_ND)
    scorer_E = scorer_E.to(hidden_ND.dtype)
    # No matrix product, which autocast would round.
    return ((hidden_ND * scorer_E[:-1]).sum(-1) + scorer_E[-1]).sigmoid()


def atwu_per_token(logps_N: Tensor, scores_N: Tensor, beta: float) -> Tensor:
    """ATWU's forget loss of each token, see `atwu_loss`."""
    weighed_N = scores_N * logps_N
    return (beta * weighed_N.detach()).exp() * weighed_N


def atwu_loss(
    logits: Tensor,
    labels: Tensor,
    scores: Tensor,
    beta: float,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """ATWU's forget term `exp(beta g log q_y) g log q_y`, g the token's score; mean over tokens.

    Gradient ascent on a token's share g of its loss, saturated: the exponential has no gradient.

    Args:
        logits, labels, num_items_in_batch: as in `wga_loss`.
        scores: [B, T], at the position that predicts the token (`score_tokens`).
        beta: how much less a token counts that is unlikely already (>= 0).

    Returns:
        Scalar in nats, at most 0.
    """
    scores_N = scores[select_targets(labels)[0]]
    return mean_loss(
        atwu_per_token(target_logps(logits, labels), scores_N, beta), num_items_in_batch
    )


def scorer_token_losses(scores_N: Tensor, logps_N: Tensor, entropy: float) -> Tensor:
    """Of the scorer's loss, what is a mean over tokens: `(1 - g) nll + entropy H(g)`, [N].

    A token whose loss has risen could be forgotten, and costs less with a high score. The second
    part draws scores to 0 or 1.
    """
    sure_N = scores_N.clamp(LEAST_SCORE, 1 - LEAST_SCORE)
    entropies_N = -(sure_N * sure_N.log() + (1 - sure_N) * (1 - sure_N).log())
    return -(1 - scores_N) * logps_N.detach() + entropy * entropies_N


def scorer_sequence_losses(
    scores_N: Tensor, sequence_N: Tensor, counts: list[int], budget: float
) -> Tensor:
    """Of the scorer's loss, what is a mean over sequences: `(share - budget)^2`, [B].

    `share` is that of the scores above 1/2, whose slope is taken for that of the scores' mean; of a
    sequence without a target the loss is 0.
    """
    counts_B = torch.tensor(counts, dtype=scores_N.dtype, device=scores_N.device)
    chosen_N = (scores_N > 0.5).to(scores_N.dtype) - scores_N.detach() + scores_N
    shares_B = torch.zeros_like(counts_B).index_add(0, sequence_N, chosen_N) / counts_B.clamp(min=1)
    return (shares_B - budget).square() * (counts_B > 0)
