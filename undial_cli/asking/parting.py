"""Where answers part: which words of each the others do not have. Knows no model and no screen."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

# A piece of an answer, and whether it is said there alone.
Piece = tuple[str, bool]
SPACED_WORDS = re.compile(r"\s*\S+|\s+$")


def mark_partings(texts: Sequence[str]) -> list[list[Piece]]:
    """Each text in pieces, those that differ marked.

    Of every text but the first, what the first does not say in that place; of the first, what none
    of the others says. A text by itself has no mark.
    """
    words = [SPACED_WORDS.findall(text) for text in texts]
    if len(texts) < 2:
        return [[(text, False)] if text else [] for text in texts]
    first, shared_by_any = words[0], set[int]()
    marked: list[list[bool]] = [[]]
    for other in words[1:]:
        pairs = match_words(first, other)
        shared_by_any |= pairs.keys()
        theirs = set(pairs.values())
        marked.append([number not in theirs for number in range(len(other))])
    marked[0] = [number not in shared_by_any for number in range(len(first))]
    return [join_pieces(part, marks) for part, marks in zip(words, marked, strict=True)]


def match_words(first: Sequence[str], other: Sequence[str]) -> dict[int, int]:
    """The words that two texts share in one order: the number in the other by that in the first."""
    bare = [[word.strip() for word in part] for part in (first, other)]
    blocks = difflib.SequenceMatcher(None, *bare, autojunk=False).get_matching_blocks()
    return {block.a + i: block.b + i for block in blocks for i in range(block.size)}


def join_pieces(words: Sequence[str], marks: Sequence[bool]) -> list[Piece]:
    """Words that follow one another and are marked alike, as one piece.

    The blank before words that are marked is no part of them.
    """
    pieces: list[Piece] = []
    for word, mark in zip(words, marks, strict=True):
        is_new = not pieces or pieces[-1][1] != mark
        bare = word.lstrip() if is_new and mark else word
        blank = word[: len(word) - len(bare)]
        if blank:
            pieces[-1:] = [(pieces[-1][0] + blank, False)] if pieces else [(blank, False)]
        if is_new:
            pieces.append((bare, mark))
        else:
            pieces[-1] = (pieces[-1][0] + bare, mark)
    return [piece for piece in pieces if piece[0]]
