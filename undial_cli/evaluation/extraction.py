"""Extraction engine: how much of a document a model continues word for word.

`all` prefixes (Jang et al., 2023): greedy, from every prefix. `authors` (the UnDIAL paper's code):
sampled, from four prefixes. Shared over processes; knows token ids and a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from undial_cli.evaluation import metrics
from undial_cli.evaluation.decoding import Decoding, branch, decode
from undial_cli.evaluation.work import Journal, Keep, share

AUTHORS_PREFIXES = (40, 80, 120, 160)
AUTHORS_TOKENS = 200

Figures = dict[str, float | None]


def greedy(
    model: Any,
    name: str,
    documents: list[list[int]],
    lengths: list[int],
    stride: int,
    batch_size: int,
    journal: Journal | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Figures]:
    """`ma`, and `el_N` for every N of `lengths`, of each document.

    Prefixes of 1, 1 + stride, ... to T - N tokens; a document with no such prefix has no `el_N`.
    """

    def run(numbers: list[int], keep: Keep) -> None:
        for n in numbers:
            keep(n, of_document(model, documents[n], lengths, stride, batch_size))

    sizes = [len(d) for d in documents]
    return share(f"extraction-{name}", sizes, run, journal or Journal(), advance)


def of_document(
    model: Any, ids: list[int], lengths: list[int], stride: int, batch_size: int
) -> Figures:
    """`greedy` of one document."""
    last = len(ids) - min(lengths, default=len(ids))
    prefixes = list(range(1, last + 1, stride))
    predicted, continued = branch(model, ids, prefixes, batch_size)
    found: Figures = {"ma": metrics.memorization_accuracy(predicted, ids[1:])}
    for n in lengths:
        values = [
            metrics.extraction_likelihood(continued[p], ids[p:], n)
            for p in prefixes
            if p <= len(ids) - n
        ]
        found[f"el_{n}"] = float(np.mean(values)) if values else None
    return found


def sampled(
    model: Any,
    name: str,
    documents: list[list[int]],
    lengths: list[int],
    how: Decoding,
    batch_size: int,
    journal: Journal | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Figures]:
    """The same by the authors' way: prefixes of 40, 80, 120 and 160 tokens, unique n-grams."""
    places = [(d, p) for d, ids in enumerate(documents) for p in AUTHORS_PREFIXES if p < len(ids)]

    def run(numbers: list[int], keep: Keep) -> None:
        prompts = {n: documents[places[n][0]][: places[n][1]] for n in numbers}
        if prompts:
            decode(model, prompts, batch_size, how, keep)

    sizes = [p for _, p in places]
    texts = share(f"extraction-{name}", sizes, run, journal or Journal(), advance)
    found: list[Figures] = []
    for number, ids in enumerate(documents):
        mine = [(p, text) for (d, p), text in zip(places, texts, strict=True) if d == number]
        figures: Figures = {
            "ma": mean([float(text[:1] == ids[p : p + 1]) for p, text in mine]),
        }
        for n in lengths:
            figures[f"el_{n}"] = mean(
                [
                    metrics.unique_extraction_likelihood(text, ids[p:], n)
                    for p, text in mine
                    if len(ids) - p >= n
                ]
            )
        found.append(figures)
    return found


def mean(values: list[float]) -> float | None:
    """The mean, None of nothing."""
    return float(np.mean(values)) if values else None
