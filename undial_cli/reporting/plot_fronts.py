"""The two computations behind the pictures: a Pareto front and a Kolmogorov-Smirnov distance.

Plain numbers in, plain numbers out. Knows no metrics and no runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def find_pareto_front(
    points: Sequence[tuple[float | None, float | None]], better: tuple[str, str]
) -> list[int]:
    """Indices of the points that no other point beats, by rising x.

    A point is beaten by one that is at least as good on both axes and better on one. Of equal
    points all are kept. A point with a missing or infinite coordinate is on no front.

    Args:
        points: (x, y) of each.
        better: `lower` or `higher`, for x and for y.
    """
    x_sign, y_sign = (1 if way == "lower" else -1 for way in better)
    costs = {
        number: (x_sign * x, y_sign * y)
        for number, (x, y) in enumerate(points)
        if x is not None and y is not None and math.isfinite(x) and math.isfinite(y)
    }
    front = [
        number
        for number, (a, b) in costs.items()
        if not any(c <= a and d <= b and (c, d) != (a, b) for c, d in costs.values())
    ]
    return sorted(front, key=lambda number: points[number])


def sort_known_values(values: Sequence[float | None]) -> np.ndarray:
    """The values that are known, sorted; infinite ones are."""
    return np.sort([v for v in values if v is not None and not math.isnan(v)])


def compute_ecdf(values: Sequence[float | None], at: float | np.ndarray) -> np.ndarray:
    """The empirical distribution function: the share of the values at or below each of `at`."""
    ordered = sort_known_values(values)
    return np.searchsorted(ordered, at, side="right") / len(ordered)


def locate_ks_distance(
    first: Sequence[float | None], second: Sequence[float | None]
) -> tuple[float, float] | None:
    """The largest distance of two empirical distribution functions, and the value where it is.

    Returns:
        (distance in 0..1, value), or None where a side has no values. Of several values with
        the same distance it is the lowest.
    """
    if not len(sort_known_values(first)) or not len(sort_known_values(second)):
        return None
    at = np.union1d(sort_known_values(first), sort_known_values(second))
    # rounded: gaps that are the same in exact arithmetic count as the same
    gaps = np.round(np.abs(compute_ecdf(first, at) - compute_ecdf(second, at)), 12)
    return float(gaps.max()), float(at[gaps.argmax()])
