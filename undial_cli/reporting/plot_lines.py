"""Plots of lines: losses and scores on the way, scores after each request, a table's grids.

Plain data in, a matplotlib Figure out. What is missing (None, NaN) leaves a gap. Knows no run
folders.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from undial_cli.reporting import plot_style
from undial_cli.reporting.plot_style import INK, MARK_DASHES, PAPER, Marks, to_float_array
from undial_cli.reporting.text import parse_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = dict[float, tuple[Any, "float | None"]]
Ticks = Mapping[float, str]
MOST_POINTS = 600  # of one line
MOST_ACROSS = 3  # panels that are wide enough next to each other
# Ticks that span more than this are read better on a logarithmic axis.
LOG_TICKS = 8


@dataclass
class LinePanel:
    """Lines by label: x -> (y, half width of the band around it), None for what is missing.

    `metric` says which scale and which marks are theirs; `ringed`: the x of the point of a line
    that has a ring around it.
    """

    title: str
    metric: str
    lines: dict[str, Curve] = field(default_factory=dict)
    ringed: dict[str, float] = field(default_factory=dict)


def draw_panel(
    axes: Axes, panel: LinePanel, styles: Mapping[str, Any], marks: Marks
) -> dict[str, Any]:
    """Draw the lines of a panel, their bands and the marks; handles by label."""
    handles: dict[str, Any] = {}
    drawn: list[float] = []
    for number, (label, line) in enumerate(panel.lines.items()):
        style, xs = styles[label], sorted(line)
        ys = to_float_array([line[x][0] for x in xs])
        band = np.nan_to_num(to_float_array([line[x][1] for x in xs]))
        drawn += ys.tolist()
        if band.any():
            axes.fill_between(xs, ys - band, ys + band, color=style["color"], alpha=0.16, lw=0)
        every = max(1, len(ys) // 8)
        start = (number * every // 5) % every  # markers of lines that run together stand apart
        markers = {"markevery": (start, every), "mec": PAPER, "mew": 0.6}
        (handles[label],) = axes.plot(xs, ys, **style, **markers)
        if panel.ringed.get(label) in line:
            at = xs.index(panel.ringed[label])
            ring = {"marker": "o", "ms": 12, "mfc": "none", "mew": 1.4, "ls": ""}
            axes.plot(xs[at], ys[at], mec=style["color"], **ring)
    for dash, (label, figures) in zip(MARK_DASHES, marks.items(), strict=False):
        level = parse_number(figures.get(panel.metric))
        if level is not None:
            drawn.append(level)
            handles[label] = axes.axhline(level, color=INK, lw=0.9, ls=dash, zorder=1.5)
    known = [value for value in drawn if not math.isnan(value)]
    if not known:
        plot_style.draw_no_values(axes)
    elif plot_style.has_log_axis(panel.metric, known):
        axes.set_yscale("log")
    elif min(known) >= 0 and 0.3 < max(known) <= 1:
        # shares: panels next to each other are compared, so all have the whole scale
        axes.set_ylim(-0.04, 1.06)
    axes.set_title(plot_style.escape_label(panel.title))
    axes.grid(axis="y")
    return handles


def draw_lines(
    panels: Sequence[LinePanel], x: str, y: str, marks: Marks, ticks: Ticks | None = None
) -> Figure:
    """Panels of lines with one legend; the marks are horizontal lines.

    Without y the titles of the panels say what it is, and each has its own scale. `ticks` are
    x values with their labels; none: whole numbers.
    """
    from matplotlib.ticker import MaxNLocator

    with plot_style.use_plot_style():
        labels = list(dict.fromkeys(label for panel in panels for label in panel.lines))
        styles = plot_style.choose_line_styles(labels)
        across = min(len(panels), MOST_ACROSS)
        rows = -(-len(panels) // across)
        figure, axes = plot_style.make_blank_figure(
            plot_style.PAGE_WIDTH, 0.6 + 2.0 * rows, nrows=rows, ncols=across, sharey=bool(y)
        )
        handles: dict[str, Any] = dict.fromkeys([*labels, *marks])
        for area, panel in zip(axes, panels, strict=False):
            handles |= draw_panel(area, panel, styles, marks)
            area.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            if ticks:
                if min(ticks) > 0 and max(ticks) / min(ticks) >= LOG_TICKS:
                    area.set_xscale("log")
                area.set_xticks(list(ticks), list(ticks.values()))
                area.minorticks_off()
        for area in axes[len(panels) :]:
            area.set_visible(False)
        for area in axes[: len(panels)][-across:]:
            area.set_xlabel(plot_style.escape_label(x))
        for area in axes[::across]:
            area.set_ylabel(plot_style.escape_label(y))
        drawn = {label: handle for label, handle in handles.items() if handle is not None}
        if len(drawn) > 1:
            plot_style.add_legend(figure, drawn)
        return figure


def draw_dynamics(
    rows: Mapping[str, list[dict[str, Any]]], metrics: Sequence[str], marks: Marks
) -> Figure:
    """Scores or the loss against training steps: a panel per metric, a line per label.

    `rows`: label -> rows {"step": s, metric: y, ...}; a row may lack a score.
    """
    panels = []
    for name in metrics:
        panel = LinePanel(plot_style.make_axis_title(name) if len(metrics) > 1 else "", name)
        for label, steps in rows.items():
            known = [r for r in steps if name in r and parse_number(r.get("step")) is not None]
            if known:
                every = -(-len(known) // MOST_POINTS)
                thinned = [*known[:-1:every], known[-1]]  # the first and the last are among them
                panel.lines[label] = {row["step"]: (row[name], None) for row in thinned}
        panels.append(panel)
    y = plot_style.make_axis_title(metrics[0]) if len(metrics) == 1 else ""
    return draw_lines(panels, "training step", y, marks)
