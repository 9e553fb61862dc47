"""How much of a text a model gives by itself, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from undial_cli.evaluation.metrics.texts import list_ngrams


def exact_memorization(matches: Sequence[Sequence[bool]]) -> tuple[float, int]:
    """Mean share of answer tokens that greedy teacher-forced prediction gives.

    Of samples that each say which of their answer tokens are predicted (end token left out): the
    score, and how many samples were skipped because they hold no answer token.
    """
    shares = [float(np.mean(sample)) for sample in matches if len(sample)]
    return (float(np.mean(shares)) if shares else float("nan")), len(matches) - len(shares)


def extraction_strength(matches: Sequence[bool] | NDArray[Any]) -> float:
    """`1 - k/n` of one sample: k tokens of the answer have to be given, the rest comes by itself.

    k is the shortest prefix after which every greedy teacher-forced prediction is right, at most
    n - 1 (as in open-unlearning), so that a complete miss scores 1/n. Carlini et al. 2021.

    Args:
        matches: [n], whether each answer token is predicted (end token left out); ValueError if
            there is none.
    """
    hits = np.asarray(matches, dtype=bool)
    if not len(hits):
        raise ValueError("extraction_strength needs at least one answer token")
    misses = np.flatnonzero(~hits)
    k = min(int(misses[-1]) + 1, len(hits) - 1) if len(misses) else 0
    return 1 - k / len(hits)


def memorization_accuracy(predicted_ids: ArrayLike, reference_ids: ArrayLike) -> float:
    """MA: the share of positions whose greedy teacher-forced token equals the reference.

    Of two [T], ValueError if they differ in length or are empty. Jang et al. 2023, arXiv
    2210.01504; there positions 2..T of the text.
    """
    predicted, reference = np.asarray(predicted_ids), np.asarray(reference_ids)
    if predicted.shape != reference.shape or predicted.ndim != 1 or not len(predicted):
        raise ValueError(f"needs two [T], not empty, not {predicted.shape}, {reference.shape}")
    return float((predicted == reference).mean())


def extraction_likelihood(
    generated_ids: Sequence[int] | NDArray[Any], reference_ids: Sequence[int] | NDArray[Any], n: int
) -> float:
    """EL_n of one prefix: generated n-grams found in the true suffix / n-grams of the suffix.

    Generated n-grams count with multiplicity. Jang et al. 2023, arXiv 2210.01504.

    Args:
        generated_ids: the greedy continuation, as long as the suffix or shorter.
        reference_ids: [T], the true suffix; ValueError if it is shorter than n.
        n: length of the n-grams.

    Returns:
        In [0, 1]; above 1 only for a generation longer than the suffix.
    """
    reference = list_ngrams(reference_ids, n)
    if not reference:
        raise ValueError(f"the suffix of {len(reference_ids)} tokens is shorter than n = {n}")
    known = set(reference)
    return sum(gram in known for gram in list_ngrams(generated_ids, n)) / len(reference)


def unique_extraction_likelihood(
    generated_ids: Sequence[int] | NDArray[Any], reference_ids: Sequence[int] | NDArray[Any], n: int
) -> float:
    """EL_n as in UnDIAL's code: the share of unique generated n-grams found in the true suffix.

    In [0, 1]; 0 when the generation is shorter than n. Dong et al. 2025, arXiv 2402.10052.
    """
    generated = set(list_ngrams(generated_ids, n))
    return (
        len(generated & set(list_ngrams(reference_ids, n))) / len(generated) if generated else 0.0
    )
