"""What the rows of a set have in common: those that say the same, and columns that nobody reads.

Knows neither files nor tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from undial_cli.config.datasets import DataConfig
from undial_cli.data.rows import (
    METRIC_COLUMNS,
    Row,
    columns_by_kind,
    hash_content,
    list_columns,
)
from undial_cli.data.stored_rows import StoredRows


def hash_contents(rows: Sequence[Row], config: DataConfig) -> NDArray[np.uint64]:
    """64 bits of what each row says; 0 of one that says nothing."""
    if isinstance(rows, StoredRows):
        return rows.contents
    return np.array([hash_content(row, config) for row in rows], np.uint64)


def count_shared_rows(rows: Sequence[Row], others: Sequence[Row], config: DataConfig) -> int:
    """How many rows that say something are among the others."""
    hashes = hash_contents(rows, config)
    return int(np.isin(hashes[hashes != 0], hash_contents(others, config)).sum())


def count_repeated_rows(rows: Sequence[Row], config: DataConfig) -> int:
    """How many rows say what an earlier one says."""
    hashes = hash_contents(rows, config)
    hashes = hashes[hashes != 0]
    hashes.sort()  # in its room: of millions of rows each copy counts
    return int((hashes[1:] == hashes[:-1]).sum())


def find_first_copies(
    hashes: NDArray[np.uint64], others: NDArray[np.uint64] | None = None
) -> NDArray[np.int64]:
    """Of each row, the first that says the same: among the others, or else in its own set.

    -1 where there is none; a row that says nothing has none. In its own set it may be itself.

    Args:
        hashes, others: what `hash_contents` gives.
    """
    held = hashes if others is None else others
    order = np.argsort(held, kind="stable")
    places = np.searchsorted(held[order], hashes)
    firsts = order[np.minimum(places, len(held) - 1)]
    return np.where((held[firsts] == hashes) & (hashes != 0), firsts, -1)


def find_unread_columns(rows: Sequence[Row], config: DataConfig, known: Iterable[str]) -> list[str]:
    """The columns that hold something in some row and that nothing reads.

    Args:
        known: columns that are read besides those of a row's kind.
    """
    keys = config.focus_key, config.alternative_key, config.subject_key
    needed, known = columns_by_kind(config), {*known, *METRIC_COLUMNS, *keys}
    columns = rows.columns if isinstance(rows, StoredRows) else list_columns(rows, config)
    unread = [name for kind, name in columns if name not in {*known, *needed.get(kind, ())}]
    return list(dict.fromkeys(unread))
