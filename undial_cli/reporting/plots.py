"""Plots of runs against each other (trade-off, heat map) and of how scores are spread.

Plain data in, a matplotlib Figure out, as it stands in print. What is missing (None, NaN) leaves a
hatched cell or no point. Knows no run folders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from undial_cli.evaluation.figures import find_figure_title
from undial_cli.reporting import plot_style
from undial_cli.reporting.plot_style import FAINT, INK, PAPER, Marks, escape_label, to_float_array
from undial_cli.reporting.text import format_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LABELLED = 20  # points of a trade-off that each have an entry in the legend


@dataclass(frozen=True)
class TradeOffPoint:
    """One run on the trade-off: label, figures (NaN: missing), and the group (method) it is of."""

    label: str
    x: float
    y: float
    group: str


def draw_trade_off(
    points: Sequence[TradeOffPoint], x: str, y: str, better: tuple[str, str], marks: Marks
) -> Figure:
    """Two metrics of many runs against each other, with the Pareto front; a legend names them.

    In a crowd only the runs on the front have an entry of their own, the others their group's.

    Args:
        x, y: the metrics' names; better: `lower` or `higher`, for x and y.
        marks: {"target": {x: value, y: value}, ...}, drawn as stars. They are on no front.
    """
    with plot_style.use_plot_style():
        figure, (axes,) = plot_style.make_blank_figure(plot_style.PAGE_WIDTH, 3.5)
        shown = [p for p in points if math.isfinite(p.x) and math.isfinite(p.y)]
        on_front = find_pareto_front([(p.x, p.y) for p in shown], better)
        labels = [
            point.label if len(shown) <= MOST_LABELLED or number in on_front else point.group
            for number, point in enumerate(shown)
        ]
        styles = plot_style.choose_line_styles(list(dict.fromkeys(labels)))
        spots = [(label, p.x, p.y, styles[label]) for label, p in zip(labels, shown, strict=True)]
        for marker, (label, figures) in zip(plot_style.MARK_MARKERS, marks.items(), strict=False):
            a, b = to_float_array([figures.get(x), figures.get(y)])
            if math.isfinite(a) and math.isfinite(b):
                spots.append((label, a, b, {"color": INK, "marker": marker, "ms": 11}))
        handles: dict[str, Any] = {}
        for label, a, b, style in spots:
            look = {"ms": 7, "mec": PAPER, **style, "ls": "none"}
            (handles[label],) = axes.plot([a], [b], **look)
        if shown:
            # between two runs of the front nothing was reached: steps, no slanted line
            steps = "steps-post" if better[0] == "lower" else "steps-pre"
            xs, ys = zip(*((shown[number].x, shown[number].y) for number in on_front), strict=True)
            (handles["Pareto front"],) = axes.plot(
                xs, ys, color=FAINT, lw=1.2, zorder=1, drawstyle=steps
            )
        else:
            plot_style.draw_no_values(axes)
        axes.margins(0.08)
        axes.set_xlabel(plot_style.make_axis_title(x, better[0]))
        axes.set_ylabel(plot_style.make_axis_title(y, better[1]))
        if plot_style.has_log_axis(x, [a for _, a, _, _ in spots]):
            axes.set_xscale("log")
        if plot_style.has_log_axis(y, [b for _, _, b, _ in spots]):
            axes.set_yscale("log")
        axes.grid()
        plot_style.add_legend(figure, handles)
        return figure


def draw_heat_map(
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    title: str,
    row_name: str = "",
    column_name: str = "",
) -> Figure:
    """A figure per cell, in colour and as text; a cell without one is hatched.

    Args:
        values: [rows][columns]; title: what the figures are, in words.
        row_name, column_name: what rows and columns are.
    """
    with plot_style.use_plot_style():
        width = min(plot_style.PAGE_WIDTH, 2.6 + 0.85 * len(columns))
        figure, (axes,) = plot_style.make_blank_figure(width, 1.0 + 0.42 * len(rows))
        table = np.stack(list(map(to_float_array, values)))
        axes.patch.set(hatch="////", edgecolor=FAINT)  # shows where the image has no colour
        figure.colorbar(axes.imshow(table, cmap="cividis", aspect="auto"), ax=axes)
        centred: dict[str, Any] = {"ha": "center", "va": "center"}
        paper = {"facecolor": PAPER, "edgecolor": "none", "pad": 1}  # dark text on a dark colour
        for (row, column), value in np.ndenumerate(table):
            if not math.isnan(value):
                axes.text(column, row, format_figure(value), bbox=paper, **centred)
        crowded = sum(map(len, columns)) > 11 * width
        angle = 90 if crowded else 0
        axes.set_xticks(range(len(columns)), list(map(escape_label, columns)), rotation=angle)
        axes.set_yticks(range(len(rows)), list(map(escape_label, rows)))
        axes.set_title(escape_label(title))
        axes.set(xlabel=escape_label(column_name), ylabel=escape_label(row_name))
        return figure


def draw_distributions(curves: Mapping[str, Sequence[float | None]], name: str) -> Figure:
    """How a score is spread over samples: empirical distribution functions.

    Of one run ("before", "after", "retain model") the Kolmogorov-Smirnov distance after unlearning
    is marked: to the retain model, or to before where there is none.

    Args:
        curves: label -> scores of its samples; one without any is left out.
        name: the score's name.
    """
    with plot_style.use_plot_style():
        figure, (axes,) = plot_style.make_blank_figure(plot_style.PAGE_WIDTH, 2.9)
        known = {k: sort_known_values(values) for k, values in curves.items()}
        scores = {label: values for label, values in known.items() if len(values)}
        styles: dict[str, Any] = plot_style.choose_line_styles(list(scores)) | {
            "before": {"color": FAINT, "ls": "-"},
            "after": {"color": plot_style.COLOURS[1], "ls": "-"},
            "retain model": {"color": INK, "ls": plot_style.MARK_DASHES[0]},
        }
        handles = {
            f"{label} (n = {len(values)})": axes.ecdf(values, **styles[label] | {"marker": ""})
            for label, values in scores.items()
        }
        if not scores:
            plot_style.draw_no_values(axes)
        elif "after" in scores and len(scores) > 1:
            mark_ks_distance(axes, scores, "retain model" if "retain model" in scores else "before")
        note = " (above 0: a false answer is likelier)" if name.endswith("log_truth_ratio") else ""
        axes.set_xlabel(escape_label(find_figure_title(name) + note))
        axes.set(ylabel="share of samples at or below", ylim=(-0.02, 1.03))
        axes.grid()
        plot_style.add_legend(figure, handles)
        return figure


def mark_ks_distance(axes: Axes, scores: Mapping[str, Any], other: str) -> None:
    """An arrow where the distribution after unlearning is farthest from another, and how far."""
    pair = scores["after"], scores[other]
    distance, x = locate_ks_distance(*pair) or (0.0, math.inf)
    if math.isfinite(x):
        low, high = sorted(float(compute_ecdf(values, x)) for values in pair)
        arrow = {"arrowstyle": "<->", "color": INK, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (x, low), (x, high), arrowprops=arrow)
        axes.set_title(f"↕ KS distance, after to {other}: {distance:.2f}")


def find_pareto_front(
    points: Sequence[tuple[float | None, float | None]], better: tuple[str, str]
) -> list[int]:
    """Indices of the points that no other point beats, by rising x.

    A point is beaten by one that is at least as good on both axes and better on one. Of equal
    points all are kept. A point with a missing or infinite coordinate is on no front.

    Args:
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
