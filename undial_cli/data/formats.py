"""One form for the formats that people have: conversations as `messages` of plain text, lists as
lists.

What has no such form stays as it is, for `columns.check_columns` to refuse. Knows no files.
"""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterable
from typing import Any

from undial_cli.config.datasets import DataConfig
from undial_cli.data.rows import Row, is_blank_cell
from undial_cli.system.files import parse_json

# Speakers of ShareGPT's conversations, as chat templates call them.
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


def standardise_rows(rows: list[Row], config: DataConfig) -> list[Row]:
    """Rows in that form, in order.

    Read are a list that a cell of a list's column spells (in a CSV file it can do no other), prompt
    and completion of a conversation (TRL), ShareGPT's conversations, and contents in parts that are
    all text.
    """
    lists = ("messages", "conversations", "input_ids", "perturbed_answer")
    lists += (config.focus_key, config.alternative_key)
    return [standardise_row(row, lists) for row in rows]


def standardise_row(row: Row, lists: Iterable[str]) -> Row:
    row = row | {name: parse_spelled_list(row[name]) for name in lists if name in row}
    prompt, completion = (
        parse_spelled_list(row.get("prompt")),
        parse_spelled_list(row.get("completion")),
    )
    # A prompt of plain text stays what it is: it is continued, without a chat template.
    if is_conversation(prompt) and is_conversation(completion):
        row = {name: v for name, v in row.items() if name not in ("prompt", "completion")}
        row["messages"] = [*prompt, *completion]
    elif is_conversation(row.get("conversations")) and is_blank_cell(row.get("messages")):
        messages = [standardise_message(message) for message in row["conversations"]]
        if all("role" in message for message in messages):
            row = {name: v for name, v in row.items() if name != "conversations"}
            row["messages"] = messages
    if is_conversation(row.get("messages")):
        row["messages"] = [standardise_message(message) for message in row["messages"]]
    return row


def is_spelled_list(text: str) -> bool:
    """Whether a text is meant as a list."""
    return text.strip().startswith("[") and text.strip().endswith("]")


def parse_spelled_list(value: Any) -> Any:
    """The list that a text spells, as JSON or as Python prints it; anything else as it is."""
    if not isinstance(value, str) or not is_spelled_list(value):
        return value
    # pandas writes a list to CSV as Python prints it; the evaluator gives up on deep nesting.
    for read in (parse_json, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return read(value.strip())
    return value


def is_conversation(value: Any) -> bool:
    """Whether a cell is a list of messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) for m in value)


def standardise_message(message: dict[str, Any]) -> dict[str, Any]:
    """A message with `role` and `content`, its text parts joined."""
    speaker = SHAREGPT_ROLES.get(str(message.get("from")))
    if message.get("role") is None and speaker is not None:
        message = {"role": speaker, "content": message.get("value")}
    parts = message.get("content")
    if isinstance(parts, list) and parts and all(map(is_text_part, parts)):
        message = {**message, "content": "".join(part["text"] for part in parts)}
    return message


def is_text_part(part: Any) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )
