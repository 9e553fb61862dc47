"""Metrics as pure functions of arrays and texts. Formulas and sources: TOFU, arXiv 2401.06121.

CE stands for the mean cross entropy per token, in nats. No model, no file, no config.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rouge_score import rouge_scorer
from scipy.stats import ks_2samp


def probability(answer_ce: ArrayLike) -> NDArray[np.float64]:
    """`exp(-CE)` of each answer, end token counted: [N] in (0, 1]."""
    return np.exp(-np.asarray(answer_ce, dtype=np.float64))


def log_truth_ratio(paraphrase_ce: ArrayLike, perturbed_ce: ArrayLike) -> NDArray[np.float64]:
    """Logarithm of `truth_ratio`; exact where the ratio itself overflows. [N]"""
    true = np.asarray(paraphrase_ce, dtype=np.float64)
    false = np.asarray(perturbed_ce, dtype=np.float64)
    if false.ndim != 2 or len(false) != len(true):
        raise ValueError(f"perturbed_ce must be [N, K] with N = {len(true)}, not {false.shape}")
    return true - false.mean(axis=1)


def truth_ratio(paraphrase_ce: ArrayLike, perturbed_ce: ArrayLike) -> NDArray[np.float64]:
    """`exp(ce_paraphrase - mean_k ce_perturbed_k)` per sample; above 1 the false answers win.

    Args:
        paraphrase_ce: [N].
        perturbed_ce: [N, K].

    Returns:
        [N]; infinite where the exponent overflows.

    Raises:
        ValueError: the shapes do not fit.
    """
    with np.errstate(over="ignore"):
        return np.exp(log_truth_ratio(paraphrase_ce, perturbed_ce))


def forget_truth_ratio(ratio: ArrayLike) -> float:
    """Aggregate on a forget set: `mean(min(r, 1/r))`; 1 when truth and falsehood are as likely."""
    r = np.asarray(ratio, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return float(np.minimum(r, 1 / r).mean())


def retain_truth_ratio(ratio: ArrayLike) -> float:
    """Aggregate on every other set: `mean(max(0, 1 - r))`."""
    return float(np.maximum(0, 1 - np.asarray(ratio, dtype=np.float64)).mean())


def forget_quality(truth_ratio_unlearned: ArrayLike, truth_ratio_retain: ArrayLike) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test between two sets of truth ratios.

    High: the unlearned model cannot be told from one that never saw the data. Ratios or their
    logarithms may be given (the test depends on ranks alone), the same for both.
    """
    result = ks_2samp(np.asarray(truth_ratio_unlearned), np.asarray(truth_ratio_retain))
    return float(result.pvalue)  # type: ignore[attr-defined]


def model_utility(scores: Mapping[str, float]) -> float:
    """Harmonic mean of the named scores; 0 if one of them is 0."""
    values = np.asarray(list(scores.values()), dtype=np.float64)
    if not len(values):
        raise ValueError("model_utility needs at least one score")
    return 0.0 if (values <= 0).any() else float(len(values) / (1 / values).sum())


@functools.lru_cache(maxsize=1)
def rouge_l_scorer() -> rouge_scorer.RougeScorer:
    """The stemmed ROUGE-L scorer of the reference package."""
    return rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l_recall(prediction: str, reference: str) -> float:
    """ROUGE-L recall, stemmed, of a generation against its reference answer."""
    return float(rouge_l_scorer().score(reference, prediction)["rougeL"].recall)


def exact_memorization(matches: Sequence[Sequence[bool]]) -> tuple[float, int]:
    """Mean share of answer tokens that greedy teacher-forced prediction gives.

    Args:
        matches: per sample, whether each answer token is predicted (end token left out).

    Returns:
        (score, number of samples skipped because they hold no answer token).
    """
    shares = [float(np.mean(sample)) for sample in matches if len(sample)]
    return (float(np.mean(shares)) if shares else float("nan")), len(matches) - len(shares)
