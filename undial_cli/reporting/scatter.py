"""The trade-off: two metrics of many runs against each other, with the Pareto front and labels.

Plain data in, a matplotlib Figure out. Knows no runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from undial_cli.evaluation.figures import is_logarithmic
from undial_cli.reporting import fronts, names, placing
from undial_cli.reporting.ink import FAINT, INK, PAPER, WIDTH, blank, darker, legend, look, style
from undial_cli.reporting.panels import Marks, gaps, limits, nothing, unique

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


MARK_MARKERS = ("*", "X", "P")
LABELLED = 20  # points of a trade-off that are named beside the point


@dataclass(frozen=True)
class Point:
    """One run on the trade-off: label, figures (NaN: missing), and the group (method) it is of."""

    label: str
    x: float
    y: float
    group: str


def trade_off(
    points: Sequence[Point], x: str, y: str, better: tuple[str, str], marks: Marks
) -> Figure:
    """Two metrics of many runs against each other, with the Pareto front.

    Args:
        x, y: the metrics' names; better: `lower` or `higher`, for x and y.
        marks: {"target": {x: value, y: value}, ...}, drawn as stars. They are on no front.
    """
    from matplotlib.lines import Line2D

    with style():
        figure, (axes,) = blank(WIDTH, 4.3)
        groups = list(dict.fromkeys(p.group for p in points))
        there = [p for p in points if not any(map(math.isnan, gaps([p.x, p.y])))]
        marked = [
            (label, a, b)
            for label, figures in marks.items()
            if (a := names.number(figures.get(x))) is not None
            and (b := names.number(figures.get(y))) is not None
        ]
        xs = [p.x for p in there] + [a for _, a, _ in marked]
        ys = [p.y for p in there] + [b for _, _, b in marked]
        for axis, name, values in (("x", x, xs), ("y", y, ys)):
            log = is_logarithmic(name) and bool(values) and min(values) > 0
            limits(axes, values, axis, log)
        pairs: list[tuple[Any, str]] = []
        front = [there[n] for n in fronts.pareto_front([(p.x, p.y) for p in there], better)]
        line: Any = None
        if front:
            drawn = "steps-post" if better[0] == "lower" else "steps-pre"
            (line,) = axes.plot(
                [p.x for p in front], [p.y for p in front], color=FAINT, lw=1.2, zorder=1,
                drawstyle=drawn,
            )  # fmt: skip
        for place, group in enumerate(groups):
            mine, kind = [p for p in there if p.group == group], look(place)
            if not mine:
                continue
            alone = {"color": kind.colour, "marker": kind.marker, "ls": "none",
                     "markeredgecolor": PAPER, "markeredgewidth": 0.7, "markersize": 7}  # fmt: skip
            axes.plot([p.x for p in mine], [p.y for p in mine], zorder=3, **alone)
            pairs.append((Line2D([], [], **alone), group))
        if front:
            pairs.append((line, "Pareto front"))
        for place, (_, a, b) in enumerate(marked):
            axes.plot(
                [a], [b], marker=MARK_MARKERS[place % 3], ms=12 if place == 0 else 9, color=INK,
                ls="none", mec=PAPER, mew=0.8, zorder=4,
            )  # fmt: skip
        axes.set_xlabel(f"{names.metric(x)}  ({better[0]} is better)")
        axes.set_ylabel(f"{names.metric(y)}  ({better[1]} is better)")
        axes.grid()
        if not there:
            nothing(axes)
        if len(groups) > 1 or len(there) > 1:
            legend(figure, *unique(pairs))
        figure.canvas.draw()  # the layout is final: labels are placed in its pixels
        figure.set_layout_engine("none")
        texts = named(there, front, groups)
        shades = [darker(look(groups.index(p.group)).colour) for p in there]
        chosen = [
            ((p.x, p.y), text, shade if len(groups) > 1 else INK)
            for p, text, shade in zip(there, texts, shades, strict=True)
            if text
        ] + [((a, b), label, INK) for label, a, b in marked]
        spots, words, colours = map(list, zip(*chosen, strict=True)) if chosen else ([], [], [])
        avoid = [(p.x, p.y) for p in there] + corners(axes, front, better)
        placing.label(axes, spots, words, colours, avoid, fontsize=7)
        return figure


def corners(axes: Axes, front: Sequence[Point], better: tuple[str, str]) -> list[Any]:
    """Places along the front's staircase, a few points apart, that no label should cover."""
    to_pixels, back = axes.transData.transform, axes.transData.inverted().transform
    found: list[Any] = []
    for first, second in itertools.pairwise(front):
        turn = (second.x, first.y) if better[0] == "lower" else (first.x, second.y)
        path = [to_pixels(p) for p in ((first.x, first.y), turn, (second.x, second.y))]
        for (a, b), (c, d) in itertools.pairwise(path):
            count = int(math.hypot(c - a, d - b) / 12) + 1
            found += [
                back((a + (c - a) * n / count, b + (d - b) * n / count)) for n in range(count)
            ]
    return found


def named(there: Sequence[Point], front: Sequence[Point], groups: Sequence[str]) -> list[str]:
    """What stands beside each point: nothing that the legend says, the front only in a crowd."""
    crowd = len(there) > LABELLED
    found = []
    for point in there:
        text = point.label
        for lead in (f"{point.group}, ", f"{point.group} "):
            if len(groups) > 1 and text.startswith(lead):
                text = text.removeprefix(lead)
        alone = sum(other.group == point.group for other in there) == 1
        if len(groups) > 1 and text == point.group and not alone:
            text = ""
        found.append("" if crowd and point not in front else text)
    return found
