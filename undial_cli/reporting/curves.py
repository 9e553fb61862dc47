"""Figures of lines: over training steps, over sequential requests, over a swept number.

Plain data in, a matplotlib Figure out. Knows no runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from undial_cli.reporting import names
from undial_cli.reporting.ink import WIDTH, blank, legend, look, looks, plain, style
from undial_cli.reporting.panels import (
    Marks,
    axis_title,
    gaps,
    horizontal,
    nothing,
    scaled,
    series,
    thinned,
    unique,
    whole_steps,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def dynamics(
    lines: Mapping[str, list[dict[str, Any]]], forget: str, retain: str, marks: Marks
) -> Figure:
    """Forget and retain scores against training steps, one line per label.

    Args:
        lines: label -> rows {"step": s, forget: y, retain: y}; a row may lack a score.
        marks: {"target": {metric: value}, ...}, drawn as horizontal lines.
    """
    return over_steps(lines, [forget, retain], marks)


def losses(lines: Mapping[str, list[dict[str, Any]]]) -> Figure:
    """The training loss against steps, one line per label; rows hold `step` and `loss`."""
    return over_steps(lines, ["loss"], {})


def over_steps(
    lines: Mapping[str, list[dict[str, Any]]], metrics: Sequence[str], marks: Marks
) -> Figure:
    """One panel per metric over steps."""
    with style():
        figure, panels = blank(WIDTH, 2.5 + 0.14 * len(lines), ncols=len(metrics))
        pairs: list[tuple[Any, str]] = []
        kinds = looks(list(lines))
        for axes, name in zip(panels, metrics, strict=True):
            seen: list[Any] = []
            for place, (label, rows) in enumerate(lines.items()):
                kept = [
                    row for row in rows if name in row and names.number(row.get("step")) is not None
                ]
                kept = thinned(kept)
                if not kept:
                    continue
                xs, ys = [r["step"] for r in kept], [r[name] for r in kept]
                handle = series(axes, kinds[place], place, xs, ys)
                pairs.append((handle, label))
                seen += [row[name] for row in kept]
            found = horizontal(axes, marks, name)
            pairs += found
            scaled(axes, name, [*seen, *(m.get(name) for m in marks.values())])
            if not any(not math.isnan(v) for v in gaps(seen)):
                nothing(axes)
            axes.set_xlabel("training step")
            axes.set_ylabel(axis_title(name) if len(metrics) == 1 else "")
            if len(metrics) > 1:
                axes.set_title(axis_title(name), loc="left")
            axes.grid(axis="y")
            whole_steps(axes)
        if len(lines) > 1 or any(marks.values()):
            legend(figure, *unique(pairs))
        return figure


def requests(series_of: Mapping[str, Sequence[float | None]], name: str) -> Figure:
    """A score over sequential requests, one line per label.

    Args:
        series_of: label -> its score at the start, after request 1, after request 2, ...
        name: the score's name, without a set.
    """
    with style():
        figure, (axes,) = blank(WIDTH, 2.7 + 0.1 * len(series_of))
        pairs = []
        longest = max(map(len, series_of.values()), default=0)
        for place, (label, values) in enumerate(series_of.items()):
            xs = range(len(values))
            pairs.append((series(axes, look(place), place, xs, values, marks=longest or 1), label))
        scaled(axes, name, [v for values in series_of.values() for v in values])
        ticks = ["start", *(f"after {n}" for n in range(1, longest))]
        axes.set_xticks(range(longest), ticks[:longest])
        axes.set_xlabel("request served")
        axes.set_ylabel(plain(names.metric(name)))
        axes.grid(axis="y")
        legend(figure, *unique(pairs))
        return figure


def grid(
    cells: Mapping[tuple[str, str], Mapping[float, tuple[float | None, float | None]]],
    x: str,
    y: str,
    marks: Marks,
) -> Figure:
    """Robustness: a line with a band per first key, a panel per second key.

    Args:
        cells: (line, panel) -> x value -> (mean, spread over seeds).
        x, y: what the axes are; y a metric's name.
        marks: {"retain model": {y: value}, ...}, drawn as horizontal lines.
    """
    with style():
        labels = list(dict.fromkeys(line for line, _ in cells))
        titles = list(dict.fromkeys(panel for _, panel in cells))
        columns = min(len(titles), 3) or 1
        rows = -(-len(titles) // columns) or 1
        figure, panels = blank(
            WIDTH, 0.6 + 2.0 * rows + 0.07 * len(labels), nrows=rows, ncols=columns,
            sharex=True, sharey=True,
        )  # fmt: skip
        ticks = sorted({value for line in cells.values() for value in line})
        log = len(ticks) > 1 and ticks[0] > 0 and ticks[-1] / ticks[0] >= 8
        pairs: list[tuple[Any, str]] = []
        for axes, title in zip(panels, titles, strict=False):
            for place, label in enumerate(labels):
                line = cells.get((label, title), {})
                xs = sorted(line)
                if not xs:
                    continue
                means, spreads = gaps([line[v][0] for v in xs]), gaps([line[v][1] for v in xs])
                low = [m - (0 if math.isnan(s) else s) for m, s in zip(means, spreads, strict=True)]
                high = [
                    m + (0 if math.isnan(s) else s) for m, s in zip(means, spreads, strict=True)
                ]
                axes.fill_between(xs, low, high, color=look(place).colour, alpha=0.16, lw=0)
                pairs.append((series(axes, look(place), place, xs, means, marks=len(xs)), label))
            pairs += horizontal(axes, marks, y)
            if log:
                axes.set_xscale("log")
            axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
            axes.minorticks_off()
            axes.set_title(plain(title), loc="left")
            axes.grid(axis="y")
        for axes in panels[len(titles) :]:
            axes.set_visible(False)
        everything = [m for line in cells.values() for m, _ in line.values()]
        if panels:
            scaled(panels[0], y, [*everything, *(m.get(y) for m in marks.values())])
        below = [axes for place, axes in enumerate(panels) if place + columns >= len(titles)]
        for axes in below[: len(titles)]:
            axes.tick_params(labelbottom=True)
        for axes in below[1:2] if len(below) == 3 else below[: len(titles)]:
            axes.set_xlabel(plain(x))
        for axes in panels[::columns]:
            axes.set_ylabel(plain(axis_title(y)))
        legend(figure, *unique(pairs))
        return figure
