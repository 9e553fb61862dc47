"""The figures: dynamics, trade-off, heat map, distributions, requests, robustness grid.

Plain data in, a matplotlib Figure out, as it stands in print. Missing values (None, NaN) leave a
gap or a hatched cell. Knows no run folders; `save` writes PNG and SVG.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from undial_cli.reporting import fronts, names
from undial_cli.reporting.curves import dynamics, grid, losses, requests
from undial_cli.reporting.ink import (
    COLOURS,
    FAINT,
    INK,
    PAPER,
    WIDTH,
    blank,
    legend,
    looks,
    plain,
    save,
    style,
)
from undial_cli.reporting.panels import MARK_DASHES, gaps, nothing, thinned, unique
from undial_cli.reporting.scatter import Point, trade_off

if TYPE_CHECKING:
    from matplotlib.figure import Figure


__all__ = [
    "Point", "distribution", "distributions", "dynamics", "grid", "heat_map", "losses",
    "requests", "save", "trade_off",
]  # fmt: skip


def heat_map(
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
    import numpy as np
    from matplotlib.patches import Rectangle

    with style():
        size = min(0.85, 4.6 / max(len(columns), 1))
        width = min(WIDTH, max(2.6, 1.9 + size * len(columns)))
        figure, (axes,) = blank(width, 1.0 + 0.42 * max(len(rows), 1))
        table = np.array([gaps(row) for row in values], dtype=float).reshape(len(rows), -1)
        known = table[np.isfinite(table)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        if low == high:
            low, high = low - 0.5, high + 0.5
        image = axes.imshow(
            np.ma.masked_invalid(table), cmap="cividis", vmin=low, vmax=high, aspect="auto"
        )
        for i, j in np.ndindex(table.shape):
            value = float(table[i, j])
            if math.isnan(value):
                box = Rectangle((j - 0.5, i - 0.5), 1, 1, hatch="////", fill=False, ec=FAINT, lw=0)
                axes.add_patch(box)
                continue
            bright = (value - low) / (high - low) > 0.55
            axes.text(j, i, names.figure(value), ha="center", va="center",
                      color="#111114" if bright else "#fdfdfd", fontsize=7.5)  # fmt: skip
        axes.set_xticks(range(len(columns)), [plain(c) for c in columns])
        axes.set_yticks(range(len(rows)), [plain(r) for r in rows])
        if len(columns) * max(map(len, columns), default=0) > 11 * width:
            axes.tick_params(axis="x", labelrotation=35)
            for tick in axes.get_xticklabels():
                tick.set_horizontalalignment("right")
                tick.set_rotation_mode("anchor")
        axes.tick_params(length=0)
        axes.set_title(plain(title), loc="left")
        axes.set_xlabel(plain(column_name))
        axes.set_ylabel(plain(row_name))
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xticks([n + 0.5 for n in range(len(columns) - 1)], minor=True)
        axes.set_yticks([n + 0.5 for n in range(len(rows) - 1)], minor=True)
        axes.grid(which="minor", color=PAPER, lw=1.5, alpha=1)
        axes.tick_params(which="minor", length=0)
        if len(set(known.tolist())) > 1:
            bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.03)
            bar.outline.set_visible(False)  # type: ignore[union-attr]
            bar.ax.tick_params(length=0, labelsize=7)
        return figure


def distribution(
    before: Sequence[float | None],
    after: Sequence[float | None],
    retain: Sequence[float | None] | None,
    name: str,
) -> Figure:
    """How a score is spread over samples: empirical distribution functions, KS distance marked.

    The distance is that of the model after unlearning to the retain model; without one, to the
    model before.
    """
    curves = {"before": before, "after": after, "retain model": retain or []}
    other = "retain model" if fronts.cumulative(curves["retain model"])[0] else "before"
    return distributions(curves, name, ("after", other))


def distributions(
    curves: Mapping[str, Sequence[float | None]],
    name: str,
    compared: tuple[str, str] | None = None,
) -> Figure:
    """The same for any number of models.

    Args:
        curves: label -> scores of its samples; one without any is left out.
        name: the score's name.
        compared: two labels whose KS distance is marked.
    """
    with style():
        there = {k: fronts.cumulative(v) for k, v in curves.items() if fronts.cumulative(v)[0]}
        figure, (axes,) = blank(WIDTH, 2.9 + 0.14 * max(0, len(there) - 4))
        finite = [v for xs, _ in there.values() for v in xs if math.isfinite(v)]
        low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
        room = 0.04 * (high - low) or 0.5
        pairs: list[tuple[Any, str]] = []
        fixed = {
            "before": (FAINT, "-"),
            "after": (COLOURS[1], "-"),
            "retain model": (INK, MARK_DASHES[0]),
        }
        others = [label for label in there if label not in fixed]
        kinds = dict(zip(others, looks(others), strict=True))
        for label, (xs, shares) in there.items():
            if label in kinds:
                colour, dash = kinds[label].colour, kinds[label].dash
            else:
                colour, dash = fixed[label]
            inside = [(x, s) for x, s in zip(xs, shares, strict=True) if math.isfinite(x)]
            below = sum(x == -math.inf for x in xs) / len(xs)
            steps = [(low - room, below), *thinned(inside)]
            steps.append((high + room, steps[-1][1]))
            (line,) = axes.plot(
                *zip(*steps, strict=True), drawstyle="steps-post", color=colour, ls=dash
            )
            pairs.append((line, f"{label} (n = {len(xs)})"))
        gap = fronts.ks_distance(*(curves[c] for c in compared)) if compared else None
        if compared and gap and math.isfinite(gap[1]):
            ends = sorted(fronts.share(curves[c], gap[1]) for c in compared)
            axes.annotate(
                "", (gap[1], ends[0]), (gap[1], ends[1]),
                arrowprops={"arrowstyle": "<->", "color": INK, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
            text = f"↕ KS distance, {compared[0]} to {compared[1]}: {gap[0]:.2f}"
            axes.set_title(plain(text), loc="left")
        if not there:
            nothing(axes)
        axes.set_xlim(low - room, high + room)
        axes.set_ylim(-0.02, 1.03)
        note = " (above 0: a false answer is likelier)" if name.endswith("log_truth_ratio") else ""
        axes.set_xlabel(plain(names.metric(name) + note))
        axes.set_ylabel("share of samples at or below")
        axes.grid()
        legend(figure, *unique(pairs))
        return figure
