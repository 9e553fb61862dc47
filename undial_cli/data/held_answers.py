"""Rows of the retain set that hold the answer of a row to be forgotten: training on them teaches it
again.

Held is an answer whole (nine in ten of its runs of words), or by its facts: every name and number
of the answer that the question does not give, beside two names of the question, or its only one.
What many rows of the retain set hold is common there: a common answer is no leak, a common name
names nobody. N forget rows, S runs, P pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from undial_cli.data.near_copies import (
    HASH_BITS,
    LOW_BITS,
    PAIRS_AT_ONCE,
    SortedRuns,
    count_common_runs,
    keep_shared,
    sort_runs,
    split_pairs,
    unique_in_place,
)
from undial_cli.data.word_texts import WordTexts, hash_runs

# Of an answer's runs of three words, those that a row must have to hold it whole.
LEAST_HELD = 0.9
# Words of an answer that is looked for as a whole; a shorter one stands in many texts.
LEAST_ANSWER_WORDS = 5
# Names of the question that must stand beside the facts, where it has as many.
LEAST_NAMES = 2
# Common in the retain set: in more of its rows than both.
COMMON_ROWS, COMMON_SHARE = 5, 0.01
# Answers that are looked for at once.
ANSWERS_AT_ONCE = 4096


@dataclass(frozen=True)
class HeldAnswer:
    """A forget row and a retain row, from 1, that holds its answer: whole, or by these words."""

    row: int
    other: int
    words: tuple[str, ...] = ()


def limit_common(rows: int) -> float:
    """In how many of the retain set's rows something may stand that is not common there."""
    return max(COMMON_ROWS, COMMON_SHARE * rows)


def find_whole_answers(forget: WordTexts, retain: WordTexts) -> list[HeldAnswer]:
    """The answers, or documents, of forget rows that retain rows hold whole."""
    runs = hash_runs(retain.words_T, retain.starts_N, retain.ends_N)
    index = sort_runs(*runs, len(retain), runs[0])
    keys_S = index.hashes_S << np.uint64(HASH_BITS) | index.rows_S.astype(np.uint64)
    keys_S.sort()
    held: list[HeldAnswer] = []
    for start in range(0, len(forget), ANSWERS_AT_ONCE):
        part = slice(start, start + ANSWERS_AT_ONCE)
        hashes_S, rows_S = hash_runs(forget.words_T, forget.answers_N[part], forget.ends_N[part])
        answers = sort_runs(hashes_S, rows_S, len(forget.ends_N[part]), runs[0])
        pairs_P = list_holding_pairs(answers, index, keys_S)
        held += [HeldAnswer(start + row + 1, other + 1) for row, other in pairs_P.tolist()]
    return held


def list_holding_pairs(
    answers: SortedRuns, index: SortedRuns, keys_S: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """(answer, retain row) of those that are held whole.

    Args:
        keys_S: the runs of the retain rows, each with its row, in order.
    """
    needed_N = np.ceil(LEAST_HELD * answers.sizes_N - 1e-9).astype(np.int64)
    rare_S = answers.take_rarest(needed_N)
    hashes_S, rows_S = answers.hashes_S[rare_S], answers.rows_S[rare_S]
    first_S = np.searchsorted(keys_S, hashes_S << np.uint64(HASH_BITS))
    last_S = np.searchsorted(keys_S, hashes_S << np.uint64(HASH_BITS) | LOW_BITS, "right")
    most = int(limit_common(len(index.sizes_N)))
    counts_S = np.where(last_S - first_S <= 8 * most, last_S - first_S, 0)
    entry_P = np.repeat(np.arange(len(hashes_S)), counts_S)
    position_P = np.arange(len(entry_P)) - (np.cumsum(counts_S) - counts_S)[entry_P]
    others_P = keys_S[first_S[entry_P] + position_P] & LOW_BITS
    pairs_P = split_pairs(
        keep_shared(rows_S[entry_P].astype(np.uint64) << np.uint64(HASH_BITS) | others_P)
    )
    is_long_N = answers.sizes_N >= LEAST_ANSWER_WORDS - 2
    pairs_P = pairs_P[is_long_N[pairs_P[:, 0]]]
    holding = [np.empty((0, 2), np.int64)]
    for start in range(0, len(pairs_P), PAIRS_AT_ONCE):
        some_P = pairs_P[start : start + PAIRS_AT_ONCE]
        common_P = count_common_runs(answers, index, some_P)
        holding.append(some_P[common_P >= needed_N[some_P[:, 0]]])
    pairs_P = np.concatenate(holding)
    often_N = np.bincount(pairs_P[:, 0], minlength=len(needed_N))
    return pairs_P[often_N[pairs_P[:, 0]] <= most]


@dataclass
class RowFacts:
    """Names and numbers of a forget row, as numbers of words.

    `fresh`: those of the answer that the question does not give; `given`: those of the question.
    """

    fresh: tuple[int, ...]
    given: tuple[int, ...]


class WordPlaces:
    """In which rows each word stands."""

    def __init__(self, texts: WordTexts) -> None:
        rows_T = np.repeat(np.arange(len(texts)), texts.ends_N - texts.starts_N)
        words_T = texts.words_T[texts.starts_N[0] : texts.ends_N[-1]].astype(np.uint64)
        self.keys = unique_in_place(words_T << np.uint64(HASH_BITS) | rows_T.astype(np.uint64))

    def list_rows(self, word: int) -> NDArray[np.uint64]:
        """The rows that have a word, from 0."""
        bounds = np.array([word, word + 1], np.uint64) << np.uint64(HASH_BITS)
        first, last = np.searchsorted(self.keys, bounds)
        return self.keys[first:last] & LOW_BITS


def find_held_facts(
    facts: Sequence[RowFacts], retain: WordTexts, names: Sequence[str]
) -> list[HeldAnswer]:
    """The retain rows in which the facts of an answer stand beside names of its question.

    Args:
        facts: of each forget row.
        names: the words by their numbers.
    """
    places, held = WordPlaces(retain), list[HeldAnswer]()
    most = limit_common(len(retain))
    for number, row in enumerate(facts, 1):
        of_answer = sorted((places.list_rows(word) for word in row.fresh), key=len)
        of_question = [(word, places.list_rows(word)) for word in row.given]
        of_question = [(word, part) for word, part in of_question if len(part) <= most]
        if not of_answer or not of_question:
            continue
        together = of_answer[0]
        for part in of_answer[1:]:
            together = np.intersect1d(together, part, assume_unique=True)
        asked = {word: np.intersect1d(together, part) for word, part in of_question}
        together = np.unique(np.concatenate(list(asked.values())))
        if len(together) > most or not len(together):
            continue
        for other in together.tolist():
            words = [word for word, part in asked.items() if other in part]
            if len(words) >= min(LEAST_NAMES, len(of_question)):
                listed = tuple(names[word] for word in (*words, *row.fresh))
                held.append(HeldAnswer(number, other + 1, listed))
    return held
