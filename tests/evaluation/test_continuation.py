"""Continuations of a document from its prefixes against plain argmax loops."""

from __future__ import annotations

import functools
import random

import pytest
import torch
from decoding_models import MODELS, PLAIN, VOCAB, Rows, model_of, plain_greedy

from undial_cli.evaluation.continuation import continue_prefixes


@torch.no_grad()
def document(name: str) -> list[int]:
    """Random, then what the model says itself, then random again."""
    draw = random.Random(2)
    start = [draw.randrange(VOCAB) for _ in range(7)]
    middle = plain_greedy(model_of(name), start, 8)
    return start + middle + [draw.randrange(VOCAB) for _ in range(6)]


@functools.cache
def naive(name: str) -> dict[int, list[int]]:
    ids = document(name)
    return {p: plain_greedy(model_of(name), ids[:p], len(ids) - p) for p in range(1, len(ids))}


@pytest.mark.parametrize(
    ("name", "batch_size"),
    [
        pytest.param(name, size, marks=pytest.mark.slow if size == 1 or name == "mamba" else ())
        for name in MODELS
        for size in ([1, 5, 64] if name in PLAIN else [5])
    ],
)
def test_branches_are_a_plain_argmax_loop_from_every_prefix(name: str, batch_size: int) -> None:
    ids = document(name)
    predictions, found = continue_prefixes(model_of(name), ids, range(1, len(ids)), batch_size)
    assert found == naive(name)
    assert predictions == [continuation[0] for continuation in found.values()]
    assert 6 < sum(a == b for a, b in zip(predictions, ids[1:], strict=True)) < 16


@pytest.mark.parametrize("name", PLAIN)
def test_branches_in_single_precision_and_from_some_prefixes(name: str) -> None:
    some = [len(document(name)) - 1, 1, 4, 8, 9, 15]
    _, found = continue_prefixes(model_of(name).float(), document(name), some, 3)
    model_of(name).double()
    assert found == {p: naive(name)[p] for p in some}


def test_a_memorised_document_costs_one_pass() -> None:
    model, start = model_of("llama"), [9, 8, 7]
    ids = start + plain_greedy(model, start, 30)
    with Rows(model) as seen:
        predictions, found = continue_prefixes(model, ids, range(3, len(ids)), 4)
    assert seen.shapes == [(1, len(ids))]
    assert predictions[2:] == ids[3:]
    assert found == {p: ids[p:] for p in range(3, len(ids))}


def test_a_document_without_a_match_is_decoded_from_every_prefix() -> None:
    model, ids = model_of("llama"), [9]
    for _ in range(20):
        ids.append((plain_greedy(model, ids, 1)[0] + 1) % VOCAB)
    with Rows(model) as seen:
        predictions, found = continue_prefixes(model, ids, range(1, len(ids)), 64)
    assert found == {p: plain_greedy(model, ids[:p], len(ids) - p) for p in range(1, len(ids))}
    assert all(a != b for a, b in zip(predictions, ids[1:], strict=True))
    # The first token of each comes from the pass over the document.
    assert sum(rows for rows, columns in seen.shapes[1:]) == sum(len(c) - 1 for c in found.values())


def test_a_document_of_one_token_has_no_prefix() -> None:
    assert continue_prefixes(model_of("llama"), [5], [], 4) == ([], {})
