"""Folders of sets, and the hub's data sets of the same layout.

What a README.md lists is loaded by `datasets`; without one a set is a file named after it, a folder
of `save_to_disk`, or a pair of token-id arrays. Knows no kinds of rows.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import yaml
from datasets.exceptions import DatasetNotFoundError

from undial_cli import ui
from undial_cli.data.files import (
    FILE_READERS,
    is_saved_dataset,
    load_row_file,
    locate_slice,
    read_token_ids,
    slice_rows,
)
from undial_cli.data.rows import Row
from undial_cli.errors import UserError, WorldError, bad_value, first_line, suggest_nearest
from undial_cli.system.faults import raise_fault
from undial_cli.system.files import (
    hash_folder_state,
    locate_in_cache,
    make_private_folder,
)
from undial_cli.system.locks import hold_lock
from undial_cli.system.private_files import note_private, open_private_umask
from undial_cli.system.source_paths import (
    find_package_resource,
    is_local_path,
    unreachable_hub_error,
)

# Arrays of the extraction challenge, in the order of the sequence.
ARRAY_PARTS = ("preprefix", "prefix", "suffix")
# Files that `datasets` reads as JSON.
JSON_ENDINGS = (".json", ".jsonl", ".ndjson", ".geojson")
# What the hub's converter adds to the name of a split's files.
SHARD_SUFFIX = re.compile(r"-\d{5}-of-\d{5}$")


def load_set(path: str, name: str, piece: str, key: str, path_key: str) -> list[Row]:
    """The rows of one set of a folder, or of a data set on the hub.

    Args:
        path: hub id, folder or pkg://...
        name: `CONFIGURATION` (its split `train`) or `CONFIGURATION/SPLIT`.
        key: the config key of the name; `path_key`: that of the path.
    """
    folder = find_package_resource(path, path_key) if path.startswith("pkg://") else Path(path)
    folder = folder.expanduser()
    if folder.is_file():
        raise UserError(
            f"{path_key}={path}: a file; allowed is the folder that holds the sets, or "
            f"data=jsonl data.forget_file={path}"
        )
    if not folder.exists():
        if is_local_path(path):
            raise UserError(f"{path_key}={path}: no such folder")
        return load_listed_set(path, name, piece, key, path_key)
    if (folder / "state.json").is_file():
        raise UserError(
            f"{path_key}={path}: one set (save_to_disk); allowed is the folder above it, or "
            f"data=jsonl data.forget_file={path}"
        )
    arrays = find_array_splits(folder)
    if arrays:
        if name not in arrays:
            raise bad_value(key, name, arrays)
        return load_array_set(folder, name, piece, key)
    if has_listed_sets(folder):
        return load_listed_set(str(folder.resolve()), name, piece, key, path_key)
    known = find_named_sets(folder)
    if known:
        return load_named_set(folder, name, piece, key, known)
    return load_listed_set(str(folder.resolve()), name, piece, key, path_key)


def has_listed_sets(folder: Path) -> bool:
    """Whether a folder's README.md says which files make which set."""
    text = read_readme(folder)
    # The two fields by which `datasets` knows sets; any other README.md is prose.
    return re.search(r"^(configs|dataset_info):", text, re.MULTILINE) is not None


def read_readme(folder: Path) -> str:
    """The text of a folder's README.md; empty where there is none."""
    file = folder / "README.md"
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def find_named_sets(folder: Path) -> dict[str, list[Path]]:
    """The sets of a folder and of the folders in it, by the names of their files or folders."""
    sets: dict[str, list[Path]] = {}
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        name = path.relative_to(folder)
        if is_saved_dataset(path):
            sets[str(name)] = [path]
        elif path.is_file() and path.suffix in FILE_READERS and not is_saved_dataset(path.parent):
            sets.setdefault(SHARD_SUFFIX.sub("", str(name.with_suffix(""))), []).append(path)
    return sets


def load_named_set(
    folder: Path, name: str, piece: str, key: str, known: dict[str, list[Path]]
) -> list[Row]:
    # The same names as `datasets` takes: a set alone means its split `train`.
    files = known.get(name) or known.get(f"{name}/train") or known.get(name.removesuffix("/train"))
    if files is None:
        raise bad_value(key, name, known)
    if len({file.suffix for file in files}) > 1:
        raise UserError(
            f"{key}={name}: {folder} holds it twice: {', '.join(file.name for file in files)}"
        )
    rows = []
    for file in files:
        rows += load_row_file(str(file), "", key)
    return slice_rows(rows, piece, f"{key}={name}")


def load_listed_set(path: str, name: str, piece: str, key: str, path_key: str) -> list[Row]:
    """Rows of one split as `datasets` finds it, on the hub or in a folder."""
    name, _, split = name.partition("/")
    wanted, setting = split or "train", f"{key}={name}{'/' if split else ''}{split}"
    try:
        if Path(path).exists():
            return slice_rows(load_cached_set(path, name, wanted), piece, setting)
        data: Any = datasets.load_dataset(path, name, split=wanted)
        if piece:
            data = data.select(range(*locate_slice(len(data), piece, setting)))
    except (WorldError, UserError):
        raise
    except (ConnectionError, TimeoutError) as error:
        raise unreachable_hub_error(f"{path_key}={path}", error) from error
    except DatasetNotFoundError as error:
        raise UserError(f"{path_key}={path}: no such data set ({first_line(error)})") from error
    except ValueError as error:
        raise_fault(error)
        known_as = f"{name}/{split}" if split else name
        raise UserError(describe_missing_split(error, known_as, key)) from error
    except Exception as error:
        raise_fault(error)
        raise UserError(f"{path_key}={path}: cannot be read ({first_line(error)})") from error
    return [dict(row) for row in data]  # type: ignore[call-overload]


