"""Names of splits and the slices they may carry. Loads nothing."""

from __future__ import annotations

import re

SPLIT_SLICE = re.compile(r"\[-?\d*%?:-?\d*%?\]")


def cut_slice(split: str) -> tuple[str, str]:
    """A split as (name, slice); a suffix may follow the slice: `forget10[:20]_perturbed`."""
    match = SPLIT_SLICE.search(split)
    return (SPLIT_SLICE.sub("", split, count=1), match.group()) if match else (split, "")


def list_splits(value: str | list[str] | None) -> list[str]:
    """The splits or files that a key names: none, one, or several that make one set."""
    return [value] if isinstance(value, str) else list(value or [])


def find_first_row(split: str) -> int | None:
    """The row of a split that its slice begins with; None where that is not known from its name."""
    start = cut_slice(split)[1].strip("[]").partition(":")[0]
    return int(start or 0) if start.isdecimal() or not start else None
