"""Load the sets of a run as rows: hub ids, folders of the same layout, or files.

A split may carry a slice (`forget05_perturbed[:160]`). Checks columns and emptiness, and says in
one line what is wrong. Knows nothing of tokens.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.exceptions import DatasetNotFoundError
from numpy.typing import NDArray

from undial_cli.cache import cache_dir, folder_state, private_folder
from undial_cli.data.splits import cut_slice
from undial_cli.errors import UserError, bad_value, nearest
from undial_cli.schema import DataConfig
from undial_cli.sources import package_resource, unreachable

Row = dict[str, Any]

FILE_KINDS = {
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
    ".npy": "token ids",
}
# Arrays of the extraction challenge, in the order of the sequence.
PARTS = ("preprefix", "prefix", "suffix")


def load_split(config: DataConfig, split: str, key: str, place: str | None = None) -> list[Row]:
    """The rows of one split (or file), slice applied.

    Args:
        config: the data config; with `path` set, `split` names a configuration of that data set,
            or `CONFIGURATION/SPLIT` (a configuration alone means its split `train`).
        split: name with an optional `[a:b]`; a file path where there is no `config.path`.
        key: the config key to name in an error.
        place: hub id, folder or file to read in place of `config.path`; a file has no splits, and
            only the slice of `split` counts.

    Raises:
        UserError: no such data, split or file, or nothing in it.
        WorldError: the hub cannot be asked.
    """
    name, piece = cut_slice(split)
    path = place or config.path
    if place is not None and Path(place).expanduser().is_file():
        rows = load_file(place, piece, key)
    elif path is None:
        rows = load_file(name, piece, key)
    elif known := array_splits(Path(path).expanduser()):
        if name not in known:
            raise bad_value(key, name, known)
        rows = load_arrays(Path(path).expanduser(), name, piece, key)
    else:
        rows = load_hub_layout(path, name, piece, key, f"{key.rpartition('.')[0]}.path")
    if not rows:
        raise UserError(f"{key}={split}: the set is empty")
    return rows


def array_splits(folder: Path) -> list[str]:
    """The splits of a folder of arrays in the layout of the public extraction challenge."""
    return [file.name.removesuffix("_prefix.npy") for file in folder.glob("*_prefix.npy")]


def load_arrays(folder: Path, name: str, piece: str, key: str) -> list[Row]:
    """Token ids of `NAME_preprefix.npy` (if it is there), `NAME_prefix.npy` and `NAME_suffix.npy`.

    Each is [N, T]; they are put side by side.
    """
    files = [folder / f"{name}_{part}.npy" for part in PARTS]
    parts = [token_ids(file, key) for file in files if file.is_file() or file != files[0]]
    if len({len(part) for part in parts}) > 1:
        counts = ", ".join(str(len(part)) for part in parts)
        raise UserError(f"{key}={name}: its arrays in {folder} have {counts} rows")
    return sliced(np.concatenate(parts, axis=1), piece, f"{key}={name}")


def token_ids(file: Path, key: str) -> NDArray[Any]:
    """The token ids of a .npy file, [N, T]."""
    if not file.is_file():
        raise UserError(f"{key}={file}: no such file")
    try:
        with open(file, "rb") as stream:
            ids = np.lib.format.read_array(stream, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{key}={file}: no token ids ({first_line(error)})") from error
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        found = f"{ids.dtype} in {ids.ndim}"
        raise UserError(
            f"{key}={file}: no token ids (expected whole numbers in 2 dimensions, found {found})"
        )
    return ids


def sliced(ids: NDArray[Any], piece: str, place: str) -> list[Row]:
    """Rows of token ids, those that a slice takes."""
    rows = [{"input_ids": row} for row in ids.tolist()]
    if not piece:
        return rows
    try:
        instruction = datasets.ReadInstruction.from_spec(f"train{piece}")
        (taken,) = instruction.to_absolute({"train": len(rows)})
    except ValueError as error:
        raise UserError(f"{place}{piece}: {first_line(error)}") from error
    return rows[taken.from_ : taken.to]


def load_file(name: str, piece: str, key: str) -> list[Row]:
    """Rows of a JSONL, JSON, CSV, Parquet or text file (one document per text file)."""
    path = Path(name).expanduser()
    if not path.is_file():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{key}={name}: no such file{nearest(path.name, siblings)}")
    kind = FILE_KINDS.get(path.suffix)
    if kind is None:
        raise UserError(f"{key}={name}: allowed are files ending in {', '.join(FILE_KINDS)}")
    if path.stat().st_size == 0:
        raise UserError(f"{key}={name}: the file is empty")
    if path.suffix == ".npy":
        return sliced(token_ids(path, key), piece, f"{key}={name}")
    extra: dict[str, Any] = {"sample_by": "document"} if kind == "text" else {}
    try:
        if kind == "csv":
            extra = as_text(path)
        data = datasets.load_dataset(
            kind, data_files=[str(path.resolve())], split=f"train{piece}", **extra
        )
    except Exception as error:
        cause = error.__cause__ or error
        raise UserError(f"{key}={name}: cannot be read as {kind} ({first_line(cause)})") from error
    return [dict(row) for row in data]  # type: ignore[call-overload]


def as_text(path: Path) -> dict[str, Any]:
    """Arguments that read every column of a CSV file as the text it is ("007", "1.50", "NA")."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        header = next(csv.reader(file), [])
    columns = [name or f"Unnamed: {i}" for i, name in enumerate(header)]  # as pandas calls them
    features = datasets.Features({name: datasets.Value("string") for name in columns})
    return {"features": features, "keep_default_na": False}


