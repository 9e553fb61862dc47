"""Load the sets of a run as rows: hub ids, folders of the same layout, or files.

A split may carry a slice (`forget05_perturbed[:160]`). The rows come in one form (`formats`), and
`columns` says in one line what is wrong with them; `key` is everywhere the config key that such a
line names. Knows nothing of tokens.
"""

from __future__ import annotations

from pathlib import Path

from undial_cli.config.schema import DataConfig
from undial_cli.config.splits import cut_slice
from undial_cli.data.columns import check_columns
from undial_cli.data.files import load_row_file
from undial_cli.data.folders import load_set
from undial_cli.data.formats import standardise_rows
from undial_cli.data.rows import Row
from undial_cli.errors import UserError


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
    config: DataConfig, splits: list[str], key: str, source: str | None = None
) -> list[Row]:
    """The rows of one or more splits, one after the other, checked."""
    rows = []
    for split in splits:
        part = load_split(config, split, key, source)
        check_columns(part, config, f"{key}={split or source}")
        rows += part
    return rows
