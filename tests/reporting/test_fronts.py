"""The Pareto front against cases worked by hand, the KS distance against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from undial_cli.reporting.plots import (
    compute_ecdf,
    find_pareto_front,
    locate_ks_distance,
    sort_known_values,
)

#      forget  retain
HAND = [
    (0.10, 0.20),  # 0: on the front, forgets most
    (0.30, 0.90),  # 1: on the front
    (0.35, 0.90),  # 2: beaten by 1 (same retain, forgets less)
    (0.20, 0.20),  # 3: beaten by 0
    (0.90, 0.95),  # 4: on the front, keeps most
    (0.50, 0.60),  # 5: beaten by 1
]


def test_front_of_the_hand_worked_case() -> None:
    assert find_pareto_front(HAND, ("lower", "higher")) == [0, 1, 4]


@pytest.mark.parametrize(
    ("better", "front"),
    [(("higher", "higher"), [4]), (("lower", "lower"), [0]), (("higher", "lower"), [3, 5, 4])],
)
def test_front_in_other_directions(better: tuple[str, str], front: list[int]) -> None:
    assert find_pareto_front(HAND, better) == front


def test_equal_points_are_all_kept_and_missing_ones_are_on_no_front() -> None:
    points = [(0.1, 0.5), (0.1, 0.5), (None, 1.0), (math.nan, 1.0), (0.0, math.inf), (0.2, 0.4)]
    assert find_pareto_front(points, ("lower", "higher")) == [0, 1]
    assert find_pareto_front([], ("lower", "higher")) == []


def test_front_is_what_nobody_beats_by_brute_force() -> None:
    points = [tuple(p) for p in np.random.default_rng(0).integers(0, 6, (40, 2)).tolist()]
    kept = [
        n
        for n, (x, y) in enumerate(points)
        if not any(a <= x and b >= y and (a, b) != (x, y) for a, b in points)
    ]
    assert sorted(find_pareto_front(points, ("lower", "higher"))) == kept


@pytest.mark.parametrize("seed", range(5))
def test_ks_distance_and_its_place_are_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1, 23), rng.normal(0.4, 1.3, 31)
    if seed % 2:
        a, b = np.round(a, 1), np.round(b, 1)  # with ties
    found = locate_ks_distance(a.tolist(), b.tolist())
    theirs = stats.ks_2samp(a, b)
    assert found is not None
    assert found[0] == pytest.approx(theirs.statistic)
    gap = abs(compute_ecdf(a.tolist(), found[1]) - compute_ecdf(b.tolist(), found[1]))
    assert gap == pytest.approx(theirs.statistic)


def test_ks_distance_by_hand_and_without_values() -> None:
    assert locate_ks_distance([1, 2, 3, 4], [3, 4, 5, 6]) == (0.5, 2)
    assert locate_ks_distance([1.0], [1.0]) == (0.0, 1.0)
    assert locate_ks_distance([None, math.nan], [1.0]) is None
    assert locate_ks_distance([-math.inf, 0.0], [0.0, math.inf]) == (0.5, -math.inf)
    assert sort_known_values([2.0, None, 1.0, math.nan]).tolist() == [1.0, 2.0]
    assert compute_ecdf([2.0, None, 1.0, math.nan], np.array([0.0, 1.0, 2.0])).tolist() == [
        0.0,
        0.5,
        1.0,
    ]
