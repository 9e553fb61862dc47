"""Trade-offs, heat maps and distributions; the front by hand, the KS distance against scipy."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from drawn import MARKS, legend_of, texts_of, ydata
from scipy import stats

from undial_cli.reporting import plots
from undial_cli.reporting.plots import (
    TradeOffPoint,
    compute_ecdf,
    find_pareto_front,
    locate_ks_distance,
    sort_known_values,
)


def test_trade_off_draws_the_front_and_leaves_failed_runs_out() -> None:
    points = [
        TradeOffPoint("undial", 0.3, 0.9, "undial"),
        TradeOffPoint("npo", 0.1, 0.2, "npo"),
        TradeOffPoint("ga", 0.5, 0.1, "ga"),
        TradeOffPoint("diverged", math.nan, 0.5, "undial"),
    ]
    figure = plots.draw_trade_off(
        points, "forget_rouge", "retain_rouge", ("lower", "higher"), MARKS
    )
    axes = figure.axes[0]
    front = axes.lines[5]
    assert list(zip(front.get_xdata(), front.get_ydata(), strict=True)) == [(0.1, 0.2), (0.3, 0.9)]
    assert front.get_drawstyle() == "steps-post"
    assert legend_of(figure) == ["undial", "npo", "ga", "target", "retain model", "Pareto front"]
    assert [(line.get_xdata()[0], ydata(line)[0]) for line in axes.lines[:3]] == [
        (0.3, 0.9), (0.1, 0.2), (0.5, 0.1),
    ]  # fmt: skip
    assert [(line.get_xdata()[0], ydata(line)[0]) for line in axes.lines[3:5]] == [
        (1.0, 1.0), (0.4, 0.98),
    ]  # fmt: skip


def test_trade_off_of_one_run_and_of_none() -> None:
    one = plots.draw_trade_off([TradeOffPoint("a", 0.2, 0.3, "a")], "forget_rouge", "retain_rouge",
                          ("lower", "higher"), {})  # fmt: skip
    assert legend_of(one) == ["a", "Pareto front"]
    low, high = one.axes[0].get_xlim()
    assert low < 0.2 < high
    none = plots.draw_trade_off([], "forget_rouge", "retain_rouge", ("lower", "higher"), {})
    assert "no values" in [text.get_text() for text in none.axes[0].texts]


def test_the_legend_of_a_crowd_names_the_front_and_the_groups_inside_the_picture() -> None:
    chance = random.Random(3)
    points = [
        TradeOffPoint(
            f"g{n % 3}, run {n}", 0.1 + 0.5 * chance.random(), 0.8 * chance.random(), f"g{n % 3}"
        )
        for n in range(60)
    ]
    points += [
        TradeOffPoint("g0, first", 0.0, 0.9, "g0"),
        TradeOffPoint("g1, best", 0.05, 1.0, "g1"),
    ]
    figure = plots.draw_trade_off(
        points, "forget_rouge", "retain_rouge", ("lower", "higher"), MARKS
    )
    assert legend_of(figure) == [
        "g0", "g1", "g2", "g0, first", "g1, best", "target", "retain model", "Pareto front",
    ]  # fmt: skip
    assert len(figure.axes[0].lines) == 62 + 3
    named = dict(zip(legend_of(figure), figure.legends[0].legend_handles, strict=True))
    assert named["g0"].get_color() == named["g0, first"].get_color() != named["g1"].get_color()
    assert named["g0"].get_marker() != named["g0, first"].get_marker()
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    panel = figure.axes[0].get_tightbbox()
    assert panel is not None
    assert 0 <= box.y0 < box.y1 <= panel.y0
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_heat_map_hatches_what_is_missing_and_writes_the_rest() -> None:
    figure = plots.draw_heat_map(
        ["3", "10"], ["1e-5", "1e-4"], [[0.1, None], [math.nan, 0.9]], "retain"
    )
    axes = figure.axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["0.100", "0.900"]
    image = axes.images[0].get_array()
    assert image is not None
    assert np.ma.getmaskarray(image).tolist() == [[False, True], [True, False]]
    assert axes.patch.get_hatch()  # seen where the image has no colour
    assert [t.get_text() for t in axes.get_yticklabels()] == ["3", "10"]
    alone = plots.draw_heat_map(["a"], ["b"], [[None]], "nothing")
    assert not alone.axes[0].texts


def test_distribution_marks_the_ks_distance_to_the_retain_model() -> None:
    after, retain = [0.1, 0.2, 0.3, 0.4], [0.3, 0.4, 0.5, 0.6]
    figure = plots.draw_distributions(
        {"before": [0.9, 1.0], "after": after, "retain model": retain}, "forget_probability"
    )
    axes = figure.axes[0]
    assert axes.get_title("left") == "↕ KS distance, after to retain model: 0.50"
    (arrow,) = axes.texts
    assert arrow.xy == (0.2, 0.0)
    assert arrow.xyann == (0.2, 0.5)
    without = plots.draw_distributions({"before": [0.9, 1.0], "after": after}, "forget_probability")
    assert without.axes[0].get_title("left") == "↕ KS distance, after to before: 1.00"
    curve = dict(zip(*axes.lines[1].get_data(), strict=True))
    assert (curve[0.1], curve[0.4]) == (0.25, 1.0)


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


def test_many_columns_of_a_heat_map_have_turned_labels() -> None:
    few = plots.draw_heat_map(["a"], ["1e-4", "3e-4"], [[0.1, 0.2]], "x")
    many = plots.draw_heat_map(["a"], ["a long label"] * 9, [[0.1] * 9], "x")
    for figure, angle in ((few, 0), (many, 90)):
        assert {label.get_rotation() for label in figure.axes[0].get_xticklabels()} == {angle}


def test_a_trade_off_of_perplexities_is_logarithmic_where_all_are_positive() -> None:
    def scales(y: float) -> tuple[str, str]:
        points = [TradeOffPoint("a", 0.1, 20.0, "a"), TradeOffPoint("b", 0.2, y, "b")]
        axes = plots.draw_trade_off(
            points, "forget_rouge", "news_perplexity", ("lower", "lower"), {}
        ).axes[0]
        return axes.get_xscale(), axes.get_yscale()

    assert scales(300.0) == ("linear", "log")
    assert scales(0.0) == ("linear", "linear")


def test_distributions_of_many_runs_have_no_arrow_and_empty_ones_no_line() -> None:
    curves = {"npo": [0.1, 0.2], "ga": [0.3], "gone": [], "nan": [None, math.nan]}
    figure = plots.draw_distributions(curves, "forget_probability")
    assert legend_of(figure) == ["npo (n = 2)", "ga (n = 1)"]
    assert texts_of(figure) == []
    nothing = plots.draw_distributions({"after": []}, "forget_probability")
    assert texts_of(nothing) == ["no values"]


def test_a_log_truth_ratio_says_what_above_zero_means() -> None:
    figure = plots.draw_distributions({"after": [0.1, 0.2]}, "forget_log_truth_ratio")
    assert figure.axes[0].get_xlabel().endswith("(above 0: a false answer is likelier)")
