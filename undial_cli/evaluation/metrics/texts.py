"""Texts compared with texts, and how a text repeats itself."""

from __future__ import annotations

import functools
import itertools
import types
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from undial_cli.evaluation import words

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


@functools.lru_cache(maxsize=4)
def make_rouge_scorer(stemmed: bool, reading: str) -> RougeScorer:
    """The ROUGE-L scorer of the reference package, with the words of `words.choose_reading`."""
    from rouge_score.rouge_scorer import RougeScorer

    ours: Any = types.SimpleNamespace(tokenize=words.split_unicode_words)
    tokenizer = None if reading == words.FIELD_WORDS else ours
    return RougeScorer(["rougeL"], use_stemmer=stemmed, tokenizer=tokenizer)


def rouge_l(prediction: str, reference: str, stemmed: bool) -> Any:
    """ROUGE-L with `recall` and `fmeasure`; nan where the reference has no word.

    The words are rouge_score's own (a-z, 0-9), which give the field's figures; where a reference
    holds none of these, Unicode words, not stemmed.
    """
    reading = words.choose_reading(reference)
    if reading == words.NO_WORDS:
        from rouge_score.scoring import Score

        return Score(*[float("nan")] * 3)
    return make_rouge_scorer(stemmed, reading).score(reference, prediction)["rougeL"]


def rouge_l_recall(prediction: str, reference: str) -> float:
    """ROUGE-L recall, stemmed, of a generation against its reference answer; see `rouge_l`."""
    return float(rouge_l(prediction, reference, stemmed=True).recall)


def rouge_l_f1(prediction: str, reference: str, stemmed: bool = False) -> float:
    """ROUGE-L F1 of a generation against its reference in [0, 1]; MUSE does not stem."""
    return float(rouge_l(prediction, reference, stemmed).fmeasure)


def rouge_l_union_recall(prediction: str, reference: str) -> float:
    """The share of a reference's different words that are in common subsequences with a text.

    Sentences end at full stops; of each pair of them one longest common subsequence counts. As
    rouge-l of the package `rouge`, with which RWKU (arXiv 2406.10890) is scored: case counts, signs
    stick to words, nothing is stemmed. ValueError if the reference has no sentence.
    """
    ours, theirs = (
        [" ".join(part.split()).split(" ") for part in text.split(".") if part]
        for text in (prediction, reference)
    )
    if not theirs:
        raise ValueError("the reference has no sentence")
    words_known = {word for r in theirs for o in ours for word in find_common_words(r, o)}
    return len(words_known) / len({word for sentence in theirs for word in sentence})


def find_common_words(one: Sequence[str], other: Sequence[str]) -> set[str]:
    """The words of a longest common subsequence; of several, of the one that `rouge` takes."""
    i, j = len(one), len(other)
    lengths = np.zeros((i + 1, j + 1), dtype=np.int64)
    for a, b in itertools.product(range(1, i + 1), range(1, j + 1)):
        lengths[a, b] = max(lengths[a - 1, b], lengths[a, b - 1])
        if one[a - 1] == other[b - 1]:
            lengths[a, b] = lengths[a - 1, b - 1] + 1
    common = set[str]()
    while i and j:
        if one[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            common.add(one[i])
        elif lengths[i - 1, j] > lengths[i, j - 1]:
            i -= 1
        else:
            j -= 1
    return common


def list_ngrams(tokens: Sequence[Hashable] | NDArray[Any], n: int) -> list[tuple[Hashable, ...]]:
    """The n-grams of a sequence in order, with repeats; none when it is shorter than n."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def ngram_entropy(tokens: Sequence[Hashable] | NDArray[Any], n: int) -> float:
    """Entropy, in bits, of a text's n-grams by their frequencies; 0 for a text without any.

    RWKU (arXiv 2406.10890), whose fluency is (entropy_2 + 2 entropy_3) / 3.
    """
    counts = np.array(list(Counter(list_ngrams(tokens, n)).values()), dtype=np.float64)
    shares = counts / counts.sum()
    return float((shares * np.log2(1 / shares)).sum())


def repetition(tokens: Sequence[Hashable] | NDArray[Any], n: int) -> float:
    """rep_n: `1 - unique n-grams / n-grams` of one text's tokens or words; 0 if shorter than n."""
    grams = list_ngrams(tokens, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(text: str, n: int) -> float:
    """distinct_n: unique word n-grams / words (see `words.split_words`); 0 for no words."""
    parts = words.split_words(text)
    return len(set(list_ngrams(parts, n))) / len(parts) if parts else 0.0
