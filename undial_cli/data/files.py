"""Files of rows: JSON, JSONL, CSV, Parquet, text, arrays of token ids, folders of `save_to_disk`.

Read as they are: no column's type is guessed from its cells, and rows may differ in their columns.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from undial_cli.data.rows import Row
from undial_cli.errors import UserError, bad_value, first_line, suggest_nearest
from undial_cli.system.faults import raise_fault
from undial_cli.system.files import parse_json

# The csv module refuses cells of more than 128 KB unless told otherwise; a document is longer.
LONGEST_CELL = 2**31 - 1
# Characters of the line by which JSON lines are known.
LONGEST_LINE = 2**26


def load_row_file(name: str, piece: str, key: str) -> list[Row]:
    """The rows of a file, those that a slice takes; of a folder of `save_to_disk` as well.

    Args:
        piece: `[a:b]`, or "" for all.
    """
    path = Path(name).expanduser()
    try:
        path.exists()
    except OSError as error:  # a name of more letters than a file system takes
        raise UserError(f"{key}={name[:60]}...: {os.strerror(error.errno or 0)}") from error
    if is_saved_dataset(path):
        return slice_rows(load_saved_dataset(path, "", key), piece, f"{key}={name}")
    if not path.is_file():
        raise UserError(f"{key}={name}: {describe_no_file(path)}")
    if path.suffix.lower() not in FILE_READERS:
        raise UserError(f"{key}={name}: allowed are files ending in {', '.join(FILE_READERS)}")
    if path.stat().st_size == 0:
        raise UserError(f"{key}={name}: the file is empty")
    kind, read = FILE_READERS[path.suffix.lower()]
    try:
        rows = read(path)
    except Exception as error:
        raise_fault(error)
        raise UserError(f"{key}={name}: cannot be read as {kind} ({first_line(error)})") from error
    return slice_rows(rows, piece, f"{key}={name}")


def describe_no_file(path: Path) -> str:
    """What a path is that is no file; a pipe or a device would be read without end."""
    if path.is_dir():
        return f"a folder; allowed is a file ({', '.join(FILE_READERS)})"
    if path.exists():
        return f"a device or a pipe; allowed is a file ({', '.join(FILE_READERS)})"
    if path.is_symlink():
        return f"a link to {path.readlink()}, which is not there"
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    return f"no such file{suggest_nearest(path.name, siblings)}"


def slice_rows(rows: list[Row], piece: str, setting: str) -> list[Row]:
    """The rows that a slice takes; `setting` is what errors name."""
    if not piece:
        return rows
    first, last = locate_slice(len(rows), piece, setting)
    return rows[first:last]


def locate_slice(count: int, piece: str, setting: str) -> tuple[int, int]:
    """The first row that a slice takes of so many and the one after its last."""
    try:
        # As `datasets` slices, percent and negative bounds included.
        instruction = datasets.ReadInstruction.from_spec(f"train{piece}")
        (taken,) = instruction.to_absolute({"train": count})
    except ValueError as error:
        raise UserError(f"{setting}{piece}: {first_line(error)}") from error
    if taken.to <= taken.from_:
        raise UserError(f"{setting}{piece}: this slice takes none of the {count:,} rows")
    return taken.from_, taken.to


def read_json_rows(path: Path) -> list[Row]:
    """The rows of a list of objects, an object a line, or the one list that an object holds."""
    text = read_text_file(path)
    try:
        content = parse_json(text)
    except ValueError:
        if text.lstrip().startswith("["):  # a broken list, of which no line is JSON
            raise
        content = parse_json_lines(text)
    if isinstance(content, dict):
        content = find_object_rows(content)
    if not isinstance(content, list):
        raise ValueError("expected objects, one a line or in a list")
    for number, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is no object of columns")
    return content


def is_jsonl_of_size(path: Path, least: int) -> bool:
    """Whether a file of `least` bytes or more is JSON lines, by its name and its first two lines.

    JSON over several lines, and a list in one, may have the same name.
    """
    try:
        if path.suffix.lower() != ".jsonl" or not path.is_file() or path.stat().st_size < least:
            return False
        with open(path, encoding="utf-8-sig") as stream:
            lines = iter(lambda: stream.readline(LONGEST_LINE), "")
            first, second = itertools.islice(filter(str.strip, lines), 2)
            return isinstance(parse_json(first), dict) and bool(second)
    except (OSError, ValueError):
        return False


def count_filled_lines(path: Path) -> int:
    """How many lines of a UTF-8 file hold something.

    Raises:
        ValueError: it is in another encoding.
    """
    check_text_encoding(path)
    with open(path, encoding="utf-8-sig") as lines:
        return sum(not line.isspace() for line in lines)


def iterate_json_lines(path: Path) -> Iterator[Row]:
    """The rows of JSON lines, one at a time, as `read_json_rows` reads them.

    Raises:
        ValueError: a line is no object, or none of UTF-8.
    """
    check_text_encoding(path)
    count = 0
    with open(path, encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.isspace():
                count += 1
                row = parse_json_line(line, number)
                if not isinstance(row, dict):
                    raise ValueError(f"row {count} is no object of columns")
                yield row


def check_text_encoding(path: Path) -> None:
    """Raise ValueError, as `read_text_file` does, for a file that is not UTF-8."""
    with open(path, "rb") as lines:
        for line in lines:
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                read_text_file(path)


def read_text_file(path: Path, newline: str | None = None) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; line ends as `open` has them.

    Raises:
        ValueError: it is in another encoding; the line is named.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        kind = "UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "not UTF-8"
        raise ValueError(
            f"line {number}: {kind}; save it as UTF-8, as by iconv -f LATIN1 -t UTF-8"
            if kind == "not UTF-8"
            else f"{kind}; save it as UTF-8, as by iconv -f UTF-16 -t UTF-8"
        ) from error
    return io.StringIO(text, newline=newline).getvalue()


def parse_json_lines(text: str) -> list[Any]:
    values = []
    # Not splitlines(): JSON strings may hold the other line separators of Unicode as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            values.append(parse_json_line(line, number))
    return values


def parse_json_line(line: str, number: int) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {first_line(error)}") from error


def find_object_rows(content: Row) -> list[Row]:
    """The rows of a file that is one object: the list of objects in it, else the object itself."""
    lists = {
        name: rows
        for name, rows in content.items()
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)
    }
    if not lists or lists.keys() & {"messages", "conversations", "prompt", "completion"}:
        return [content]
    if len(lists) > 1:
        raise ValueError(
            f"it holds several lists: {', '.join(lists)}; allowed is one: save the one to be read "
            "as a file of its own"
        )
    return next(iter(lists.values()))


def read_csv_rows(path: Path) -> list[Row]:
    """Rows whose cells are the text they are ("007", "1.50", "NA")."""
    csv.field_size_limit(LONGEST_CELL)
    text = io.StringIO(read_text_file(path, newline=""), newline="")
    lines = (line for line in csv.reader(text, strict=True) if line)
    header = next(lines, [])
    names = [name or f"Unnamed: {i}" for i, name in enumerate(header)]
    if len(set(names)) < len(names):
        raise ValueError(f"two columns have one name: {', '.join(names)}")
    rows = []
    for number, cells in enumerate(lines, 1):
        if len(cells) > len(names):
            raise ValueError(f"row {number} has {len(cells)} cells for {len(names)} columns")
        # A line may end early: the columns that are missing are empty, as in pandas.
        rows.append(dict.fromkeys(names, "") | dict(zip(names, cells, strict=False)))
    return rows


def read_parquet_rows(path: Path) -> list[Row]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


def read_text_rows(path: Path) -> list[Row]:
    text = read_text_file(path)
    return [{"text": text}] if text.strip() else []


def read_array_rows(path: Path) -> list[Row]:
    return [{"input_ids": row} for row in read_token_ids(path).tolist()]


def read_token_ids(path: Path) -> NDArray[Any]:
    """The token ids of a .npy file, [N, T].

    Raises:
        ValueError: the array is no such thing.
    """
    ids, flaw = None, ""
    try:
        # Mapped, no header takes memory that the file has not, and nothing is unpickled.
        with np.errstate(over="ignore"):
            ids = np.lib.format.open_memmap(path, mode="r")
    except (OverflowError, TypeError, MemoryError, RecursionError) as error:
        flaw = first_line(error)
    if ids is None:  # not within the other error: it is the file's fault and not the machine's
        raise ValueError(f"its header is none of an array ({flaw})")
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise ValueError(f"expected whole numbers in 2 dimensions, found {ids.dtype} in {ids.ndim}")
    return np.array(ids)


# By a file's ending: what it is called in an error, and how it is read.
FILE_READERS: dict[str, tuple[str, Callable[[Path], list[Row]]]] = {
    ".jsonl": ("json", read_json_rows),
    ".json": ("json", read_json_rows),
    ".csv": ("csv", read_csv_rows),
    ".parquet": ("parquet", read_parquet_rows),
    ".txt": ("text", read_text_rows),
    ".npy": ("token ids", read_array_rows),
}


def is_saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`, as one set or as several splits."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def load_saved_dataset(folder: Path, split: str, key: str) -> list[Row]:
    """The rows of a folder of `save_to_disk`.

    Args:
        split: of a folder of several; "" means `train`, or the only one.
    """
    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:
        raise UserError(f"{key}={folder}: cannot be read ({first_line(error)})") from error
    if isinstance(data, datasets.DatasetDict):
        names = [str(name) for name in data]
        split = split or (names[0] if len(names) == 1 else "train")
        if split not in data:
            raise bad_value(key, f"{folder}/{split}", [f"{folder}/{name}" for name in names])
        data = data[split]
    return [dict(row) for row in data]  # type: ignore[call-overload]
