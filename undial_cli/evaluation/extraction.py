"""Extraction engine: how much of a document a model continues word for word.

`all` prefixes (Jang et al., 2023): greedy, from every prefix. `authors` (the UnDIAL paper's code):
sampled, from four prefixes; its `ma` is greedy all the same. Shared over processes; knows token
ids and a model.
"""

from __future__ import annotations

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
        for n in numbers:
            keep(n, extract_document(model, documents[n], lengths, stride, batch_size))

    sizes = [len(d) for d in documents]
    return shard_work(f"extraction-{name}", sizes, run, journal)


def extract_document(
    model: Any, ids: list[int], lengths: list[int], stride: int, batch_size: int
) -> ExtractionFigures:
    """`greedy` of one document."""
    last = len(ids) - min(lengths, default=len(ids))
    prefixes = list(range(1, last + 1, stride))
    predicted, continued = continue_prefixes(model, ids, prefixes, batch_size)
    found: ExtractionFigures = {"ma": metrics.memorization_accuracy(predicted, ids[1:])}
    for n in lengths:
        fitting = [p for p in prefixes if p <= len(ids) - n]
        found[f"el_{n}"] = mean_or_none(
            [metrics.extraction_likelihood(continued[p], ids[p:], n) for p in fitting]
        )
    return found


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
    places = [(d, p) for d, ids in enumerate(documents) for p in AUTHORS_PREFIXES if p < len(ids)]

    def run(numbers: list[int], keep: KeepResult) -> None:
        prompts = {n: documents[places[n][0]][: places[n][1]] for n in numbers}
        if prompts:
            decode_prompts(model, prompts, batch_size, how, keep)

    def run_greedy(numbers: list[int], keep: KeepResult) -> None:
        for n in numbers:
            keep(n, continue_prefixes(model, documents[n], (), batch_size)[0])

    texts = shard_work(f"extraction-{name}", [p for _, p in places], run, journal)
    texts = [ids[:-1] if ids and ids[-1] in how.ends else ids for ids in texts]
    sizes = [len(d) for d in documents]
    predictions = shard_work(f"predictions-{name}", sizes, run_greedy, journal)
    continued: list[dict[int, list[int]]] = [{} for _ in documents]
    for (d, p), text in zip(places, texts, strict=True):
        continued[d][p] = text
    figures: list[ExtractionFigures] = []
    for ids, predicted, after in zip(documents, predictions, continued, strict=True):
        scores: ExtractionFigures = {
            "ma": mean_or_none([float(predicted[p - 1] == ids[p]) for p in after])
        }
        for n in lengths:
            scores[f"el_{n}"] = mean_or_none(
                [
                    metrics.unique_extraction_likelihood(text, ids[p:], n)
                    for p, text in after.items()
                    if len(ids) - p >= n
                ]
            )
        figures.append(scores)
    return figures


def mean_or_none(values: list[float]) -> float | None:
    """The mean, None of nothing."""
    return float(np.mean(values)) if values else None
