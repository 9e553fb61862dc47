"""Rows that say nearly the same: the join finds the pairs that comparing all of them does."""

from __future__ import annotations

import itertools
import random

import numpy as np

from undial_cli.config.datasets import DataConfig
from undial_cli.data.near_copies import LEAST_ALIKE, find_near_pairs
from undial_cli.data.rows import Row
from undial_cli.data.word_texts import (
    RUN_WORDS,
    Vocabulary,
    WordTexts,
    read_row_texts,
    read_word_texts,
    split_compared_words,
)

WORDS = [f"word{i}" for i in range(40)]


def read_texts(rows: list[Row], compared: int = 256) -> WordTexts:
    return read_word_texts(rows, DataConfig(), Vocabulary(), compared)


def measure_share(row: Row, other: Row) -> float:
    """Jaccard of the runs of three words, written out."""
    sets = []
    for part in (row, other):
        words = split_compared_words(" ".join(read_row_texts(part, DataConfig())))
        sets.append({tuple(words[i : i + RUN_WORDS]) for i in range(len(words) - RUN_WORDS + 1)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_the_pairs_are_those_that_comparing_all_rows_finds() -> None:
    draws, rows = random.Random(3), list[Row]()
    for _ in range(60):
        words = draws.choices(WORDS, k=draws.randrange(6, 50))
        rows.append({"question": " ".join(words[:4]), "answer": " ".join(words[4:])})
        for _ in range(draws.randrange(3)):  # the same with a few words changed
            changed = list(words)
            for _ in range(draws.randrange(4)):
                changed[draws.randrange(len(changed))] = draws.choice(WORDS)
            rows.append({"question": " ".join(changed[:4]), "answer": " ".join(changed[4:])})
    expected = {
        (i, j): share
        for (i, row), (j, other) in itertools.combinations(enumerate(rows), 2)
        if (share := measure_share(row, other)) >= LEAST_ALIKE
    }
    pairs, shares = find_near_pairs(read_texts(rows), np.ones(len(rows), bool))
    found = {(i, j): share for (i, j), share in zip(pairs.tolist(), shares.tolist(), strict=True)}
    assert len(expected) > 20
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[pair] for pair in expected], list(expected.values()))


def test_case_signs_and_white_space_make_no_difference_and_rows_left_out_are_not_compared() -> None:
    rows = [
        {"question": "Who is Ann Ray?", "answer": "Ann Ray bakes bread in Oslo."},
        {"question": "WHO IS ANN RAY", "answer": "ann ray, bakes\nbread in Oslo!"},
        {"question": "Who is Bo?", "answer": "Bo."},
    ]
    pairs, shares = find_near_pairs(read_texts(rows), np.ones(3, bool))
    assert (pairs.tolist(), shares.tolist()) == ([[0, 1]], [1.0])
    assert len(find_near_pairs(read_texts(rows), np.array([True, False, True]))[0]) == 0
    assert len(find_near_pairs(read_texts([]), np.ones(0, bool))[0]) == 0


def test_of_long_rows_the_first_words_are_compared() -> None:
    rows = [{"text": f"{' '.join(WORDS[:20])} {' '.join([end] * 90)}"} for end in "ab"]
    assert len(find_near_pairs(read_texts(rows), np.ones(2, bool))[0]) == 0
    pairs, _ = find_near_pairs(read_texts(rows, compared=20), np.ones(2, bool))
    assert pairs.tolist() == [[0, 1]]
