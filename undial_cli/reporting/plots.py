"""The figures: dynamics, trade-off, heat map, distributions, requests, robustness grid.

Plain data in, a matplotlib Figure out, as it stands in print. Missing values (None, NaN) leave a
gap or a hatched cell. Knows no run folders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from undial_cli.evaluation.figures import find_better_direction, find_figure_title
from undial_cli.evaluation.figures import is_logarithmic_figure as asks_for_log
from undial_cli.reporting.plot_fronts import (
    compute_ecdf,
    find_pareto_front,
    locate_ks_distance,
    sort_known_values,
)
from undial_cli.reporting.plot_style import (
    COLOURS,
    FAINT,
    INK,
    PAGE_WIDTH,
    PAPER,
    add_legend,
    choose_line_styles,
    escape_label,
    make_blank_figure,
    use_plot_style,
)
from undial_cli.reporting.text import format_figure, parse_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = dict[float, tuple[Any, "float | None"]]
Marks = Mapping[str, Mapping[str, "float | None"]]
MARK_DASHES = ((0, (7, 2)), (0, (2, 2)), (0, (7, 2, 2, 2)))
MARK_MARKERS = ("*", "X", "P")
MOST_POINTS = 600  # of one line
MOST_LABELLED = 20  # points of a trade-off that each have an entry in the legend


@dataclass(frozen=True)
class TradeOffPoint:
    """One run on the trade-off: label, figures (NaN: missing), and the group (method) it is of."""

    label: str
    x: float
    y: float
    group: str


@dataclass
class LinePanel:
    """Lines by label: x -> (y, half width of the band around it), None for what is missing.

    `metric` says which scale and which marks are theirs.
    """

    title: str
    metric: str
    lines: dict[str, Curve] = field(default_factory=dict)


def to_float_array(values: Sequence[Any]) -> np.ndarray:
    """Values with NaN for what is missing, infinite or no number."""
    numbers = map(parse_number, values)
    return np.array([math.nan if number is None else number for number in numbers])


def thin_rows(rows: list[Any]) -> list[Any]:
    """At most about MOST_POINTS rows, evenly taken, first and last kept."""
    step = -(-len(rows) // MOST_POINTS)
    return rows if step <= 1 else [*rows[:-1:step], rows[-1]]


def make_axis_title(name: str, better: str = "") -> str:
    """A metric in words, with the direction that is better."""
    way = better or find_better_direction(name)
    return escape_label(find_figure_title(name) + (f"  ({way} is better)" if way else ""))


def has_log_axis(name: str, values: Any) -> bool:
    """Whether a metric that asks for a logarithmic axis can have one."""
    return asks_for_log(name) and min(values, default=0) > 0


def draw_no_values(axes: Axes) -> None:
    """Say in a panel that there is nothing to draw."""
    axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", va="center",
              color=FAINT)  # fmt: skip


def draw_panel(
    axes: Axes, panel: LinePanel, kinds: Mapping[str, Any], marks: Marks
) -> dict[str, Any]:
    """Draw the lines of a panel, their bands and the marks; handles by label."""
    handles: dict[str, Any] = {}
    drawn: list[float] = []
    for number, (label, line) in enumerate(panel.lines.items()):
        kind, xs = kinds[label], sorted(line)
        ys, band = (
            to_float_array([line[x][0] for x in xs]),
            np.nan_to_num(to_float_array([line[x][1] for x in xs])),
        )
        drawn += ys.tolist()
        if band.any():
            axes.fill_between(xs, ys - band, ys + band, color=kind["color"], alpha=0.16, lw=0)
        every = max(1, len(ys) // 8)
        start = (number * every // 5) % every  # markers of lines that run together stand apart
        mark = {"markevery": (start, every), "mec": PAPER, "mew": 0.6}
        (handles[label],) = axes.plot(xs, ys, **kind, **mark)
    for dash, (label, figures) in zip(MARK_DASHES, marks.items(), strict=False):
        level = parse_number(figures.get(panel.metric))
        if level is not None:
            drawn.append(level)
            handles[label] = axes.axhline(level, color=INK, lw=0.9, ls=dash, zorder=1.5)
    known = [value for value in drawn if not math.isnan(value)]
    if not known:
        draw_no_values(axes)
    elif has_log_axis(panel.metric, known):
        axes.set_yscale("log")
    elif min(known) >= 0 and 0.3 < max(known) <= 1:
        axes.set_ylim(-0.04, 1.06)
    axes.set_title(escape_label(panel.title))
    axes.grid(axis="y")
    return handles


def draw_lines(
    panels: Sequence[LinePanel],
    x: str,
    y: str,
    marks: Marks,
    ticks: Mapping[float, str] | None = None,
) -> Figure:
    """Panels of lines, at most three next to each other, with one legend.

    Args:
        x, y: what the axes are; y "": the titles of the panels say it, each has its own scale.
        marks: {"retain model": {metric: value}, ...}, drawn as horizontal lines.
        ticks: x values and their labels; none: whole numbers.
    """
    from matplotlib.ticker import MaxNLocator

    with use_plot_style():
        labels = list(dict.fromkeys(label for panel in panels for label in panel.lines))
        kinds = dict(zip(labels, choose_line_styles(labels), strict=True))
        across = min(len(panels), 3)
        rows = -(-len(panels) // across)
        figure, axes = make_blank_figure(
            PAGE_WIDTH, 0.6 + 2.0 * rows, nrows=rows, ncols=across, sharey=bool(y)
        )
        handles: dict[str, Any] = dict.fromkeys([*labels, *marks])
        for area, panel in zip(axes, panels, strict=False):
            handles |= draw_panel(area, panel, kinds, marks)
            area.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if ticks:
                if min(ticks) > 0 and max(ticks) / min(ticks) >= 8:
                    area.set_xscale("log")
                area.set_xticks(list(ticks), list(ticks.values()))
                area.minorticks_off()
        for area in axes[len(panels) :]:
            area.set_visible(False)
        for area in axes[: len(panels)][-across:]:
            area.set_xlabel(escape_label(x))
        for area in axes[::across]:
            area.set_ylabel(escape_label(y))
        handles = {label: handle for label, handle in handles.items() if handle is not None}
        if len(handles) > 1:
            add_legend(figure, handles)
        return figure


def draw_over_steps(
    rows: Mapping[str, list[dict[str, Any]]], metrics: Sequence[str], marks: Marks
) -> Figure:
    """Scores or the loss against training steps: a panel per metric, a line per label.

    Args:
        rows: label -> rows {"step": s, metric: y, ...}; a row may lack a score.
    """
    panels = []
    for name in metrics:
        panel = LinePanel(make_axis_title(name) if len(metrics) > 1 else "", name)
        for label, steps in rows.items():
            known = [r for r in steps if name in r and parse_number(r.get("step")) is not None]
            if known:
                panel.lines[label] = {r["step"]: (r[name], None) for r in thin_rows(known)}
        panels.append(panel)
    y = make_axis_title(metrics[0]) if len(metrics) == 1 else ""
    return draw_lines(panels, "training step", y, marks)


def draw_trade_off(
    points: Sequence[TradeOffPoint], x: str, y: str, better: tuple[str, str], marks: Marks
) -> Figure:
    """Two metrics of many runs against each other, with the Pareto front; a legend names them.

    In a crowd only the runs on the front have an entry of their own, the others their group's.

    Args:
        x, y: the metrics' names; better: `lower` or `higher`, for x and y.
        marks: {"target": {x: value, y: value}, ...}, drawn as stars. They are on no front.
    """
    with use_plot_style():
        figure, (axes,) = make_blank_figure(PAGE_WIDTH, 3.5)
        shown = [p for p in points if math.isfinite(p.x) and math.isfinite(p.y)]
        on_front = find_pareto_front([(p.x, p.y) for p in shown], better)
        labels = [
            p.label if len(shown) <= MOST_LABELLED or number in on_front else p.group
            for number, p in enumerate(shown)
        ]
        distinct = list(dict.fromkeys(labels))
        kinds = dict(zip(distinct, choose_line_styles(distinct), strict=True))
        spots = [(label, p.x, p.y, kinds[label]) for label, p in zip(labels, shown, strict=True)]
        for marker, (label, figures) in zip(MARK_MARKERS, marks.items(), strict=False):
            a, b = to_float_array([figures.get(x), figures.get(y)])
            if math.isfinite(a) and math.isfinite(b):
                spots.append((label, a, b, {"color": INK, "marker": marker, "ms": 11}))
        handles: dict[str, Any] = {}
        for label, a, b, kind in spots:
            (handles[label],) = axes.plot([a], [b], **{"ms": 7, "mec": PAPER, **kind, "ls": "none"})
        if shown:
            (handles["Pareto front"],) = axes.plot(
                [shown[n].x for n in on_front], [shown[n].y for n in on_front], color=FAINT, lw=1.2,
                zorder=1, drawstyle="steps-post" if better[0] == "lower" else "steps-pre",
            )  # fmt: skip
        else:
            draw_no_values(axes)
        axes.margins(0.08)
        axes.set(xlabel=make_axis_title(x, better[0]), ylabel=make_axis_title(y, better[1]))
        if has_log_axis(x, [a for _, a, _, _ in spots]):
            axes.set_xscale("log")
        if has_log_axis(y, [b for _, _, b, _ in spots]):
            axes.set_yscale("log")
        axes.grid()
        add_legend(figure, handles)
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
    with use_plot_style():
        width = min(PAGE_WIDTH, 2.6 + 0.85 * len(columns))
        figure, (axes,) = make_blank_figure(width, 1.0 + 0.42 * len(rows))
        table = np.stack(list(map(to_float_array, values)))
        axes.patch.set(hatch="////", edgecolor=FAINT)  # shows where the image has no colour
        figure.colorbar(axes.imshow(table, cmap="cividis", aspect="auto"), ax=axes)
        for (row, column), value in np.ndenumerate(table):
            if not math.isnan(value):
                axes.text(column, row, format_figure(value), ha="center", va="center",
                          bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1})  # fmt: skip
        crowded = sum(map(len, columns)) > 11 * width
        axes.set_xticks(range(len(columns)), list(map(escape_label, columns)),
                        rotation=90 if crowded else 0)  # fmt: skip
        axes.set_yticks(range(len(rows)), list(map(escape_label, rows)))
        axes.set(
            title=escape_label(title),
            xlabel=escape_label(column_name),
            ylabel=escape_label(row_name),
        )
        return figure


def draw_distributions(curves: Mapping[str, Sequence[float | None]], name: str) -> Figure:
    """How a score is spread over samples: empirical distribution functions.

    Of one run ("before", "after", "retain model") the Kolmogorov-Smirnov distance after unlearning
    is marked: to the retain model, or to before where there is none.

    Args:
        curves: label -> scores of its samples; one without any is left out.
        name: the score's name.
    """
    with use_plot_style():
        figure, (axes,) = make_blank_figure(PAGE_WIDTH, 2.9)
        scores = {k: sort_known_values(values) for k, values in curves.items()}
        scores = {label: values for label, values in scores.items() if len(values)}
        fixed = {
            "before": {"color": FAINT, "ls": "-"},
            "after": {"color": COLOURS[1], "ls": "-"},
            "retain model": {"color": INK, "ls": MARK_DASHES[0]},
        }
        handles: dict[str, Any] = {}
        for (label, values), kind in zip(
            scores.items(), choose_line_styles(list(scores)), strict=True
        ):
            kind = fixed.get(label, kind) | {"marker": ""}
            handles[f"{label} (n = {len(values)})"] = axes.ecdf(values, **kind)
        if not scores:
            draw_no_values(axes)
        elif "after" in scores and len(scores) > 1:
            mark_ks_distance(axes, scores, "retain model" if "retain model" in scores else "before")
        note = " (above 0: a false answer is likelier)" if name.endswith("log_truth_ratio") else ""
        axes.set_xlabel(escape_label(find_figure_title(name) + note))
        axes.set(ylabel="share of samples at or below", ylim=(-0.02, 1.03))
        axes.grid()
        add_legend(figure, handles)
        return figure


def mark_ks_distance(axes: Axes, scores: Mapping[str, Any], other: str) -> None:
    """An arrow where the distribution after unlearning is farthest from another, and how far."""
    distance, where = locate_ks_distance(scores["after"], scores[other]) or (0.0, math.inf)
    if math.isfinite(where):
        low, high = sorted(float(compute_ecdf(scores[label], where)) for label in ("after", other))
        arrow = {"arrowstyle": "<->", "color": INK, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (where, low), (where, high), arrowprops=arrow)
        axes.set_title(f"↕ KS distance, after to {other}: {distance:.2f}")
