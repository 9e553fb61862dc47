"""Rows as they are shown before training: token by token, with what counts of each.

Knows no screen and no page.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.data.encode import Encoder
from undial_cli.data.example import Example
from undial_cli.data.rows import Row
from undial_cli.data.samples import TrainingSet, encode_row, is_joined_set
from undial_cli.losses.positions import IGNORE

# What becomes of a token: read and not trained, trained, a focus word's, lost to data.max_length.
READ, TRAINED, FOCUSED, LOST = "read", "trained", "focused", "lost"
UNBOUNDED = 10**9
# A letter may be spread over so many tokens of bytes.
MOST_LETTER_TOKENS = 8
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass
class ShownRow:
    """A row: its number, its tokens as (text, what becomes of it), and what goes with it.

    `sequences`: how many the row is made into, of which the first is shown; `preferred`: answers
    that are to be preferred over its own; `reason`: why nothing of it is trained.
    """

    number: int
    tokens: list[tuple[str, str]]
    sequences: int = 1
    focus: list[str] = field(default_factory=list)
    preferred: list[str] = field(default_factory=list)
    reason: str = ""

    def count_tokens(self, *kinds: str) -> int:
        return sum(kind in kinds for _, kind in self.tokens)


def make_shown_rows(
    encoder: Encoder,
    rows: Sequence[Row],
    part: TrainingSet | None,
    preferred: Sequence[list[list[str]]],
    most: int,
) -> list[ShownRow]:
    """The first rows of a set; of documents that are joined, the first sequences.

    Args:
        part: what is trained of them; None for a set that is not.
        preferred: of each row, the other answers turn by turn.
    """
    if part is not None and is_joined_set(encoder, rows):
        return [
            ShownRow(number, label_tokens(encoder.tokenizer, example, []))
            for number, example in enumerate(part.examples[:most], 1)
        ]
    shown = []
    made = collect_first_examples(part, most) if part is not None else {}
    whole = dataclasses.replace(
        encoder, data=dataclasses.replace(encoder.data, max_length=UNBOUNDED)
    )
    for number, row in enumerate(rows[:most], 1):
        examples = made.get(number) if part is not None else encode_row(encoder, row)[0]
        uncut = encode_row(whole, row)[0]
        if not examples:
            reason = part.counts.skipped.get(number, "") if part else encode_row(encoder, row)[1]
            lost = label_tokens(encoder.tokenizer, None, uncut[0].input_ids if uncut else [])
            shown.append(ShownRow(number, lost, 0, reason=reason or "no token is trained"))
            continue
        first = examples[0]
        beyond = uncut[0].input_ids[len(first.input_ids) :] if len(examples) == 1 else []
        tokens = label_tokens(encoder.tokenizer, first, beyond if first.cut else [])
        answers = list(dict.fromkeys(t for turn in preferred[number - 1] for t in turn)) if (
            preferred
        ) else []  # fmt: skip
        sequences = 1 if preferred else len(examples)
        shown.append(ShownRow(number, tokens, sequences, list_focus_words(tokens), answers))
    return shown


def collect_first_examples(part: TrainingSet, most: int) -> dict[int, list[Example]]:
    """The examples of the first rows, by the number of the row."""
    examples: dict[int, list[Example]] = {}
    for position, number in enumerate(part.row_numbers):
        if number > most:
            break
        examples.setdefault(int(number), []).append(part.examples[position])
    return examples


def label_tokens(
    tokenizer: PreTrainedTokenizerBase, example: Example | None, lost: list[int]
) -> list[tuple[str, str]]:
    """The text of each token of an example, and of those that it lost, with what becomes of it."""
    ids = [*(example.input_ids if example else []), *lost]
    kinds = [LOST] * len(ids)
    if example is not None:
        focus = set(example.focus)
        for i, label in enumerate(example.labels):  # nothing predicts the first token
            kinds[i] = FOCUSED if i in focus else READ if label == IGNORE or i == 0 else TRAINED
    return list(zip(split_token_texts(tokenizer, ids), kinds, strict=True))


def split_token_texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    """What each token adds to the text; of a letter in several tokens the last has all of it."""

    def decode(part: list[int]) -> str:
        return str(tokenizer.decode(part, clean_up_tokenization_spaces=False))

    texts, before, done = [], 0, 0
    for i in range(len(ids)):
        known, text = decode(ids[before:done]), decode(ids[before : i + 1])
        is_open = text.endswith(REPLACEMENT) and i + 1 < len(ids)
        if is_open and i + 1 - done < MOST_LETTER_TOKENS:
            texts.append("")
            continue
        texts.append(text[len(known) :])
        before, done = done, i + 1
    return texts


def list_focus_words(tokens: Sequence[tuple[str, str]]) -> list[str]:
    """The texts of focus tokens that stand side by side, each once."""
    words, current = list[str](), ""
    for text, kind in [*tokens, ("", READ)]:
        if kind == FOCUSED:
            current += text
        elif current:
            words.append(current.strip())
            current = ""
    return list(dict.fromkeys(words))
