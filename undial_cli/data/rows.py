"""Rows and their kinds: what a row is read as, what it says, and which of its columns nobody reads.

Knows neither files nor tokens.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from undial_cli.config.datasets import DataConfig

Row = dict[str, Any]

# Read besides the question and the answer, by the metrics of a set.
METRIC_COLUMNS = ("paraphrased_question", "paraphrased_answer", "perturbed_answer")


def columns_by_kind(config: DataConfig) -> dict[str, tuple[str, ...]]:
    """The columns that each kind of row needs; a row is of the first kind whose columns it has."""
    return name_columns(config.question_key, config.answer_key, config.text_key)


@functools.lru_cache(maxsize=8)
def name_columns(question: str, answer: str, text: str) -> dict[str, tuple[str, ...]]:
    """`columns_by_kind` by the keys that it depends on: it is asked several times for each row."""
    return {
        "qa": (question, answer),
        "messages": ("messages",),
        "completion": ("prompt", "completion"),
        "text": (text,),
        "ids": ("input_ids",),
    }


def is_blank_cell(value: Any) -> bool:
    """Whether a cell holds nothing: a file with rows of several kinds fills the gaps with these."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, float) and value != value)  # NaN: pandas' gap


def find_row_kind(row: Row, config: DataConfig) -> str:
    """How a row is read: `qa`, `messages`, `completion`, `text` or `ids`; `""` if by none.

    By the columns that hold something; only where that is no kind's, by those that are there.
    """
    needed = columns_by_kind(config)
    for kind, columns in needed.items():
        for column in columns:
            if is_blank_cell(row.get(column)):
                break
        else:
            return kind
    for kind, columns in needed.items():  # an empty document, an empty answer
        if all(row.get(column) is not None for column in columns):
            return kind
    return ""


def is_document(row: Row, config: DataConfig) -> bool:
    """Whether every token of a row is a target: it is a text or token ids, without a prompt."""
    return find_row_kind(row, config) in ("text", "ids")


def list_columns(rows: Iterable[Row], config: DataConfig) -> list[tuple[str, str]]:
    """The columns that hold something, each with a kind of row that has it, in their order."""
    columns: dict[tuple[str, str], None] = {}
    for row in rows:
        kind = find_row_kind(row, config)
        columns |= {(kind, name): None for name, value in row.items() if not is_blank_cell(value)}
    return list(columns)


def normalise_content(row: Row, config: DataConfig) -> tuple[Any, ...]:
    """What a row says, in whatever columns it stands: white space and system prompts aside."""
    kind = find_row_kind(row, config)
    if kind == "ids":
        return tuple(row["input_ids"])
    if kind == "messages":
        texts = [str(m["content"]) for m in row["messages"] if m["role"] != "system"]
    else:
        texts = [str(row[column]) for column in columns_by_kind(config)[kind]]
    return tuple(" ".join(text.split()) for text in texts)


def hash_content(row: Row, config: DataConfig) -> int:
    """64 bits of what a row says; 0 where it says nothing."""
    content = normalise_content(row, config)
    if not any(content):
        return 0
    text = json.dumps(content).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") or 1
