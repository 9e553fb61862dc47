"""Character spans to focus on: clipped, joined, moved into a rendering, and the tokens they touch.

Knows no tokenizer and no rows.
"""

from __future__ import annotations

from bisect import bisect_right

from undial_cli.data.template import Rendering, Span
from undial_cli.errors import RowError

# Between documents that are joined, and between the answers of a conversation.
BLANK_LINE = "\n\n"


def clip_spans(spans: list[Span], text: str) -> list[Span]:
    """Spans cut to what lies in the text."""
    cut = [(max(start, 0), min(end, len(text))) for start, end in spans]
    return [(start, end) for start, end in cut if start < end]


def join_spans(texts: list[str], spans: list[list[Span]]) -> list[Span]:
    """The spans of texts in these texts joined by a blank line."""
    found, shift = [], 0
    for text, own in zip(texts, spans, strict=True):
        found += [(start + shift, end + shift) for start, end in own]
        shift += len(text) + len(BLANK_LINE)
    return found


def merge_spans(spans: list[Span]) -> list[Span]:
    """The same characters as spans that are sorted and do not overlap."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def find_span_tokens(text: str, offsets: list[tuple[int, int]], spans: list[Span]) -> list[int]:
    """The tokens that share a character with a span; white space at a token's edges is none."""
    if not spans:
        return []
    spans = merge_spans(spans)
    starts, found = [start for start, _ in spans], []
    for i, (a, b) in enumerate(offsets):
        own = text[a:b]
        a, b = a + len(own) - len(own.lstrip()), b - len(own) + len(own.rstrip())
        last = bisect_right(starts, b - 1) - 1
        if a < b and last >= 0 and spans[last][1] > a:
            found.append(i)
    return found


def move_spans_to_rendering(
    rendering: Rendering, sources: list[str], spans: list[Span]
) -> list[Span]:
    """Spans of a row's answers as spans of its rendering.

    Args:
        sources: the answers as the row has them; the spans count in these, joined by a blank line.

    Raises:
        RowError: the template wrote an answer with other white space, so that nothing fits.
    """
    begin, moved = 0, []
    for answer, source in zip(rendering.answers, sources, strict=True):
        if spans and answer.shift is None:
            raise RowError("method.focus: the chat template writes the answer with other blanks")
        # From the joined sources to this one, and from there to the rendering.
        shift = answer.start - begin - (answer.shift or 0)
        first, last = answer.start, min(answer.end, begin + len(source) + shift)
        within = [(max(a + shift, first), min(b + shift, last)) for a, b in spans]
        moved += [(a, b) for a, b in within if a < b]
        begin += len(source) + len(BLANK_LINE)
    return moved
