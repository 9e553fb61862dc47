"""Puts labels beside points so that they cover neither each other, nor a point, nor the edge.

Works in pixels on boxes; knows matplotlib's text only to measure it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from undial_cli.reporting.ink import FAINT, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DIRECTIONS = 16
DISTANCES = (7, 14, 22, 32, 44, 60, 80, 105)  # points
POINT = 4.5  # points: half the side of the box that a marker takes


class Box(NamedTuple):
    """A rectangle: left, bottom, right, top."""

    x0: float
    y0: float
    x1: float
    y1: float

    def common(self, other: Box) -> float:
        """The area that two boxes share."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return max(width, 0.0) * max(height, 0.0)

    @property
    def area(self) -> float:
        """Its own area."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)


def candidates(x: float, y: float, width: float, height: float, unit: float) -> list[Box]:
    """Boxes of a label around a point, the nearest first; right of it before all others."""
    found = []
    for distance in DISTANCES:
        for turn in range(DIRECTIONS):
            angle = 2 * math.pi * turn / DIRECTIONS
            across, up = math.cos(angle), math.sin(angle)
            middle_x = x + across * (distance * unit + width / 2)
            middle_y = y + up * (distance * unit + height / 2)
            found.append(
                Box(
                    middle_x - width / 2,
                    middle_y - height / 2,
                    middle_x + width / 2,
                    middle_y + height / 2,
                )
            )
    return found


def arrange(
    anchors: list[tuple[float, float]],
    sizes: list[tuple[float, float]],
    taken: list[Box],
    frame: Box,
    unit: float,
) -> list[Box]:
    """A box for each label, chosen one after the other, the most crowded anchors first.

    Args:
        anchors, sizes: in pixels; `taken`: what no label may cover; `frame`: where all must stay.
        unit: pixels of a point.
    """
    taken, boxes = list(taken), [frame] * len(anchors)
    crowd = [sum(math.dist(a, b) < 60 * unit for b in anchors) for a in anchors]
    for place in sorted(range(len(anchors)), key=lambda n: -crowd[n]):
        (x, y), (width, height) = anchors[place], sizes[place]
        best, least = frame, math.inf
        for rank, box in enumerate(candidates(x, y, width, height, unit)):
            outside = box.area - box.common(frame)
            padded = Box(box.x0 - 3 * unit, box.y0 - unit, box.x1 + 3 * unit, box.y1 + unit)
            cost = 40 * outside + 10 * sum(padded.common(other) for other in taken)
            cost += rank * 0.02 * unit * unit * height
            if cost < least:
                best, least = box, cost
        boxes[place] = best
        taken.append(best)
    return boxes


def label(
    axes: Axes,
    points: list[tuple[float, float]],
    texts: list[str],
    colours: list[str],
    avoid: list[tuple[float, float]],
    **kind: Any,
) -> list[Any]:
    """Write texts beside points of a panel whose limits are final; far ones get a thin line.

    Args:
        points, avoid: in data coordinates; no label covers a point of either.
        colours: of the texts.

    Returns:
        The matplotlib annotations.
    """
    figure = axes.figure
    renderer = figure.canvas.get_renderer()  # type: ignore[union-attr]
    unit = figure.dpi / 72
    to_pixels = axes.transData.transform
    half = POINT * unit
    taken = [
        Box(x - half, y - half, x + half, y + half)
        for x, y in (to_pixels(p) for p in [*points, *avoid])
    ]
    made, sizes = [], []
    for point, text, colour in zip(points, texts, colours, strict=True):
        note = axes.annotate(
            plain(text), point, xytext=(0, 0), textcoords="offset pixels", color=colour,
            ha="left", va="bottom", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": FAINT, "lw": 0.6, "shrinkA": 0, "shrinkB": 4},
            **kind,
        )  # fmt: skip
        note.set_in_layout(False)
        extent = note.get_window_extent(renderer)
        sizes.append((extent.width, extent.height))
        made.append(note)
    frame = axes.get_window_extent(renderer)
    anchors = [tuple(to_pixels(p)) for p in points]
    boxes = arrange(anchors, sizes, taken, Box(frame.x0, frame.y0, frame.x1, frame.y1), unit)
    for note, anchor, box in zip(made, anchors, boxes, strict=True):
        scale = 1 / unit
        note.set_position(((box.x0 - anchor[0]) * scale, (box.y0 - anchor[1]) * scale))
        note.anncoords = "offset points"
        across = max(box.x0 - anchor[0], anchor[0] - box.x1, 0)
        up = max(box.y0 - anchor[1], anchor[1] - box.y1, 0)
        if math.hypot(across, up) < 12 * unit and note.arrow_patch is not None:
            note.arrow_patch.set_visible(False)
    return made
