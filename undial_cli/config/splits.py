"""Names of splits and the slices they may carry. Loads nothing."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from undial_cli.config.datasets import DataConfig

SPLIT_SLICE = re.compile(r"\[-?\d*%?:-?\d*%?\]")


def cut_slice(split: str) -> tuple[str, str]:
    """A split as (name, slice); a suffix may follow the slice: `forget10[:20]_perturbed`."""
    match = SPLIT_SLICE.search(split)
    return (SPLIT_SLICE.sub("", split, count=1), match.group()) if match else (split, "")


def list_splits(value: str | list[str] | None) -> list[str]:
    """The splits or files that a key names: none, one, or several that make one set."""
    return [value] if isinstance(value, str) else list(value or [])


def name_data_key(data: DataConfig, name: str) -> str:
    """The key of a training set: of its split, or of its file where there is no path."""
    return f"data.{name}_{'split' if data.path is not None else 'file'}"


def name_training_set(data: DataConfig, name: str) -> str:
    """A training set as errors name it."""
    key = name_data_key(data, name)
    return f"{key}={','.join(list_splits(getattr(data, key.removeprefix('data.'))))}"


def find_first_row(split: str) -> int | None:
    """The row of a split that its slice begins with; None where that is not known from its name."""
    start = cut_slice(split)[1].strip("[]").partition(":")[0]
    return int(start or 0) if start.isdecimal() or not start else None
