"""Load the sets of a run as rows: hub ids, folders of the same layout, or files.

A split may carry a slice (`forget05_perturbed[:160]`). The rows come in one form (`formats`), and
`columns` says in one line what is wrong with them; `key` is everywhere the config key that such a
line names. Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from undial_cli.config.datasets import DataConfig
from undial_cli.config.splits import cut_slice
from undial_cli.data.columns import check_columns, check_row_columns
from undial_cli.data.files import (
    count_filled_lines,
    is_jsonl_of_size,
    iterate_json_lines,
    load_row_file,
    locate_slice,
)
from undial_cli.data.folders import load_set
from undial_cli.data.formats import standardise_rows
from undial_cli.data.prepared import open_entry
from undial_cli.data.rows import Row
from undial_cli.data.stored_rows import RowWriter, StoredRows
from undial_cli.errors import UserError, first_line
from undial_cli.system.files import hash_files

# Files of JSON lines of so many bytes are read row by row: their rows as objects take five times
# as much.
LEAST_STORED_BYTES = 2**22
# The keys that say which columns are read.
COLUMN_KEYS = ("question_key", "answer_key", "text_key", "focus_key", "alternative_key")


def load_split(config: DataConfig, split: str, key: str, source: str | None = None) -> list[Row]:
    """The rows of one split (or file), slice applied.

    Args:
        config: the data config; with `path` set, `split` names a configuration of that data set,
            or `CONFIGURATION/SPLIT` (a configuration alone means its split `train`).
        split: name with an optional `[a:b]`; a file path where there is no `config.path`.
        source: hub id, folder or file to read instead of `config.path`; a file has no splits, and
            only the slice of `split` counts.

    Raises:
        UserError: no such data, split or file, or nothing in it.
        WorldError: the hub cannot be asked.
    """
    name, piece = cut_slice(split)
    path = source or config.path
    if source is not None and Path(source).expanduser().is_file():
        rows = load_row_file(source, piece, key)
    elif path is None:
        rows = load_row_file(name, piece, key)
    else:
        path_key = f"{key.rpartition('.')[0]}.path" if source is not None else "data.path"
        rows = load_set(path, name, piece, key, path_key)
    if not rows:
        raise UserError(f"{key}={split}: the set is empty")
    return standardise_rows(rows, config)


def load_rows(
    config: DataConfig,
    splits: list[str],
    key: str,
    source: str | None = None,
    asked: bool = False,
) -> Sequence[Row]:
    """The rows of one or more splits, one after the other, checked (`check_columns`).

    Of large files of JSON lines a copy is kept in the cache, and mapped.
    """
    if source is not None or config.path is None:
        files = [Path(source or cut_slice(split)[0]).expanduser() for split in splits]
        if all(is_jsonl_of_size(file, LEAST_STORED_BYTES) for file in files):
            parts = list(zip(files, splits, strict=True))
            return store_rows(config, parts, key, source, asked)
    rows = []
    for split in splits:
        part = load_split(config, split, key, source)
        check_columns(part, config, f"{key}={split or source}", asked)
        rows += part
    return rows


def store_rows(
    config: DataConfig,
    parts: list[tuple[Path, str]],
    key: str,
    source: str | None,
    asked: bool = False,
) -> StoredRows:
    """The rows of files of JSON lines, each file with its split; as `load_rows` has them."""
    content = {
        "files": [[hash_files(file), cut_slice(split)[1]] for file, split in parts],
        "columns": [getattr(config, name) for name in COLUMN_KEYS],
    }
    content |= {"asked": True} if asked else {}

    def write_rows(folder: Path) -> dict[str, Any]:
        writer = RowWriter(folder, config)
        for file, split in parts:
            name, piece = cut_slice(split)
            rows = iterate_row_file(file, piece, f"{key}={source or name}")
            for number, row in enumerate(rows, 1):
                (row,) = standardise_rows([row], config)
                check_row_columns(row, number, config, f"{key}={split or source}", asked)
                writer.add(row)
        return writer.close()

    return StoredRows(*open_entry(["rows", content], write_rows), config)


def iterate_row_file(file: Path, piece: str, setting: str) -> Iterator[Row]:
    """The rows of a file of JSON lines that a slice takes; `setting` is what errors name.

    Raises:
        UserError: as `load_row_file`.
    """
    try:
        first, last = 0, None
        if piece:
            first, last = locate_slice(count_filled_lines(file), piece, setting)
        for number, row in enumerate(iterate_json_lines(file)):
            if number >= first and (last is None or number < last):
                yield row
    except ValueError as error:
        raise UserError(f"{setting}: cannot be read as json ({first_line(error)})") from error
