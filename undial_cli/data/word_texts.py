"""Rows as numbers of their words, to compare many: case, signs and white space aside.

N rows, T words of all rows, S runs of words. Knows no tokenizer and no set by name.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from undial_cli.config.datasets import DataConfig
from undial_cli.data.focus import UNSPACED_RANGES
from undial_cli.data.rows import Row, find_row_kind, normalise_content

# Words of a run: long enough that two texts have few in common by chance.
RUN_WORDS = 3
# Words of a question, and of an answer, that are compared: of a million rows or more the first 40.
MOST_COMPARED, LEAST_COMPARED, COMPARED_OF_ALL = 256, 40, 6_000_000
# Of scripts without blanks each letter is a word.
UNSPACED = "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSPACED_RANGES)
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
FILLER = ""


class Vocabulary(defaultdict[str, int]):
    """The numbers of words: a new word gets the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.default_factory = self.__len__


@dataclass
class WordTexts:
    """Rows as words: `words_T`; row n has those from `starts_N[n]` to `ends_N[n]`.

    Its answer, or its whole text, begins at `answers_N[n]`.
    """

    words_T: NDArray[np.int32]
    starts_N: NDArray[np.int64]
    answers_N: NDArray[np.int64]
    ends_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts_N)

    def take_rows(self, part: slice) -> WordTexts:
        """Some of the rows; words keep their places."""
        return WordTexts(self.words_T, self.starts_N[part], self.answers_N[part], self.ends_N[part])


def choose_compared_words(rows: int) -> int:
    """How many words of a question, and of an answer, are compared where there are so many rows."""
    return int(np.clip(COMPARED_OF_ALL // max(1, rows), LEAST_COMPARED, MOST_COMPARED))


def split_compared_words(text: str) -> list[str]:
    """The words of a text as they are compared."""
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def read_row_texts(row: Row, config: DataConfig) -> tuple[str, str]:
    """What a row asks and what it answers; of a document nothing, and its text."""
    content: Sequence[Any] = normalise_content(row, config)
    if find_row_kind(row, config) == "ids":
        return "", " ".join(map(str, content))
    return " ".join(content[:-1]), content[-1]


def read_word_texts(
    rows: Iterable[Row], config: DataConfig, vocabulary: Vocabulary, compared: int
) -> WordTexts:
    """Rows as words.

    Args:
        vocabulary: of all that is compared; it learns new words.
        compared: words of a question, and of an answer, beyond which nothing is read.
    """
    parts = [np.empty(0, np.int32)]
    bounds, waiting, count = list[tuple[int, int, int]](), list[int](), 0
    for row in rows:
        prompt, answer = (
            [vocabulary[word] for word in split_compared_words(text[: 20 * compared])[:compared]]
            for text in read_row_texts(row, config)
        )
        short = RUN_WORDS + 1 - len(prompt) - len(answer)  # every row has two runs
        if short > 0:
            answer += [vocabulary[FILLER]] * short
        start = count + len(waiting)
        waiting += prompt
        waiting += answer
        bounds.append((start, start + len(prompt), count + len(waiting)))
        if len(waiting) > 2**18:
            parts.append(np.array(waiting, np.int32))
            count, waiting = count + len(waiting), []
    parts.append(np.array(waiting, np.int32))
    starts, answers, ends = np.array(bounds, np.int64).reshape(-1, 3).T
    return WordTexts(np.concatenate(parts), starts, answers, ends)


def hash_runs(
    words_T: NDArray[np.int32], starts_N: NDArray[np.int64], ends_N: NDArray[np.int64]
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """A hash of every run of words of each row, and the row of each.

    Args:
        starts_N, ends_N: the words of each row, or of its answer; fewer than a run give none.
    """
    counts_N = np.maximum(ends_N - starts_N - (RUN_WORDS - 1), 0)
    rows_S = np.repeat(np.arange(len(starts_N)), counts_N)
    firsts_N = np.cumsum(counts_N) - counts_N
    positions_S = np.arange(len(rows_S)) - firsts_N[rows_S] + starts_N[rows_S]
    hashes_S = np.zeros(len(rows_S), np.uint64)
    for shift in range(RUN_WORDS):
        hashes_S += words_T[positions_S + shift].astype(np.uint64) + np.uint64(1)
        hashes_S *= np.uint64(0x9E3779B97F4A7C15)  # splitmix64's steps
        hashes_S ^= hashes_S >> np.uint64(29)
    return (hashes_S >> np.uint64(16)).astype(np.uint32), rows_S
