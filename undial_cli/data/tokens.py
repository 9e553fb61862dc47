"""Texts as token ids with their character offsets, many at once; what a tokenizer is known by.

Knows neither rows nor templates.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.data.spans import Span

# Ids and character offsets of a text.
Tokens = tuple[list[int], list[Span]]
# A call may change a tokenizer's settings, which fails while another thread uses it.
TOKENIZER_LOCK = threading.Lock()
# What the tokenizers library reads at each call.
PARALLEL_VARIABLE = "TOKENIZERS_PARALLELISM"


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
        with TOKENIZER_LOCK:
            encoded = keep_blanks_in_offsets(tokenizer)(
                [texts[i][0] for i in numbers],
                add_special_tokens=special,
                return_offsets_mapping=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
        pairs: Any = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        for number, (ids, offsets) in zip(numbers, pairs, strict=True):
            # Tokens that the tokenizer adds hold no character. Prompt tags and exported data often
            # spell the begin token out: the model was never trained on two of them.
            added = next((i for i, (a, b) in enumerate(offsets) if a < b), 0) if special else 0
            if added and ids[:added] == ids[added : 2 * added]:
                (tokens[number],) = tokenise_texts(tokenizer, [(texts[number][0], False)])
            else:
                tokens[number] = ids, offsets
    return [tokens[i] for i in range(len(texts))]


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
def keep_blanks_in_offsets(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A tokenizer whose offsets hold the blanks of each token; some leave them out."""
    processor: Any = tokenizer.backend_tokenizer.post_processor  # type: ignore[attr-defined]
    state = processor.__getstate__() if processor is not None else b""
    whole = state.replace(b'"trim_offsets":true', b'"trim_offsets":false')
    if whole == state:
        return tokenizer
    exact = copy.deepcopy(tokenizer)
    processor = copy.deepcopy(processor)
    processor.__setstate__(whole)
    exact.backend_tokenizer.post_processor = processor  # type: ignore[attr-defined]
    return exact


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what a tokenizer does: its rules, chat template and special tokens."""
    rules = tokenizer.backend_tokenizer.to_str()  # type: ignore[attr-defined]
    special = sorted(map(str, tokenizer.special_tokens_map.items()))
    content = [rules, tokenizer.chat_template, special]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()
