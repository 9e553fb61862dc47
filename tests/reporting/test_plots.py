"""Figures show what they are given: values, gaps, marks, and a legend that names every run."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np

from undial_cli.reporting import plot_lines, plots
from undial_cli.reporting.plot_style import choose_line_styles, save_figure
from undial_cli.reporting.plots import TradeOffPoint

MARKS = {
    "target": {"forget_rouge": 1.0, "retain_rouge": 1.0},
    "retain model": {"forget_rouge": 0.4, "retain_rouge": 0.98},
}


LOSS: list[dict[str, Any]] = [{"step": 1, "loss": 0.9}, {"step": 2, "loss": 0.1}]


def legend_of(figure: Any) -> list[str]:
    """The labels of a figure's legend."""
    return [text.get_text().strip() for text in figure.legends[0].get_texts()]


def ydata(line: Any) -> list[float]:
    return [float(v) for v in line.get_ydata()]


def test_dynamics_draw_each_score_with_gaps_and_the_marks() -> None:
    rows = [
        {"step": 0, "loss": 3.0},
        {"step": 12, "forget_rouge": 0.9, "retain_rouge": 1.0},
        {"step": 24, "forget_rouge": "nan", "retain_rouge": 0.8},
        {"step": 36, "forget_rouge": 0.1, "retain_rouge": None},
    ]
    figure = plot_lines.draw_dynamics({"_a $x$": rows}, ("forget_rouge", "retain_rouge"), MARKS)
    left, right = figure.axes
    drawn = ydata(left.lines[0])
    assert (drawn[0], drawn[2]) == (0.9, 0.1)
    assert math.isnan(drawn[1])
    assert list(left.lines[0].get_xdata()) == [12, 24, 36]
    assert math.isnan(ydata(right.lines[0])[2])
    assert [ydata(line)[0] for line in left.lines[1:]] == [1.0, 0.4]
    assert legend_of(figure) == ["_a \\$x\\$", "target", "retain model"]
    assert "lower is better" in left.get_title("left")


def test_a_line_without_any_number_says_so() -> None:
    figure = plot_lines.draw_dynamics({"npo": [{"step": 1, "loss": "nan"}]}, ["loss"], {})
    assert "no values" in [text.get_text() for text in figure.axes[0].texts]


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


def test_requests_and_grid_hold_their_values() -> None:
    line: plot_lines.Curve = {0: (0.9, None), 1: (0.1, None), 2: (None, None)}
    panel = plot_lines.LinePanel("", "probability", {"request 1": line})
    ticks = {0.0: "start", 1.0: "after 1", 2.0: "after 2"}
    figure = plot_lines.draw_lines([panel], "request served", "answer probability", {}, ticks)
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert ticks == ["start", "after 1", "after 2"]
    assert np.array_equal(ydata(figure.axes[0].lines[0]), [0.9, 0.1, math.nan], equal_nan=True)
    undial: plot_lines.Curve = {10.0: (None, None), 1.0: (0.9, 0.1)}
    undial[3.0] = (0.8, 0.0)
    panels = [
        plot_lines.LinePanel("1e-4", "retain_rouge", {"undial": undial, "ga": {1.0: (0.5, 0.2)}}),
        plot_lines.LinePanel("3e-4", "retain_rouge", {"undial": {1.0: (0.7, math.nan)}}),
    ]
    ticks = {x: f"{x:g}" for x in (1.0, 3.0, 10.0)}
    figure = plot_lines.draw_lines(panels, "steps", "retain ROUGE-L", MARKS, ticks)
    first, second = figure.axes
    assert [axes.get_title("left") for axes in figure.axes] == ["1e-4", "3e-4"]
    assert ydata(first.lines[0])[:2] == [0.9, 0.8]
    assert first.get_xscale() == "log"
    band = first.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0.8, 1.0)
    assert ydata(second.lines[0]) == [0.7]
    assert len(second.lines) == 3  # one method and both marks


def test_a_saved_figure_has_the_same_bytes_each_time(tmp_path: Path) -> None:
    def files(name: str) -> list[bytes]:
        figure = plot_lines.draw_dynamics({"🦜 \x00": LOSS, "b": LOSS}, ["loss"], {})
        return [file.read_bytes() for file in save_figure(figure, tmp_path / name / "loss")]

    first, second = files("a"), files("b")
    assert first == second
    assert first[0].startswith(b"\x89PNG")
    assert b"<svg" in first[1]
    assert b"date" not in first[1]
    assert sorted(f.name for f in (tmp_path / "a").iterdir()) == ["loss.png", "loss.svg"]


def test_the_users_matplotlibrc_changes_nothing() -> None:
    import matplotlib

    with matplotlib.rc_context({"axes.facecolor": "black", "font.size": 30}):
        figure = plot_lines.draw_dynamics({"a": LOSS}, ["loss"], {})
        assert matplotlib.rcParams["font.size"] == 30
    assert figure.axes[0].get_facecolor()[:3] == (1.0, 1.0, 1.0)


def test_eighteen_series_differ_in_colour_or_marker_and_groups_share_a_colour() -> None:
    alone = choose_line_styles([f"run {n}" for n in range(18)])
    assert len({(look["color"], look["marker"]) for look in alone.values()}) == 18
    slow, fast, ga = choose_line_styles(["npo, 1e-4", "npo, 3e-4", "ga, 1e-4"]).values()
    assert slow["color"] == fast["color"] != ga["color"]
    assert slow["ls"] != fast["ls"]