def load_cached_set(path: str, name: str, split: str) -> list[Row]:
    """Rows of a folder's split, through our cache; an entry that cannot be read is made anew."""
    cache = choose_dataset_cache(Path(path))
    with hold_lock(cache):
        is_new = not cache.exists()
        if is_new:
            check_listed_folder(Path(path))
        try:
            return read_cached_set(path, name, split, cache)
        except Exception as error:
            raise_fault(error)
            if is_new:
                raise
        fresh = cache.with_name(f"{cache.name}.new")
        try:
            # What is wrong is the entry if a fresh one is read, else the folder that it is made of.
            rows = read_cached_set(path, name, split, fresh)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        ui.say(f"the cached copy of {path} is damaged: it is made anew", "yellow")
        shutil.rmtree(cache)
        return rows


def check_listed_folder(folder: Path) -> None:
    """Raise ValueError for what a folder may not say, or what would end the process.

    Its README.md names files of the folder, and none elsewhere on the disk or the web. The readers
    of `datasets` crash of JSON that is nested without end; Python's does not, and goes first.
    """
    for word in list_named_files(folder):
        if "://" in word or "::" in word or word.startswith("/") or ".." in Path(word).parts:
            raise ValueError(f"its README.md names {word}, and may name files of the folder only")
    for file in folder.rglob("*"):
        if file.suffix in JSON_ENDINGS and file.is_file():
            check_json_nesting(file)


def list_named_files(folder: Path) -> list[str]:
    """The files and folders that a README.md says sets are made of."""
    front = re.match(r"---\s*\n(.*?)\n---", read_readme(folder), re.DOTALL)
    try:
        card = yaml.safe_load(front[1]) if front else {}
    except (yaml.YAMLError, ValueError, RecursionError):
        return []  # `datasets` says so
    sets = card.get("configs") if isinstance(card, dict) else []
    words: list[str] = []
    nodes: list[Any] = [sets]
    known = set[int]()
    while nodes:
        node = nodes.pop()
        if isinstance(node, str):
            words.append(node)
        elif id(node) not in known:  # an alias stands for what was seen, or for itself
            known.add(id(node))
            nodes += node.values() if isinstance(node, dict) else ()
            nodes += node if isinstance(node, list) else ()
    return words


def check_json_nesting(file: Path) -> None:
    """Raise ValueError for JSON or JSONL that is nested without end; other flaws pass."""
    text = file.read_text(encoding="utf-8", errors="replace")
    for part in (text, *text.split("\n")):
        try:
            json.loads(part)
        except RecursionError as error:
            raise ValueError(f"{file.name}: JSON nested too deep to be read") from error
        except ValueError:
            continue
        if part is text:
            return


def read_cached_set(path: str, name: str, split: str, cache: Path) -> list[Row]:
    """What `datasets` reads of a folder's split; its locks and unfinished folders are removed."""
    try:
        with open_private_umask():
            data = datasets.load_dataset(path, name, split=split, cache_dir=str(cache))
        return [dict(row) for row in data]  # type: ignore[call-overload]
    finally:
        for part in (*cache.rglob("*.lock"), *cache.rglob("*.incomplete")):
            with contextlib.suppress(OSError):
                shutil.rmtree(part) if part.is_dir() else part.unlink()


def choose_dataset_cache(folder: Path) -> Path:
    """The folder where `datasets` caches what it reads of a folder; another when a file changed.

    Its default cache knows a folder by its name and configurations alone, and would give the rows
    of before.
    """
    make_private_folder(locate_in_cache("datasets"))
    cache = locate_in_cache("datasets", hash_folder_state(folder.resolve()))
    note_private(cache)
    return cache


def describe_missing_split(error: ValueError, name: str, key: str) -> str:
    """The line for a configuration or a split that does not exist, with those that do."""
    # Only the text of datasets' error holds the names.
    configuration = name.partition("/")[0]
    _, _, listed = str(error).partition("Available:")
    names = re.findall(r"'([^']+)'", listed)
    if not names:
        _, _, listed = str(error).partition("hould be one of")
        names = [f"{configuration}/{split}" for split in re.findall(r"'([^']+)'", listed)]
        configuration = name
    if not names:
        return f"{key}={name}: {first_line(error)}"
    nearest = suggest_nearest(configuration, names)
    return f"{key}={name}: allowed is one of {', '.join(sorted(names))}{nearest}"


def find_array_splits(folder: Path) -> list[str]:
    """The splits of a folder of arrays in the layout of the public extraction challenge."""
    return [file.name.removesuffix("_prefix.npy") for file in folder.glob("*_prefix.npy")]


def load_array_set(folder: Path, name: str, piece: str, key: str) -> list[Row]:
    """Token ids of `NAME_preprefix.npy` (if it is there), `NAME_prefix.npy` and `NAME_suffix.npy`.

    Each is [N, T]; they are put side by side.
    """
    files = [folder / f"{name}_{part}.npy" for part in ARRAY_PARTS]
    parts = [load_array_part(file, key) for file in files if file.is_file() or file != files[0]]
    if len({len(part) for part in parts}) > 1:
        counts = ", ".join(str(len(part)) for part in parts)
        raise UserError(f"{key}={name}: its arrays in {folder} have {counts} rows")
    rows = [{"input_ids": ids} for ids in np.concatenate(parts, axis=1).tolist()]
    return slice_rows(rows, piece, f"{key}={name}")


def load_array_part(file: Path, key: str) -> Any:
    """The token ids of one of those arrays, [N, T]."""
    if not file.is_file():
        raise UserError(f"{key}={file}: no such file")
    try:
        return read_token_ids(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{key}={file}: no token ids ({first_line(error)})") from error
