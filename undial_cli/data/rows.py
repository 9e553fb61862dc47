"""Rows and their kinds: what a row is read as, what it says, and which of its columns nobody reads.

Knows neither files nor tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from undial_cli.schema import DataConfig

Row = dict[str, Any]

# Read beside the question and the answer, by the metrics of a set.
BESIDE = ("paraphrased_question", "paraphrased_answer", "perturbed_answer")


def columns_of(config: DataConfig) -> dict[str, tuple[str, ...]]:
    """The columns that each kind of row needs; a row is of the first kind whose columns it has."""
    return {
        "qa": (config.question_key, config.answer_key),
        "messages": ("messages",),
        "completion": ("prompt", "completion"),
        "text": (config.text_key,),
        "ids": ("input_ids",),
    }


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing: a file with rows of several kinds fills the gaps with these."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and value != value)


def row_kind(row: Row, config: DataConfig) -> str:
    """How a row is read: `qa`, `messages`, `completion`, `text` or `ids`; `""` if by none.

    By the columns that hold something; only where that is no kind's, by those that are there.
    """
    needed = columns_of(config)
    for kind, columns in needed.items():
        if not any(is_blank(row.get(column)) for column in columns):
            return kind
    for kind, columns in needed.items():
        if all(row.get(column) is not None for column in columns):
            return kind
    return ""


def unread_columns(rows: list[Row], config: DataConfig, known: Iterable[str]) -> list[str]:
    """The columns that hold something in some row and that nothing reads.

    Args:
        known: columns that are read beside those of a row's kind.
    """
    keys = config.focus_key, config.alternative_key, config.subject_key
    needed, known = columns_of(config), {*known, *BESIDE, *keys}
    columns: dict[str, None] = {}
    for row in rows:
        read = needed.get(row_kind(row, config), ())
        columns |= {c: None for c, v in row.items() if c not in read and not is_blank(v)}
    return [column for column in columns if column not in known]


def content_of(row: Row, config: DataConfig) -> tuple[Any, ...]:
    """What a row says, in whatever columns it stands: white space and system prompts aside."""
    kind = row_kind(row, config)
    if kind == "ids":
        return tuple(row["input_ids"])
    if kind == "messages":
        texts = [str(m["content"]) for m in row["messages"] if m["role"] != "system"]
    else:
        texts = [str(row[column]) for column in columns_of(config)[kind]]
    return tuple(" ".join(text.split()) for text in texts)


def count_shared(rows: list[Row], others: list[Row], config: DataConfig) -> int:
    """How many rows that say something are among the others."""
    known = {content for row in others if any(content := content_of(row, config))}
    return sum(content_of(row, config) in known for row in rows)


def count_repeated(rows: list[Row], config: DataConfig) -> int:
    """How many rows say what an earlier one says."""
    contents = [content for row in rows if any(content := content_of(row, config))]
    return len(contents) - len(set(contents))
