"""How likely a model finds true and false answers, and how alike two models are in that.

TOFU, arXiv 2401.06121. CE stands for the mean cross entropy per token, in nats.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def probability(answer_ce: ArrayLike) -> NDArray[np.float64]:
    """`exp(-CE)` of each answer, end token counted: [N] in (0, 1]."""
    return np.exp(-np.asarray(answer_ce, dtype=np.float64))


def pair_answer_ces(
    true_ce: ArrayLike, perturbed_ce: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """CEs of the true answers [N] and of their false ones [N, K]; ValueError if they do not fit."""
    true = np.asarray(true_ce, dtype=np.float64)
    false = np.asarray(perturbed_ce, dtype=np.float64)
    if false.ndim != 2 or len(false) != len(true):
        raise ValueError(f"perturbed_ce must be [N, K] with N = {len(true)}, not {false.shape}")
    return true, false


def compute_truth_share(
    true_ce: ArrayLike, perturbed_ce: ArrayLike, averaged: bool
) -> NDArray[np.float64]:
    """`p / (p + sum_k p_k)`, or with the mean over k; in log space, where no CE overflows."""
    true, false = pair_answer_ces(true_ce, perturbed_ce)
    if not false.shape[1]:
        raise ValueError("perturbed_ce must be [N, K] with K of at least 1")
    log_false = np.logaddexp.reduce(-false, axis=1) - (np.log(false.shape[1]) if averaged else 0.0)
    with np.errstate(invalid="ignore"):
        return np.exp(-np.logaddexp(0.0, true + log_false))


def normalised_probability(answer_ce: ArrayLike, perturbed_ce: ArrayLike) -> NDArray[np.float64]:
    """`p / (p + sum_k p_k)` per sample, `p = exp(-CE)`: TOFU's probability where there are options.

    Args:
        answer_ce: [N], end token counted.
        perturbed_ce: [N, K], of the false answers; ValueError if K is 0 or the shapes do not fit.

    Returns:
        [N] in [0, 1]; nan where all K + 1 CEs are infinite.
    """
    return compute_truth_share(answer_ce, perturbed_ce, averaged=False)


def choose_likeliest(log_likelihoods: ArrayLike) -> int:
    """The number, from 0, of the likeliest of a question's choices [K]; of equals the first.

    Multiple choice as lm-evaluation-harness scores it (acc): by the whole of an answer, not per
    token.
    """
    return int(np.argmax(np.asarray(log_likelihoods)))


def log_truth_ratio(paraphrase_ce: ArrayLike, perturbed_ce: ArrayLike) -> NDArray[np.float64]:
    """Logarithm of `truth_ratio`; exact where the ratio itself overflows. [N]"""
    true, false = pair_answer_ces(paraphrase_ce, perturbed_ce)
    return true - false.mean(axis=1)


def truth_ratio(paraphrase_ce: ArrayLike, perturbed_ce: ArrayLike) -> NDArray[np.float64]:
    """`exp(ce_paraphrase - mean_k ce_perturbed_k)` per sample; above 1 the false answers win.

    From CEs [N] and [N, K] (else ValueError) to [N]; infinite where the exponent overflows.
    """
    with np.errstate(over="ignore"):
        return np.exp(log_truth_ratio(paraphrase_ce, perturbed_ce))


def prob_mean_truth_ratio(true_ce: ArrayLike, perturbed_ce: ArrayLike) -> NDArray[np.float64]:
    """`p / (p + mean_k p_k)` per sample, `p = exp(-CE)`; 0.5: truth and falsehood as likely.

    The mean is over probabilities. open-unlearning's `prob_mean` averages CEs before it
    exponentiates, which is `1 / (1 + truth_ratio)` and never smaller than this.

    Args:
        true_ce: [N], of the paraphrased answers (of the answers where there is no paraphrase).
        perturbed_ce, and what is returned: as of `normalised_probability`.
    """
    return compute_truth_share(true_ce, perturbed_ce, averaged=True)


def evenness(ratio: ArrayLike) -> NDArray[np.float64]:
    """`min(r, 1/r)` of each truth ratio [N]; 1 when truth and falsehood are as likely."""
    r = np.asarray(ratio, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.minimum(r, 1 / r)


def truthfulness(ratio: ArrayLike) -> NDArray[np.float64]:
    """`max(0, 1 - r)` of each truth ratio [N]."""
    return np.maximum(0, 1 - np.asarray(ratio, dtype=np.float64))


def forget_truth_ratio(ratio: ArrayLike) -> float:
    """Aggregate on a forget set: the mean of `evenness`."""
    return float(evenness(ratio).mean())


def retain_truth_ratio(ratio: ArrayLike) -> float:
    """Aggregate on every other set: the mean of `truthfulness`."""
    return float(truthfulness(ratio).mean())


def forget_quality(truth_ratio_unlearned: ArrayLike, truth_ratio_retain: ArrayLike) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test between two sets of truth ratios.

    High: the unlearned model cannot be told from one that never saw the data. Ratios or their
    logarithms may be given (the test depends on ranks alone), the same for both. Exact where SciPy
    can, else asymptotic.
    """
    from scipy.stats import ks_2samp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it falls back by itself, and says so
        test: Any = ks_2samp(np.asarray(truth_ratio_unlearned), np.asarray(truth_ratio_retain))
    return float(test.pvalue)


def ks_distance(one: ArrayLike, other: ArrayLike) -> float:
    """The Kolmogorov-Smirnov distance D behind `forget_quality`: in [0, 1], 0 is alike.

    Without SciPy's test, which takes fifteen times as long: the bootstrap wants D alone.
    """
    samples = [np.sort(np.asarray(values)) for values in (one, other)]
    points = np.concatenate(samples)
    below = [np.searchsorted(x, points, side="right") / len(x) for x in samples]
    return round(float(np.abs(below[0] - below[1]).max()), 12)  # 0.07, not 0.06999999999999995
