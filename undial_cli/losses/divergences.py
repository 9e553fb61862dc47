"""Losses of a position's whole distribution: flat, turned to another token, or held to the teacher.

The same formulas train, chunk by chunk (`Targets.logits_sum`, `Targets.token_sum`), and make the
dense losses.

Shapes: B sequences, T tokens, N target positions of all B, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from undial_cli.losses.positions import IGNORE, mean_loss, select_targets, upcast_half
from undial_cli.losses.tokens import target_logps


def max_entropy_per_position(logits_NV: Tensor) -> Tensor:
    """Maximum entropy's loss of each position, [N], see `max_entropy_loss`."""
    return logits_NV.logsumexp(-1) - logits_NV.mean(-1) - math.log(logits_NV.shape[-1])


def max_entropy_loss(
    logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | float | None = None
) -> Tensor:
    """Maximum entropy (the ME of ME+GD): `KL(uniform || q)`, mean over the target positions.

    `-log V - (1/V) sum_k log q_k`, which is `logsumexp(s) - mean_k s_k - log V`.

    Source: Yuan et al. 2024, https://arxiv.org/abs/2410.08109, and their code (sail-sg/
    closer-look-LLM-unlearning), which adds 1e-12 to each `q_k`, so that it is bounded by 27.6.

    Args:
        logits, labels, num_items_in_batch: as in `wga_loss`; the target tokens do not matter.

    Returns:
        Scalar in nats; 0 where all logits are equal.
    """
    rows_NV = upcast_half(logits[select_targets(labels)[0]])
    return mean_loss(max_entropy_per_position(rows_NV), num_items_in_batch)


def inverted_hinge_per_position(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """The inverted hinge of each position, [N], see `inverted_hinge_loss`."""
    log_sum_N = logits_NV.logsumexp(-1)
    # Of the two largest logits one is not the target's: no copy of [N, V] without the target.
    (first_N, second_N), (likeliest_N, _) = (x.unbind(-1) for x in logits_NV.topk(2))
    rival_N = torch.where(likeliest_N == targets_N, second_N, first_N)
    target_N = logits_NV.gather(1, targets_N[:, None])[:, 0]
    return 1 + (target_N - log_sum_N).exp() - (rival_N - log_sum_N).exp()


def inverted_hinge_loss(
    logits: Tensor, labels: Tensor, num_items_in_batch: Tensor | float | None = None
) -> Tensor:
    """LoKU's inverted hinge `1 + q_y - max_{k != y} q_k`, mean over target tokens.

    Source: Cha et al., ICLR 2025, https://arxiv.org/abs/2408.06621.

    Args:
        logits, labels, num_items_in_batch: as in `wga_loss`.

    Returns:
        Scalar between 0 (all mass on one other token) and 2 (all mass on the target).
    """
    mask, targets_N, _ = select_targets(labels)
    losses_N = inverted_hinge_per_position(upcast_half(logits[mask]), targets_N)
    return mean_loss(losses_N, num_items_in_batch)


def js_to_token(logps_N: Tensor) -> Tensor:
    """Jensen-Shannon divergence of q and the one-hot distribution of a token, of its `log q`, [N].

    `log 2 + (q log q - (1 + q) log(1 + q)) / 2`: of all others only the sum of their mass counts.
    """
    q_N = logps_N.exp()
    return math.log(2) + (q_N * logps_N - (1 + q_N) * q_N.log1p()) / 2


def cycle_tokens(counts: list[int], other_counts: list[int]) -> list[int]:
    """For each token of each answer, which of the other answers' tokens (one after the other) is
    its: that of the same place, from the first again where the other answer is at its end.

    Answers whose other one has no token are left out.
    """
    indices: list[int] = []
    start = 0
    for count, others in zip(counts, other_counts, strict=True):
        indices += [start + i % others for i in range(count)] if others else []
        start += others
    return indices


def jensun_loss(
    logits: Tensor,
    labels: Tensor,
    alternative_labels: Tensor,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """JensUn's forget term: Jensen-Shannon divergence to a refusal's tokens, mean over positions.

    After the true answer's first t tokens the model is to say token t of the refusal, which begins
    again where it ends: `JS(q, onehot(r_t)) = log 2 + (q_r log q_r - (1 + q_r) log(1 + q_r)) / 2`.

    Source: Singh et al. 2025, https://arxiv.org/abs/2509.02820. Their code (nmndeep/
    JensUn-Unlearning) gives at every position the mass 1 to *each* of the refusal's two tokens,
    which is no distribution, and takes prompt and padding with it.

    Args:
        logits: [B, T, V] on the true answers, of the model in training.
        labels: [B, T] unshifted token ids of the true answers, -100 where nothing is scored.
        alternative_labels: [B, T'], of the refusals.
        num_items_in_batch: divisor of the sum; None for the number of target tokens.

    Returns:
        Scalar in nats, between 0 and `log 2`.
    """
    other_counts = (alternative_labels[:, 1:] != IGNORE).sum(1).tolist()
    answered_B = torch.tensor([count > 0 for count in other_counts], device=labels.device)
    labels = torch.where(answered_B[:, None], labels, IGNORE)
    counts = select_targets(labels)[0].sum(1).tolist()
    indices = torch.tensor(
        cycle_tokens(counts, other_counts), dtype=torch.long, device=labels.device
    )
    wanted = labels.clone()
    predicted = labels != IGNORE
    predicted[:, 0] = False
    wanted[predicted] = select_targets(alternative_labels)[1][indices]
    return mean_loss(js_to_token(target_logps(logits, wanted)), num_items_in_batch)


def js_per_position(log_q_NV: Tensor, log_p_NV: Tensor) -> Tensor:
    """Jensen-Shannon divergence `(KL(p || m) + KL(q || m)) / 2`, `m = (p + q) / 2`, [N]."""
    log_m_NV = torch.logaddexp(log_q_NV, log_p_NV) - math.log(2)
    of_q_NV = log_q_NV.exp() * (log_q_NV - log_m_NV)
    return (log_p_NV.exp() * (log_p_NV - log_m_NV) + of_q_NV).sum(-1) / 2


def js_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    num_items_in_batch: Tensor | float | None = None,
) -> Tensor:
    """JensUn's retain term `JS(reference, student)`, mean over the target positions.

    Source: as of `jensun_loss`. Logits [B, T, V], the reference's without gradient; in nats, at
    most `log 2`.
    """
    mask = select_targets(labels)[0]
    log_q_NV, log_p_NV = (
        upcast_half(logits[mask]).log_softmax(-1)
        for logits in (student_logits, teacher_logits.detach())
    )
    return mean_loss(js_per_position(log_q_NV, log_p_NV), num_items_in_batch)