def load_hub_layout(path: str, name: str, piece: str, key: str, path_key: str) -> list[Row]:
    """Rows of one split of a hub data set, or of a folder laid out like one."""
    place = str(package_resource(path, path_key)) if path.startswith("pkg://") else path
    folder = Path(place).expanduser()
    if not folder.exists() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise UserError(f"{path_key}={path}: no such folder")
    cache = None
    if folder.exists():
        place, cache = str(folder.resolve()), cache_of(folder)
    name, _, split = name.partition("/")
    try:
        data = datasets.load_dataset(
            place, name, split=f"{split or 'train'}{piece}", cache_dir=cache
        )
    except (ConnectionError, TimeoutError) as error:
        raise unreachable(f"{path_key}={path}", error) from error
    except DatasetNotFoundError as error:
        raise UserError(f"{path_key}={path}: no such data set ({first_line(error)})") from error
    except ValueError as error:
        raise UserError(missing_split(error, f"{name}/{split}" if split else name, key)) from error
    except Exception as error:
        raise UserError(f"{path_key}={path}: cannot be read ({first_line(error)})") from error
    return [dict(row) for row in data]  # type: ignore[call-overload]


def cache_of(folder: Path) -> str:
    """Where datasets keeps what it reads of a folder: another place when a file changed.

    Its own cache knows a folder by its name and configurations alone.
    """
    return str(private_folder(cache_dir() / "datasets") / folder_state(folder.resolve()))


def missing_split(error: ValueError, name: str, key: str) -> str:
    """The line for a configuration or a split that does not exist, with those that do."""
    configuration = name.partition("/")[0]
    _, _, listed = str(error).partition("Available:")
    names = re.findall(r"'([^']+)'", listed)
    if not names:
        _, _, listed = str(error).partition("hould be one of")
        names = [f"{configuration}/{split}" for split in re.findall(r"'([^']+)'", listed)]
        configuration = name
    if not names:
        return f"{key}={name}: {first_line(error)}"
    return (
        f"{key}={name}: allowed is one of {', '.join(sorted(names))}{nearest(configuration, names)}"
    )


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, cut to a readable length."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]


def row_kind(row: Row, config: DataConfig) -> str:
    """How a row is read: `qa`, `messages`, `completion`, `text` or `ids`; `""` if by none."""
    if config.question_key in row and config.answer_key in row:
        return "qa"
    if "messages" in row:
        return "messages"
    if "prompt" in row and "completion" in row:
        return "completion"
    if config.text_key in row:
        return "text"
    return "ids" if "input_ids" in row else ""


def check_columns(rows: list[Row], config: DataConfig, key: str) -> None:
    """Raise UserError if rows cannot be read as any known kind, or hold an empty field."""
    if not row_kind(rows[0], config):
        columns = list(rows[0])
        wanted = (
            f"columns '{config.question_key}' and '{config.answer_key}' (data.question_key, "
            f"data.answer_key), or messages, prompt and completion, or '{config.text_key}'"
        )
        hint = nearest(
            config.answer_key if config.question_key in columns else config.question_key, columns
        )
        raise UserError(f"{key}: found columns {', '.join(columns)}; needed are {wanted}{hint}")
    needed = {
        "qa": (config.question_key, config.answer_key),
        "messages": ("messages",),
        "completion": ("prompt", "completion"),
        "text": (config.text_key,),
        "ids": ("input_ids",),
    }
    for number, row in enumerate(rows, 1):
        kind = row_kind(row, config)
        for column in needed[kind]:
            value = row[column]
            blank = kind != "text" and not str(value).strip()  # a document may have empty lines
            if value is None or value != value or blank:
                raise UserError(f"{key}: column '{column}' is empty in row {number}")


def load_training_set(config: DataConfig, splits: list[str], key: str) -> list[Row]:
    """The rows of one or more splits, checked and limited to `data.limit`."""
    rows = []
    for split in splits:
        part = load_split(config, split, key)
        check_columns(part, config, f"{key}={split}")
        rows += part
    return rows[: config.limit]
