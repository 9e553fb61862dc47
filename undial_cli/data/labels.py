"""Which tokens of a rendering are targets: those of its answers, and the end token after each.

Knows no rows.
"""

from __future__ import annotations

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.data.template import AnswerSpan, Rendering
from undial_cli.data.tokens import Tokens


def list_end_tokens(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The special tokens that can end an answer: all but the begin and the unknown token."""
    added = tokenizer.added_tokens_decoder.items()
    marks = {i for i, token in added if token.special} | set(tokenizer.all_special_ids)
    bos, unk = tokenizer.bos_token_id, tokenizer.unk_token_id
    return frozenset(i for i in marks if i == tokenizer.eos_token_id or i not in (bos, unk))


def find_answer_positions(
    tokens: Tokens, answer: AnswerSpan, end_tokens: frozenset[int]
) -> tuple[int, int]:
    """First and last + 1 of the tokens that hold a character of an answer.

    A token that straddles a border counts; not so a special one, which only took blanks along.
    Where no token does, both are the position of the first token after the answer's start.
    """
    start, end = answer.start, answer.end

    def is_inside(number: int) -> bool:
        a, b = tokens.get_span(number)
        if not max(a, start) < min(b, end):
            return False
        return tokens.ids[number] not in end_tokens or start <= a < b <= end

    # Tokens stand in the order of their characters, of which several may share one.
    lowest = tokens.find_token(range(start, end))
    highest = tokens.find_token(range(end - 1, start - 1, -1))
    if lowest is not None and highest is not None:
        while highest + 1 < len(tokens) and is_inside(highest + 1):
            highest += 1
        numbers = range(lowest, highest + 1)
        first = next(filter(is_inside, numbers), None)
        if first is not None:
            return first, next(filter(is_inside, reversed(numbers))) + 1
    spans = enumerate(tokens.offsets)
    following = max((i for i, (a, b) in spans if a < min(b, start)), default=-1) + 1
    return following, following


def find_closing(
    tokens: Tokens, rendering: Rendering, answer: AnswerSpan, start: int, end_tokens: frozenset[int]
) -> int | None:
    """The position of the token that ends an answer, at `start` or after white space.

    After the last answer any text may precede it.
    """
    for i in range(start, len(tokens) if rendering.closed else 0):
        if tokens.ids[i] in end_tokens:
            return i
        between = rendering.text[slice(*tokens.get_span(i))]
        if answer is not rendering.answers[-1] and between.strip():
            break
    return None
