"""Whom samples are about: rows of one person are not independent of each other.

Subjects are numbers: their names are personal data. Knows no metric.
"""

from __future__ import annotations

from typing import Any

from undial_cli.config.splits import find_first_row
from undial_cli.config.suites import EvalSetConfig
from undial_cli.data.rows import Row


def number_subjects(rows: list[Row], options: EvalSetConfig, key: str) -> dict[int, int]:
    """By row, the number of its subject; rows of which it is not known are not there.

    Either a column says who, or the rows of a subject stand in blocks of equal size. Blocks count
    from the beginning of the split, whatever slice of it is read; where a slice from the end or in
    percent begins is not known.
    """
    if any(row.get(key) is not None for row in rows):
        numbers: dict[str, int] = {}
        return {
            index: numbers.setdefault(str(row[key]), len(numbers))
            for index, row in enumerate(rows)
            if row.get(key) is not None
        }
    size = options.rows_per_subject
    if size is None or isinstance(options.split, list):  # blocks may break off at each file's end
        return {}
    start = find_first_row(options.split or "")
    if start is None:
        return {}
    return {index: (start + index) // size for index in range(len(rows))}


def find_resampling_unit(sample: dict[str, Any]) -> tuple[str, Any]:
    """What a sample is resampled with: its subject, else its row (of which it may be a piece)."""
    if sample.get("subject") is not None:
        return ("subject", sample["subject"])
    return ("row", sample.get("index"))
