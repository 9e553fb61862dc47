"""How figures look and are stored: colours, markers, line styles, a blank figure, PNG and SVG.

Imports matplotlib inside functions, and never its global state of open figures. Knows no metric.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from undial_cli.cache import write_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours without yellow, which is too faint on paper.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">", "h")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
)
INK, FAINT, PAPER = "#1b1b1f", "#8a8a93", "#fffffe"
WIDTH = 6.5  # inches: the text width of a paper
STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": PAPER,
    "axes.axisbelow": True,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "grid.color": FAINT,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "path",
    "svg.hashsalt": "undial",
    "path.simplify": True,
}


class Look(NamedTuple):
    """How one line or group of points is drawn."""

    colour: str
    marker: str
    dash: Any


def look(place: int) -> Look:
    """The look of the n-th series: no two of the first 77 share colour and marker."""
    return Look(
        COLOURS[place % len(COLOURS)],
        MARKERS[place % len(MARKERS)],
        DASHES[place % len(DASHES)],
    )


def looks(labels: Sequence[str]) -> list[Look]:
    """The looks of several series; those whose labels begin alike ("npo, ...") share a colour."""
    leads = [label.split(", ")[0] for label in labels]
    groups = list(dict.fromkeys(leads))
    if len(groups) in (1, len(labels)):
        return [look(place) for place in range(len(labels))]
    found = []
    for place, lead in enumerate(leads):
        among = leads[:place].count(lead)
        found.append(
            look(place)._replace(
                colour=COLOURS[groups.index(lead) % len(COLOURS)], dash=DASHES[among % len(DASHES)]
            )
        )
    return found


def darker(colour: str) -> str:
    """A colour dark enough for small text on paper."""
    parts = (int(colour[n : n + 2], 16) for n in (1, 3, 5))
    return "#" + "".join(f"{int(part * 0.72):02x}" for part in parts)


@contextlib.contextmanager
def style() -> Iterator[None]:
    """This file's settings, whatever the user's matplotlibrc says; no warnings for odd glyphs."""
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)  # type: ignore[call-overload]
        yield


def blank(width: float, height: float, **grid: Any) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches and its panels, in reading order."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    found = figure.subplots(**{"nrows": 1, "ncols": 1, "squeeze": False, **grid})
    return figure, list(found.flat)


def plain(text: str) -> str:
    """A label as matplotlib shows it literally: one line, no formula, never taken for hidden."""
    line = " ".join(str(text).split()).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


def legend(figure: Figure, handles: list[Any], labels: list[str], where: str = "below") -> None:
    """A legend outside the panels, in as many columns as its labels leave room for."""
    if not handles:
        return
    longest = max(map(len, labels))
    columns = max(1, min(len(labels), 5, int(WIDTH * 16 / (longest + 8))))
    while columns > 1 and -(-len(labels) // (columns - 1)) == -(-len(labels) // columns):
        columns -= 1  # the same number of rows in fewer columns: an even block
    place = "outside lower center" if where == "below" else "outside upper center"
    figure.legend(handles, [plain(label) for label in labels], loc=place, ncols=columns)


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG (200 dpi) and SVG; the same figure gives the same bytes.

    Args:
        path: of the files, without suffix.

    Returns:
        Both files, PNG first.
    """
    with style():
        picture, drawing = io.BytesIO(), io.StringIO()
        figure.savefig(picture, format="png", dpi=200, metadata={"Software": None})
        figure.set_layout_engine("none")  # the layout found for the PNG is kept
        figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "svg")]
    write_bytes(files[0], picture.getvalue())
    write_text(files[1], drawing.getvalue())
    return files
