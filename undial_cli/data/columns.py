"""What is refused of a set's rows, with row and column: gaps, unknown columns, cells of no text.

A list or a dictionary never becomes text by `str`. Knows neither files nor tokens.
"""

from __future__ import annotations

import re
from typing import Any

from undial_cli.config.datasets import DataConfig
from undial_cli.data.formats import is_conversation, is_spelled_list
from undial_cli.data.rows import METRIC_COLUMNS, Row, columns_by_kind, find_row_kind, is_blank_cell
from undial_cli.errors import UserError, suggest_nearest

# What others call the two columns, for the remedy in an error.
QUESTION_COLUMNS = ("instruction", "question", "prompt", "query", "input", "text")
ANSWER_COLUMNS = ("output", "answer", "response", "completion", "labels", "target")
# One half of a surrogate pair: JSON can spell it, and no tokenizer takes it.
HALF_CHARACTER = re.compile("[\ud800-\udfff]")


def check_columns(rows: list[Row], config: DataConfig, key: str, asked: bool = False) -> None:
    """Raise UserError for the first row that cannot be read as any known kind, or has a gap.

    Args:
        asked: of rows that are asked and not trained on: several answers may be right, and choices
            may have labels, which the set's kind decides (evaluation/set_rows.py).
    """
    for number, row in enumerate(rows, 1):
        check_row_columns(row, number, config, key, asked)


def check_row_columns(
    row: Row, number: int, config: DataConfig, key: str, asked: bool = False
) -> None:
    """`check_columns` of row `number`."""
    kind = find_row_kind(row, config)
    empty = find_empty_column(row, config, kind)
    if empty is not None:
        raise UserError(f"{key}: column '{empty}' is empty in row {number}")
    if not kind:
        raise row_kind_error(row, number, config, key)
    if kind == "messages":
        check_messages(row["messages"], number, key)
    elif kind == "ids":
        ids = row["input_ids"]
        if not isinstance(ids, list) or not ids or set(map(type, ids)) != {int}:
            raise cell_error(key, "input_ids", ids, number, "a list of whole numbers")
    else:
        for column in columns_by_kind(config)[kind]:
            listed = asked and column == config.answer_key and isinstance(row[column], list | dict)
            if not listed and not is_text_cell(row[column]):
                raise cell_error(key, column, row[column], number, "text")
    if kind == "qa":
        check_metric_columns(row, number, key)


def find_empty_column(row: Row, config: DataConfig, kind: str) -> str | None:
    """A column of the row's kind that is empty, or of one that it was meant to be of.

    That is a kind with another column filled. A document may be empty.
    """
    # A row with a question and no answer is not to pass as a document of its `text` column.
    for earlier, columns in columns_by_kind(config).items():
        empty = [column for column in columns if is_blank_cell(row.get(column))]
        if earlier == kind:
            return empty[0] if empty and kind != "text" else None
        if empty and empty[0] in row and (len(empty) < len(columns) or not kind):
            return empty[0]
    return None


def row_kind_error(row: Row, number: int, config: DataConfig, key: str) -> UserError:
    columns = list(row)
    wanted = (
        f"columns '{config.question_key}' and '{config.answer_key}' (data.question_key, "
        f"data.answer_key), or messages, prompt and completion, or '{config.text_key}'"
    )
    question = next((c for c in QUESTION_COLUMNS if c in columns), None)
    answer = next((c for c in ANSWER_COLUMNS if c in columns), None)
    if question and answer:
        hint = f"; allowed is data.question_key={question} data.answer_key={answer}"
    else:
        has_question = config.question_key in columns
        hint = suggest_nearest(config.answer_key if has_question else config.question_key, columns)
    return UserError(
        f"{key}: found columns {', '.join(columns) or 'of no name'} in row {number}; needed are "
        f"{wanted}{hint}"
    )


def is_text_cell(value: Any) -> bool:
    """Whether a cell is a text or a number."""
    if isinstance(value, str):
        return not HALF_CHARACTER.search(value)
    return isinstance(value, int | float)


def cell_error(key: str, column: str, value: Any, number: int, needed: str) -> UserError:
    kind = type(value).__name__
    contents = {"str": "text that cannot be read so", "list": "a list", "dict": "a dictionary"}
    content = contents.get(kind, f"a value of type {kind}")
    return UserError(
        f"{key}: column '{column}' holds {content} in row {number}; needed is {needed}"
    )


def check_messages(messages: Any, number: int, key: str) -> None:
    """Raise UserError unless messages end in an answer and all of them are text."""
    problem = ""
    if not is_conversation(messages) or not all({"role", "content"} <= set(m) for m in messages):
        problem = "expected a list of {role, content}"
    elif len(messages) < 2 or messages[-1]["role"] != "assistant":
        problem = "expected two messages or more, the last from 'assistant'"
    elif is_blank_cell(messages[-1]["content"]):
        problem = "the last message is empty"
    else:
        for n, message in enumerate(messages, 1):
            if not is_text_message(message):
                problem = f"message {n} is no text (parts of other kinds cannot be read)"
                break
    if problem:
        raise UserError(f"{key}: column 'messages' in row {number}: {problem}")


def is_text_message(message: dict[str, Any]) -> bool:
    """Whether a message is text, or calls tools instead of saying anything."""
    content = message["content"]
    if content is None:
        return bool(message.get("tool_calls"))
    return isinstance(content, str) and is_text_cell(content)


def check_metric_columns(row: Row, number: int, key: str) -> None:
    """Raise UserError for other questions and answers that are no text."""
    for column in METRIC_COLUMNS:
        value, many = row.get(column), column == "perturbed_answer"
        texts = value if many and isinstance(value, list) else [value]
        # A list that `formats` could not read would be scored as one long answer.
        unread = many and isinstance(value, str) and is_spelled_list(value)
        if not is_blank_cell(value) and (
            unread or any(is_blank_cell(t) or not is_text_cell(t) for t in texts)
        ):
            needed = "text, or a list of texts" if many else "text"
            raise cell_error(key, column, value, number, needed)
