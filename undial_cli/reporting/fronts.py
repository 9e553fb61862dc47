"""The two computations behind the pictures: a Pareto front and a Kolmogorov-Smirnov distance.

Plain numbers in, plain numbers out. Knows no metrics and no runs.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence


def pareto_front(
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


def cumulative(values: Sequence[float | None]) -> tuple[list[float], list[float]]:
    """The empirical distribution function: sorted values, and the share at or below each.

    Values that are missing or NaN are left out of both; infinite ones count in the shares.
    """
    ordered = sorted(v for v in values if v is not None and not math.isnan(v))
    return ordered, [(n + 1) / len(ordered) for n in range(len(ordered))]


def share(values: Sequence[float | None], at: float) -> float:
    """The empirical distribution function of `values` at a number."""
    ordered = cumulative(values)[0]
    return bisect_right(ordered, at) / len(ordered)


def ks_distance(
    first: Sequence[float | None], second: Sequence[float | None]
) -> tuple[float, float] | None:
    """The largest distance of two empirical distribution functions, and the value where it is.

    Returns:
        (distance in 0..1, value), or None where a side has no values. Of several values with
        the same distance it is the lowest.
    """
    a, b = cumulative(first)[0], cumulative(second)[0]
    if not a or not b:
        return None
    # rounded: two gaps that are the same in exact arithmetic count as the same
    gaps = {
        value: round(abs(bisect_right(a, value) / len(a) - bisect_right(b, value) / len(b)), 12)
        for value in sorted({*a, *b})
    }
    value = max(gaps, key=lambda v: gaps[v])
    return gaps[value], value
