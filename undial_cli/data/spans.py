"""Character spans to focus on: clipped, joined, and the tokens that they touch.

Knows no tokenizer and no rows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

# (start, end) in characters.
Span = tuple[int, int]
# Between documents that are joined, and between the answers of a conversation.
BLANK_LINE = "\n\n"


def clip_spans(spans: list[Span], text: str) -> list[Span]:
    """Spans cut to what lies in the text."""
    cut = [(max(start, 0), min(end, len(text))) for start, end in spans]
    return [(start, end) for start, end in cut if start < end]


def join_spans(texts: list[str], spans: list[list[Span]]) -> list[Span]:
    """The spans of texts in these texts joined by a blank line."""
    shifted, shift = [], 0
    for text, text_spans in zip(texts, spans, strict=True):
        shifted += [(start + shift, end + shift) for start, end in text_spans]
        shift += len(text) + len(BLANK_LINE)
    return shifted


def merge_spans(spans: Sequence[Span]) -> list[Span]:
    """The same characters as spans that are sorted and do not overlap."""
    disjoint: list[Span] = []
    for start, end in sorted(spans):
        if disjoint and start <= disjoint[-1][1]:
            disjoint[-1] = (disjoint[-1][0], max(disjoint[-1][1], end))
        else:
            disjoint.append((start, end))
    return disjoint


def find_span_tokens(text: str, offsets: list[Span], spans: Sequence[Span]) -> list[int]:
    """The tokens that share a character with a span; white space at a token's edges is none."""
    if not spans:
        return []
    spans = merge_spans(spans)
    starts, touching = [start for start, _ in spans], []
    for i, (start, end) in enumerate(offsets):
        token = text[start:end]
        start, end = end - len(token.lstrip()), start + len(token.rstrip())
        # The last span that begins within the token or before it: of disjoint ones in order no
        # other can reach further.
        last = bisect_right(starts, end - 1) - 1
        if start < end and last >= 0 and spans[last][1] > start:
            touching.append(i)
    return touching
