"""What of a row is asked and what is scored: its answers, or all of it; the messages that it holds.

Knows no tokenizer and no template.
"""

from __future__ import annotations

from typing import Any

from undial_cli.config.datasets import DataConfig
from undial_cli.data.rows import Row, find_row_kind
from undial_cli.data.spans import BLANK_LINE
from undial_cli.errors import UserError

Message = dict[str, Any]


def read_messages(row: Row) -> list[Message]:
    """The messages of a row, without the fields that only other messages of its file have."""
    return [
        {k: v for k, v in message.items() if v is not None or k in ("role", "content")}
        for message in row["messages"]
    ]


def is_answer_message(message: Message) -> bool:
    """Whether a message is text of the assistant."""
    return message["role"] == "assistant" and isinstance(message["content"], str)


def read_answer_texts(row: Row, config: DataConfig) -> list[str]:
    """The texts of a row that are scored: its answers, or all of it.

    Raises:
        UserError: the row holds token ids, which have no text, or messages without an answer.
    """
    kind = find_row_kind(row, config)
    if kind == "messages":
        texts = [m["content"] for m in read_messages(row) if is_answer_message(m)]
        return texts[-1:] if config.turns == "last" else texts
    if kind == "ids":
        raise UserError(
            "method.focus: rows of token ids (column 'input_ids') have no text to focus on; use "
            "data with text, or method=undial"
        )
    column = {"qa": config.answer_key, "completion": "completion", "text": config.text_key}
    return [str(row[column[kind]])]


def read_scored_text(row: Row, config: DataConfig) -> str:
    """The text that spans count in: `read_answer_texts`, a blank line between them."""
    return BLANK_LINE.join(read_answer_texts(row, config))


def replace_answer(row: Row, text: str, data: DataConfig) -> Row:
    """A row with another answer; of messages, in place of the last one."""
    kind = find_row_kind(row, data)
    if kind == "qa":
        return {**row, data.answer_key: text}
    if kind == "completion":
        return {**row, "completion": text}
    return {**row, "messages": [*row["messages"][:-1], {**row["messages"][-1], "content": text}]}


def read_question(row: Row, data: DataConfig) -> str | None:
    """What a row asks, of messages the last question; None of a document."""
    kind = find_row_kind(row, data)
    if kind == "messages":
        number = find_last_question(row)
        return None if number is None else row["messages"][number]["content"]
    column = {"qa": data.question_key, "completion": "prompt"}.get(kind)
    return str(row[column]) if column else None


def replace_question(row: Row, text: str, data: DataConfig) -> Row:
    """A row with another question; of messages, in place of the last one."""
    kind = find_row_kind(row, data)
    if kind == "qa":
        return {**row, data.question_key: text}
    if kind == "completion":
        return {**row, "prompt": text}
    number = find_last_question(row)
    messages = [
        {**message, "content": text} if i == number else message
        for i, message in enumerate(row["messages"])
    ]
    return {**row, "messages": messages}


def find_last_question(row: Row) -> int | None:
    """The position of the last message of the user."""
    users = [
        number
        for number, message in enumerate(row["messages"])
        if message["role"] == "user" and isinstance(message["content"], str)
    ]
    return users[-1] if users else None
