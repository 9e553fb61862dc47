"""Lines show what they are given: values, gaps, bands, marks and ticks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from drawn import LOSS, MARKS, legend_of, ydata

from undial_cli.reporting import plot_lines


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


def test_a_long_line_is_thinned_and_keeps_its_ends() -> None:
    rows = [{"step": n, "loss": float(n)} for n in range(5001)]
    (line,) = plot_lines.draw_dynamics({"a": rows}, ["loss"], {}).axes[0].lines
    steps = list(line.get_xdata())
    assert (steps[0], steps[-1]) == (0, 5000)
    assert 500 <= len(steps) <= plot_lines.MOST_POINTS + 1


def test_a_row_without_the_score_or_a_step_is_no_point() -> None:
    rows = [{"step": 1, "loss": 2.0}, {"loss": 3.0}, {"step": "x", "loss": 4.0}, {"step": 2}]
    (line,) = plot_lines.draw_dynamics({"a": rows}, ["loss"], {}).axes[0].lines
    assert (list(line.get_xdata()), ydata(line)) == ([1], [2.0])


def test_one_line_needs_no_legend_and_two_have_one() -> None:
    assert not plot_lines.draw_dynamics({"a": LOSS}, ["loss"], {}).legends
    assert legend_of(plot_lines.draw_dynamics({"a": LOSS, "b": LOSS}, ["loss"], {})) == ["a", "b"]


@pytest.mark.parametrize(("count", "shown", "hidden"), [(1, 1, 0), (3, 3, 0), (4, 4, 2)])
def test_at_most_three_panels_stand_next_to_each_other(count: int, shown: int, hidden: int) -> None:
    panels = [
        plot_lines.LinePanel(f"p{n}", "loss", {"a": {1.0: (1.0, None)}}) for n in range(count)
    ]
    figure = plot_lines.draw_lines(panels, "steps", "loss", {})
    visible = [axes.get_visible() for axes in figure.axes]
    assert (visible.count(True), visible.count(False)) == (shown, hidden)


def test_shares_have_the_whole_scale_and_what_asks_for_it_a_logarithmic_one() -> None:
    def scale(metric: str, value: float) -> tuple[str, tuple[float, float]]:
        panel = plot_lines.LinePanel(
            "", metric, {"a": {1.0: (value, None), 2.0: (value / 2, None)}}
        )
        axes = plot_lines.draw_lines([panel], "x", "y", {}).axes[0]
        return axes.get_yscale(), axes.get_ylim()

    assert scale("forget_rouge", 0.9) == ("linear", (-0.04, 1.06))
    assert scale("forget_rouge", 0.1)[1] != (-0.04, 1.06)
    assert scale("news_perplexity", 30.0)[0] == "log"
    assert scale("news_perplexity", 0.0)[0] == "linear"


def test_ticks_of_a_wide_span_stand_on_a_logarithmic_axis() -> None:
    panel = plot_lines.LinePanel("", "loss", {"a": {1.0: (1.0, None)}})
    for ticks, scale in (({1.0: "1", 8.0: "8"}, "log"), ({1.0: "1", 7.0: "7"}, "linear"),
                         ({0.0: "start", 9.0: "9"}, "linear")):  # fmt: skip
        axes = plot_lines.draw_lines([panel], "x", "y", {}, ticks).axes[0]
        assert axes.get_xscale() == scale
        assert [tick.get_text() for tick in axes.get_xticklabels()] == list(ticks.values())
