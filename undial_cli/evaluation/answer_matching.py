"""Whether a generation is the reference answer: to the letter, or by its words.

Knows no model.
"""

from __future__ import annotations

import re
import string
from collections import Counter

ARTICLE = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(prediction: str, reference: str) -> float:
    """1 where a generation is its reference, case and blanks around it aside; else 0.

    SemEval-2025 task 4 (LUME, arXiv 2502.15097).
    """
    return float(prediction.strip().lower() == reference.strip().lower())


def split_answer_words(text: str) -> list[str]:
    """The words of an answer, without case, ASCII punctuation and articles.

    SQuAD's evaluation script (arXiv 1606.05250).
    """
    return ARTICLE.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split()


def exact_word_match(prediction: str, reference: str) -> float:
    """1 where a generation has the words of its reference and no other; else 0.

    An empty generation matches nothing, though "(A)", an article, has no word either.
    """
    same = split_answer_words(prediction) == split_answer_words(reference)
    return float(same and bool(prediction.strip()))


def word_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words that both have, repeated ones too.

    SQuAD's; where one has no word, 1 if neither has.
    """
    ours, theirs = split_answer_words(prediction), split_answer_words(reference)
    if not ours or not theirs:
        return float(ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs))
