"""What the figures share: lines with gaps, marks, titles and limits of one panel.

Plain data drawn into matplotlib axes that are given. Knows no figure as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from undial_cli.evaluation.figures import is_logarithmic
from undial_cli.reporting import names
from undial_cli.reporting.ink import FAINT, INK, PAPER, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Marks = Mapping[str, Mapping[str, "float | None"]]
MARK_DASHES = ((0, (7, 2)), (0, (2, 2)), (0, (7, 2, 2, 2)))
MOST = 600  # points of one line


def thinned(rows: list[Any]) -> list[Any]:
    """At most about MOST rows, evenly taken, first and last kept."""
    step = -(-len(rows) // MOST)
    return rows if step <= 1 else [*rows[:-1:step], rows[-1]]


def gaps(values: Sequence[Any]) -> list[float]:
    """Values with NaN for what is missing, infinite or no number."""
    return [math.nan if (v := names.number(value)) is None else v for value in values]


def axis_title(name: str) -> str:
    """A metric in words, with the direction that is better."""
    way = names.better(name)
    return names.metric(name) + (f"  ({way} is better)" if way else "")


def series(
    axes: Axes, kind: Look, place: int, xs: Sequence[float], ys: Sequence[Any], marks: int = 8
) -> Any:
    """Draw the n-th line; about `marks` of its points carry its marker. Returns its handle."""
    from matplotlib.lines import Line2D

    every = max(1, len(xs) // marks)
    alone = {"color": kind.colour, "marker": kind.marker, "ls": kind.dash,
             "markeredgecolor": PAPER, "markeredgewidth": 0.6}  # fmt: skip
    start = (place * every // 5) % every  # markers of lines that run together stand apart
    axes.plot(xs, gaps(ys), markevery=(start, every), **alone)
    return Line2D([], [], **alone)


def horizontal(axes: Axes, marks: Marks, name: str) -> list[tuple[Any, str]]:
    """Horizontal lines of what `marks` say of a metric; their handles and labels."""
    found = []
    for place, (label, figures) in enumerate(marks.items()):
        level = names.number(figures.get(name))
        if level is None:
            continue
        dash = MARK_DASHES[place % len(MARK_DASHES)]
        found.append((axes.axhline(level, color=INK, lw=0.9, ls=dash, zorder=1.5), label))
    return found


def scaled(axes: Axes, name: str, values: Sequence[Any], axis: str = "y") -> None:
    """A logarithmic axis for a metric that asks for one; 0..1 with a margin for a share."""
    found = [v for v in gaps(values) if not math.isnan(v)]
    if is_logarithmic(name) and found and min(found) > 0:
        getattr(axes, f"set_{axis}scale")("log")
    elif found and min(found) >= 0 and max(found) <= 1 and max(found) > 0.3:
        getattr(axes, f"set_{axis}lim")(-0.04, 1.06)


def unique(pairs: list[tuple[Any, str]]) -> tuple[list[Any], list[str]]:
    """Handles and labels, each label once."""
    found = {label: handle for handle, label in reversed(pairs)}
    ordered = dict.fromkeys(label for _, label in pairs)
    return [found[label] for label in ordered], list(ordered)


def nothing(axes: Axes, text: str = "no values") -> None:
    """Say in a panel that there is nothing to draw."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=FAINT)


def whole_steps(axes: Axes) -> None:
    """Integer ticks on the x axis."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(
        MaxNLocator(nbins="auto", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    )


def limits(axes: Axes, values: list[float], axis: str, log: bool) -> None:
    """Limits with room around the points, for labels."""
    if not values:
        return
    low, high = min(values), max(values)
    if log:
        low, high = math.log10(low), math.log10(high)
    room = max(0.12 * (high - low), 0.05 * max(abs(low), abs(high)), 1e-9) or 0.1
    low, high = low - room, high + room
    if log:
        getattr(axes, f"set_{axis}scale")("log")
        low, high = 10**low, 10**high
    getattr(axes, f"set_{axis}lim")(low, high)
