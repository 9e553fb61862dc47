"""The two computations behind the pictures: a Pareto front and a Kolmogorov-Smirnov distance.

Plain numbers in, plain numbers out. Knows no metrics and no runs.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

Pair = tuple[float, float]


def pareto_front(points: Sequence[tuple[float | None, float | None]], better: tuple[str, str]):
    """Indices of the points that no other point beats, by rising x.

    A point is beaten by one that is at least as good on both axes and better on one. Of equal
    points all are kept. A point with a missing or infinite coordinate is on no front.

    Args:
        points: (x, y) of each.
        better: `lower` or `higher`, for x and for y.
    """
    signs = [1.0 if way == "lower" else -1.0 for way in better]
    costs: list[tuple[Pair, int]] = []
    for place, (x, y) in enumerate(points):
        if x is not None and y is not None and math.isfinite(x) and math.isfinite(y):
            costs.append(((signs[0] * x, signs[1] * y), place))
    front: list[int] = []
    for (a, b), place in costs:
        beaten = any(c <= a and d <= b and (c < a or d < b) for (c, d), _ in costs)
        if not beaten:
            front.append(place)
    return sorted(front, key=lambda place: (points[place][0], points[place][1]))


def cumulative(values: Sequence[float | None]) -> tuple[list[float], list[float]]:
    """The empirical distribution function: sorted values, and the share at or below each.

    Values that are missing or NaN are left out of both; infinite ones count in the shares.
    """
    ordered = sorted(v for v in values if v is not None and not math.isnan(v))
    return ordered, [(n + 1) / len(ordered) for n in range(len(ordered))]


def ks_distance(
    first: Sequence[float | None], second: Sequence[float | None]
) -> tuple[float, float] | None:
    """The largest distance of two empirical distribution functions, and the value where it is.

    Returns:
        (distance in 0..1, value), or None where a side has no values. Of several places with
        the same distance it is the lowest value.
    """
    a, b = cumulative(first)[0], cumulative(second)[0]
    if not a or not b:
        return None
    best, where = -1.0, a[0]
    for value in sorted({*a, *b}):
        gap = abs(bisect_right(a, value) / len(a) - bisect_right(b, value) / len(b))
        if gap > best + 1e-12:
            best, where = gap, value
    return best, where


def share(values: Sequence[float | None], at: float) -> float:
    """The empirical distribution function of `values` at a place."""
    ordered = cumulative(values)[0]
    return bisect_right(ordered, at) / len(ordered)
