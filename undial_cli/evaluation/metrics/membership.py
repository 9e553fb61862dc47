"""Membership attacks: whether a text was trained on, by how likely a model finds it.

MUSE is arXiv 2407.06460. CE stands for the mean cross entropy per token, in nats.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import ArrayLike

MIN_VARIANCE = 1e-6  # below it a distribution counts as certain; open-unlearning's floor


def min_k(log_probs: ArrayLike, k: float = 0.4) -> float:
    """Min-K% Prob: the mean of the lowest share k of a text's token log-probabilities.

    High for texts that were trained on; its negative is the loss-like score for `attack_auc`.
    Shi et al. 2023, arXiv 2310.16789.

    Args:
        log_probs: [T], nats, end token left out; ValueError if there is none.
        k: in (0, 1], else ValueError; `max(1, int(T * k))` tokens count.
    """
    scores = np.asarray(log_probs, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"needs [T] with at least one token, not {scores.shape}")
    if not 0 < k <= 1:
        raise ValueError(f"k is a share in (0, 1], not {k}")
    if np.isnan(scores).any():  # sorted, a nan would be the highest and not count
        return float("nan")
    return float(np.sort(scores)[: max(1, int(len(scores) * k))].mean())


def min_k_plus_plus(
    log_probs: ArrayLike, mean: ArrayLike, variance: ArrayLike, k: float = 0.4
) -> float:
    """Min-K%++: `min_k` of log-probabilities standardised by the model's own distribution q.

    Zhang et al. 2024, arXiv 2404.02936.

    Args:
        log_probs, k: as of `min_k`.
        mean: [T], `sum_v q_v log q_v` at each position; ValueError if the lengths differ.
        variance: [T], `sum_v q_v (log q_v)^2 - mean^2`, in nats squared; taken as 1e-6 at least.
    """
    arrays = [np.asarray(a, dtype=np.float64) for a in (log_probs, mean, variance)]
    if len({a.shape for a in arrays}) > 1:
        raise ValueError(f"[T] must be the same for all, not {[a.shape for a in arrays]}")
    tokens, mu, var = arrays
    return min_k((tokens - mu) / np.sqrt(np.maximum(var, MIN_VARIANCE)), k)


def zlib_score(ce: float, text: str) -> float:
    """CE (end token counted) per byte of the zlib-compressed text. Carlini et al. 2021."""
    return float(ce) / len(zlib.compress(text.encode("utf-8")))


def attack_auc(forget_scores: ArrayLike, holdout_scores: ArrayLike) -> float:
    """AUC of a membership attack: `P(holdout > forget) + P(equal) / 2` of loss-like scores.

    1 when every forget sample scores below every holdout sample (fully memorised), 0.5 when they
    cannot be told apart. O(n log n).

    Args:
        forget_scores: [N], lower for better known texts; ValueError if there is none.
        holdout_scores: [M], likewise.

    Returns:
        In [0, 1]; nan if a score is nan.
    """
    forget = np.asarray(forget_scores, dtype=np.float64)
    holdout = np.asarray(holdout_scores, dtype=np.float64)
    if forget.ndim != 1 or holdout.ndim != 1 or not forget.size or not holdout.size:
        raise ValueError(f"needs [N] and [M], neither empty, not {forget.shape}, {holdout.shape}")
    if np.isnan(forget).any() or np.isnan(holdout).any():
        return float("nan")
    forget = np.sort(forget)
    below = np.searchsorted(forget, holdout, side="left").sum()
    not_above = np.searchsorted(forget, holdout, side="right").sum()
    return float(below + not_above) / (2 * forget.size * holdout.size)


def attack_similarity(auc: float, auc_retain: float) -> float:
    """`1 - |auc - auc_retain| / auc_retain`, 0 at least: how like the retain model's an AUC is.

    OpenUnlearning (arXiv 2506.12618); ValueError if auc_retain is 0: relative to nothing.
    """
    if auc_retain == 0:
        raise ValueError("the similarity is undefined: the retain model's attack AUC is 0")
    return max(0.0, 1 - abs(auc - auc_retain) / auc_retain)


def privleak(auc: float, auc_retain: float) -> float:
    """Leakage against the retain model, in percent; 0 is ideal.

    -100: the forget set is still fully exposed; above 0: over-unlearned.
    `((1 - auc) - (1 - auc_retain)) / (1 - auc_retain) * 100`. MUSE writes the same as
    `(A - A_retrain) / A_retrain * 100` with `A = P(holdout's Min-K% > forget's)`: Min-K% falls
    where the loss-like score rises, hence `A = 1 - auc`.

    Args:
        auc: `attack_auc` of the unlearned model on negated `min_k`.
        auc_retain: the same of the retain model; ValueError if it is 1: relative to nothing.
    """
    if auc_retain == 1:
        raise ValueError("privleak is undefined: the retain model's attack AUC is 1")
    return ((1 - auc) - (1 - auc_retain)) / (1 - auc_retain) * 100
