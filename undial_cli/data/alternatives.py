"""Answers to prefer over those of the forget set: refusals like "I don't know", or a row's own.

Knows no tokens, and no method by name.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

from undial_cli.config.datasets import DataConfig
from undial_cli.data.formats import is_spelled_list, parse_spelled_list
from undial_cli.data.load import load_rows
from undial_cli.data.rows import Row, hash_content, is_document
from undial_cli.errors import UserError

SHIPPED_REFUSALS = Path(__file__).parent / "refusals.txt"


def collect_alternatives(
    rows: Sequence[Row], data: DataConfig, source: str, turns: int, seed: int, key: str
) -> list[list[list[str]]]:
    """The answers to prefer, read before anything is loaded.

    Args:
        source: `refusals`, drawn anew each turn, or `data`: each of a row's own makes a sample.
        turns: how often a row is seen.
        key: the config key of the set, to name in an error.

    Returns:
        Of each row, its samples; of each sample, the other answer turn by turn.
    """
    for number, row in enumerate(rows, 1):
        if is_document(row, data):
            raise UserError(
                f"{key}: rows of plain text have no answer to replace, as row {number}; needed are "
                "questions"
            )
    if source == "data":
        if data.alternatives_file is not None:
            rows = find_answered_rows(rows, data, data.alternatives_file, key)
        return [
            [[text] for text in read_row_alternatives(row, number, data, key)]
            for number, row in enumerate(rows, 1)
        ]
    refusals = read_refusals(data)
    # A generator per row: what a row is given does not depend on the rows before it.
    draws = [random.Random(f"{seed}:{number}") for number in range(len(rows))]
    return [[[draw.choice(refusals) for _ in range(turns)]] for draw in draws]


def find_answered_rows(rows: Sequence[Row], data: DataConfig, file: str, key: str) -> list[Row]:
    """Of each row the one of a file that says the same, with its other answers."""
    name = "data.alternatives_file"
    answered = load_rows(dataclasses.replace(data, path=None), [file], name)
    by_content = {hash_content(row, data): row for row in answered}
    matching = [by_content.get(hash_content(row, data)) for row in rows]
    for number, row in enumerate(matching, 1):
        if row is None:
            raise UserError(
                f"{name}={file}: none of its {len(answered):,} rows is row {number} of {key}; "
                "needed are all, as undial alternatives writes them for the same data"
            )
    return [row for row in matching if row is not None]


def read_row_alternatives(row: Row, number: int, data: DataConfig, key: str) -> list[str]:
    """The other answers that row `number` holds: a text, a list of them, or such a list as JSON."""
    value = parse_spelled_list(row.get(data.alternative_key))
    texts = [value] if isinstance(value, str) and not is_spelled_list(value) else value
    if isinstance(texts, list) and texts and all(isinstance(t, str) and t.strip() for t in texts):
        return texts
    given = f"columns {', '.join(row)}" if value is None else repr(value)
    raise UserError(
        f"data.alternative_key={data.alternative_key}: {key} needs in row {number} a column "
        f"with answers to prefer, a text or a list of texts; found {given}"
    )


def read_refusals(data: DataConfig) -> list[str]:
    """Answers like "I don't know", one a line."""
    file = Path(data.refusals).expanduser() if data.refusals else SHIPPED_REFUSALS
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.refusals={data.refusals}: cannot be read as text") from error
    if not any(lines):
        raise UserError(f"data.refusals={data.refusals}: holds no line")
    return [line for line in lines if line]
