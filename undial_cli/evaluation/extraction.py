"""Extraction engine: how much of a document a model continues word for word.

`all` prefixes (Jang et al., 2023): greedy, from every prefix. `authors` (the UnDIAL paper's code):
sampled, from four prefixes; its `ma` is greedy all the same. Shared over processes; knows token
ids and a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from undial_cli.evaluation import metrics
from undial_cli.evaluation.continuation import continue_prefixes
from undial_cli.evaluation.decoding import Decoding, decode_prompts
from undial_cli.evaluation.sharding import NO_JOURNAL, Journal, KeepResult, shard_work

AUTHORS_PREFIXES = (40, 80, 120, 160)
AUTHORS_TOKENS = 200
AUTHORS_TOP_P, AUTHORS_TOP_K = 0.95, 50

ExtractionFigures = dict[str, float | None]


def extract_greedily(
    model: Any,
    name: str,
    documents: list[list[int]],
    lengths: list[int],
    stride: int,
    batch_size: int,
    journal: Journal = NO_JOURNAL,
) -> list[ExtractionFigures]:
    """`ma`, and `el_N` for every N of `lengths`, of each document.

    Prefixes of 1, 1 + stride, ... to T - N tokens; a document with no such prefix has no `el_N`.
    """

    def run(numbers: list[int], keep: KeepResult) -> None:
        for number in numbers:
            ids = documents[number]
            last = len(ids) - min(lengths, default=len(ids))
            prefixes = range(1, last + 1, stride)
            predicted, continued = continue_prefixes(model, ids, prefixes, batch_size)
            figures = average_likelihoods(metrics.extraction_likelihood, ids, continued, lengths)
            keep(number, {"ma": metrics.memorization_accuracy(predicted, ids[1:]), **figures})

    return shard_work(f"extraction-{name}", [len(ids) for ids in documents], run, journal)


def extract_sampled(
    model: Any,
    name: str,
    documents: list[list[int]],
    lengths: list[int],
    how: Decoding,
    batch_size: int,
    journal: Journal = NO_JOURNAL,
) -> list[ExtractionFigures]:
    """The same by the authors' way: prefixes of 40, 80, 120 and 160 tokens, unique n-grams.

    `el_N` is of the sampled continuations, without the end token; `ma` of the first token after
    each prefix that is predicted greedily.
    """
    # A job per prefix and not per document, so that those of all documents share batches.
    jobs = [(d, p) for d, ids in enumerate(documents) for p in AUTHORS_PREFIXES if p < len(ids)]

    def run(numbers: list[int], keep: KeepResult) -> None:
        prompts = {n: documents[jobs[n][0]][: jobs[n][1]] for n in numbers}
        if prompts:
            decode_prompts(model, prompts, batch_size, how, keep)

    def run_greedy(numbers: list[int], keep: KeepResult) -> None:
        for n in numbers:
            keep(n, continue_prefixes(model, documents[n], (), batch_size)[0])

    texts = shard_work(f"extraction-{name}", [p for _, p in jobs], run, journal)
    sizes = [len(ids) for ids in documents]
    predictions = shard_work(f"predictions-{name}", sizes, run_greedy, journal)
    continued: list[dict[int, list[int]]] = [{} for _ in documents]
    for (d, p), ids in zip(jobs, texts, strict=True):
        continued[d][p] = how.without_end(ids)
    likelihood = metrics.unique_extraction_likelihood
    return [
        {
            "ma": mean_or_none([float(predicted[p - 1] == ids[p]) for p in after]),
            **average_likelihoods(likelihood, ids, after, lengths),
        }
        for ids, predicted, after in zip(documents, predictions, continued, strict=True)
    ]


def average_likelihoods(
    likelihood: Callable[[list[int], list[int], int], float],
    ids: list[int],
    continued: dict[int, list[int]],
    lengths: list[int],
) -> ExtractionFigures:
    """`el_N` of a document: the mean over its prefixes that at least N tokens follow.

    Args:
        continued: what the model says after each prefix, by the prefix's length.
    """
    return {
        f"el_{n}": mean_or_none(
            [likelihood(text, ids[p:], n) for p, text in continued.items() if len(ids) - p >= n]
        )
        for n in lengths
    }


def mean_or_none(values: list[float]) -> float | None:
    """The mean, None of nothing."""
    return float(np.mean(values)) if values else None
