"""Rows in an Arrow file: written one by one, mapped into memory, never held as a whole.

A row is kept as the JSON that it is: rows may differ in their columns, and a cell is of any kind.
Knows no tokens.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from undial_cli.config.datasets import DataConfig
from undial_cli.config.identity import spell_canonical
from undial_cli.data.rows import Row, hash_content, list_columns

ROWS_FILE = "rows.arrow"
# `content`: a hash of what the row says, 0 where it says nothing.
ROWS_SCHEMA = pa.schema({"row": pa.large_string(), "content": pa.uint64()})
# Characters that are written, and held, at once.
WRITTEN_CHARACTERS = 2**22


class RowWriter:
    """Writes rows into a folder, one after the other."""

    def __init__(self, folder: Path, config: DataConfig) -> None:
        self.stream = pa.ipc.new_stream(str(folder / ROWS_FILE), ROWS_SCHEMA)
        self.config, self.digest, self.count = config, hashlib.sha256(b"["), 0
        self.texts, self.contents, self.waiting = list[str](), list[int](), 0
        self.columns: dict[tuple[str, str], None] = {}

    def add(self, row: Row) -> None:
        """Write a row."""
        text = json.dumps(row)
        self.digest.update((", " * (self.count > 0) + spell_canonical(row)).encode())
        self.texts.append(text)
        self.contents.append(hash_content(row, self.config))
        self.columns |= dict.fromkeys(list_columns([row], self.config))
        self.count, self.waiting = self.count + 1, self.waiting + len(text)
        if self.waiting >= WRITTEN_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        contents = pa.array(np.array(self.contents, np.uint64))
        batch = pa.record_batch(
            [pa.array(self.texts, ROWS_SCHEMA.types[0]), contents], schema=ROWS_SCHEMA
        )
        self.stream.write_batch(batch)
        self.texts, self.contents, self.waiting = [], [], 0

    def close(self) -> dict[str, Any]:
        """Write what is left; returns what `StoredRows` is told of them."""
        self.flush()
        self.stream.close()
        self.digest.update(b"]")
        return {"digest": self.digest.hexdigest(), "columns": list(self.columns)}


class StoredRows(Sequence[Row]):
    """The rows that a `RowWriter` wrote, or those of them within a range."""

    def __init__(
        self, folder: Path, record: dict[str, Any], config: DataConfig, part: slice = slice(None)
    ) -> None:
        self.folder, self.record, self.config = folder, record, config
        self.data = datasets.Dataset.from_file(str(folder / ROWS_FILE)).with_format("arrow")
        self.whole = range(len(self.data))
        self.range = self.whole[part]

    def __repr__(self) -> str:
        """What stands for them in a hash."""
        return f"StoredRows({self.digest})"

    def __len__(self) -> int:
        return len(self.range)

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            part = self.range[number]
            return StoredRows(
                self.folder, self.record, self.config, slice(part.start, part.stop, part.step)
            )
        return json.loads(self.data[self.range[number]]["row"][0].as_py())

    def __iter__(self) -> Iterator[Row]:
        # Not mapped: a page that was read once would be counted as this process's memory.
        numbers = iter(self.range)
        wanted, position = next(numbers, None), 0
        with pa.ipc.open_stream(pa.OSFile(str(self.folder / ROWS_FILE))) as batches:
            for batch in batches:
                texts = batch.column("row")
                while wanted is not None and wanted < position + len(texts):
                    yield json.loads(texts[wanted - position].as_py())
                    wanted = next(numbers, None)
                if wanted is None:
                    return
                position += len(texts)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the rows as canonical JSON."""
        if self.range == self.whole:
            return str(self.record["digest"])
        return digest_rows(self)

    @property
    def contents(self) -> NDArray[np.uint64]:
        """A hash of what each row says, 0 where it says nothing."""
        column = self.data.data.column("content").to_numpy()
        return column[self.range.start : self.range.stop : self.range.step]

    @functools.cached_property
    def columns(self) -> list[tuple[str, str]]:
        """The columns that hold something, with a kind of row that has them, in their order."""
        if self.range == self.whole:
            return [(str(kind), str(name)) for kind, name in self.record["columns"]]
        return list_columns(self, self.config)


def digest_rows(rows: Iterable[Row]) -> str:
    """The SHA-256 of rows as canonical JSON, as `digest_json` of a list of them."""
    total = hashlib.sha256(b"[")
    for number, row in enumerate(rows):
        total.update((", " * (number > 0) + spell_canonical(row)).encode())
    total.update(b"]")
    return total.hexdigest()
