"""Figures joined into one: harmonic means, which are as low as their least part."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike


def harmonic_mean(scores: ArrayLike) -> float:
    """Of at least one score (ValueError else); 0 if one of them is 0 or less, nan if one is nan."""
    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        raise ValueError("a harmonic mean needs at least one score")
    return 0.0 if (values <= 0).any() else float(len(values) / (1 / values).sum())


def model_utility(scores: Mapping[str, float]) -> float:
    """Harmonic mean of the named scores; 0 if one of them is 0."""
    return harmonic_mean(list(scores.values()))


def memorization_score(
    extraction_strength: float,
    exact_memorization: float,
    paraphrase_probability: float,
    truth_ratio: float,
) -> float:
    """Harmonic mean of what is left out of four figures of the forget set; 1: nothing memorised.

    OpenUnlearning (arXiv 2506.12618). `truth_ratio` is the one there, p_true / (p_true + p_false)
    (`prob_mean_truth_ratio`); `paraphrase_probability` is that of the paraphrased answer.
    """
    known = (extraction_strength, exact_memorization, paraphrase_probability, truth_ratio)
    return harmonic_mean([1 - figure for figure in known])


def privacy_score(similarities: ArrayLike) -> float:
    """Harmonic mean of `attack_similarity` over attacks (loss, zlib, Min-K%, Min-K%++ there)."""
    return harmonic_mean(similarities)


def utility_score(utility: float, fluency: float | None = None) -> float:
    """Harmonic mean of model_utility and fluency, which OpenUnlearning divides by the target's."""
    return harmonic_mean([utility] if fluency is None else [utility, fluency])


def aggregate_score(memorization: float, privacy: float, utility: float) -> float:
    """Harmonic mean of the three composite scores (OpenUnlearning, arXiv 2506.12618)."""
    return harmonic_mean([memorization, privacy, utility])
