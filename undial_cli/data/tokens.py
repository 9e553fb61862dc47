"""Texts as token ids with the characters of each, many at once; what a tokenizer is known by.

Knows neither rows nor templates.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import Encoding, Tokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.data.spans import Span

# What the tokenizers library reads at each call.
PARALLEL_VARIABLE = "TOKENIZERS_PARALLELISM"


class Tokens:
    """The tokens of a text: `ids`, and where each stands in the text.

    All offsets as a list are made only when they are asked for: they take more time, and twenty
    times the memory, of the ids.
    """

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        self.ids: list[int] = encoding.ids

    def __len__(self) -> int:
        return len(self.ids)

    @functools.cached_property
    def offsets(self) -> list[Span]:
        """The characters of each token; (0, 0) of one that the tokenizer added."""
        return self.encoding.offsets

    def get_span(self, number: int) -> Span:
        """The characters of a token."""
        return self.encoding.token_to_chars(number) or (0, 0)

    def find_token(self, characters: Iterable[int]) -> int | None:
        """The first token that holds the first of these characters that a token holds."""
        tokens = map(self.encoding.char_to_token, characters)
        return next((number for number in tokens if number is not None), None)


def tokenise_texts(
    tokenizer: PreTrainedTokenizerBase, texts: list[tuple[str, bool]]
) -> list[Tokens]:
    """The tokens of each text.

    Args:
        texts: each with whether the special tokens that the tokenizer puts around a text belong to
            it; not where the text begins with them already.
    """
    tokens: dict[int, Tokens] = {}
    for special in (True, False):
        numbers = [i for i, text in enumerate(texts) if text[1] == special]
        if not numbers:
            continue
        for number, encoding in zip(
            numbers,
            encode_texts(tokenizer, [texts[i][0] for i in numbers], special),
            strict=True,
        ):
            encoded = Tokens(encoding)
            # Prompt tags and exported data often spell the begin token out: the model was never
            # trained on two of them.
            marks = encoding.special_tokens_mask if special else []
            added, ids = marks.index(0) if 0 in marks else 0, encoded.ids
            if added and ids[:added] == ids[added : 2 * added]:
                (encoded,) = tokenise_texts(tokenizer, [(texts[number][0], False)])
            tokens[number] = encoded
    return [tokens[i] for i in range(len(texts))]


def encode_texts(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], special: bool
) -> list[Encoding]:
    """Texts as the tokenizers library has them, whole: neither cut nor filled up.

    Not by calling the tokenizer, which takes a third of the time again for what nobody reads.
    """
    backend = keep_blanks_in_offsets(tokenizer)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    return backend.encode_batch(texts, add_special_tokens=special)


@contextlib.contextmanager
def use_all_cores() -> Iterator[None]:
    """While open, tokenizers share many texts out to all cores (RAYON_NUM_THREADS bounds them).

    Elsewhere they do not: a process that was forked after that would hang, or warn of it.
    """
    before = os.environ.get(PARALLEL_VARIABLE)
    os.environ[PARALLEL_VARIABLE] = "true"
    try:
        yield
    finally:
        os.environ[PARALLEL_VARIABLE] = before or "false"


@functools.lru_cache(maxsize=4)
def keep_blanks_in_offsets(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """A tokenizer's rules whose offsets hold the blanks of each token; some leave them out."""
    backend: Any = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    processor = copy.deepcopy(backend.post_processor)
    if processor is None:
        return backend
    state = processor.__getstate__()
    whole = state.replace(b'"trim_offsets":true', b'"trim_offsets":false')
    if whole != state:
        backend = copy.deepcopy(backend)
        processor.__setstate__(whole)
        backend.post_processor = processor
    return backend


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what a tokenizer does: its rules, chat template and special tokens."""
    rules = tokenizer.backend_tokenizer.to_str()  # type: ignore[attr-defined]
    special = sorted(map(str, tokenizer.special_tokens_map.items()))
    content = [rules, tokenizer.chat_template, special]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
