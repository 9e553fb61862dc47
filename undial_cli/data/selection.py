"""Which rows of a set are taken: those whose columns hold what is asked for.

Knows neither files nor tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from undial_cli.data.rows import Row
from undial_cli.errors import UserError, bad_value, suggest_nearest


def select_rows(
    rows: Sequence[Row], where: Mapping[str, Any], source: str, key: str
) -> Sequence[Row]:
    """The rows that have one of the values asked for in each column.

    Args:
        where: by column, a value or a list of them, in which `*` stands for any text, or {not:
            these} for all others; None for any.
        source: the key of the rows and `key`: that of `where`, for messages.

    Raises:
        UserError: a row has no such column, or no row is left. Values are not named: they may be
            persons.
    """
    for column, wanted in where.items():
        if wanted is None:
            continue
        pattern, others = read_wanted_values(wanted, f"{key}.{column}")
        for number, row in enumerate(rows, 1):
            if column not in row:
                raise UserError(
                    f"{key}.{column}: {source}: row {number} has no column '{column}'; its columns "
                    f"are {', '.join(row)}{suggest_nearest(column, row)}"
                )
        taken = [row for row in rows if others ^ bool(pattern.fullmatch(str(row[column])))]
        if not taken:
            different = len({str(row[column]) for row in rows})
            raise UserError(
                f"{key}.{column}={wanted}: {source}: none of {len(rows)} rows has this value; the "
                f"column holds {different} others"
            )
        rows = taken
    return rows


def read_wanted_values(wanted: Any, key: str) -> tuple[re.Pattern[str], bool]:
    """A pattern of the cells that hold one of some values, and whether all others are taken.

    Raises:
        UserError: they are no such values.
    """
    others = isinstance(wanted, dict) and list(wanted) == ["not"]
    given = wanted["not"] if others else wanted
    values = given if isinstance(given, list) else [given]
    if not values or not all(isinstance(value, str | int | float) for value in values):
        raise bad_value(key, wanted, "a text or number, a list of them, or {not: these}")
    patterns = (".*".join(map(re.escape, str(value).split("*"))) for value in values)
    return re.compile("|".join(patterns), re.DOTALL), others
