"""How plots look and are stored: colours, markers, line styles, axes, legend, PNG and SVG.

Imports matplotlib inside functions, and never its global state of open figures. Knows no run.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from undial_cli.evaluation.figures import (
    find_better_direction,
    find_figure_title,
    is_logarithmic_figure,
)
from undial_cli.reporting.text import parse_number
from undial_cli.system.files import write_whole_bytes, write_whole_text
from undial_cli.ui import reveal_controls

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
# Of the target and the retain model, which are no series.
MARK_DASHES = ((0, (7, 2)), (0, (2, 2)), (0, (7, 2, 2, 2)))
MARK_MARKERS = ("*", "X", "P")
INK, FAINT, PAPER = "#1b1b1f", "#8a8a93", "#ffffff"
PAGE_WIDTH = 6.5  # inches: the text width of a paper
STYLE_SHEET = Path(__file__).parent / "templates" / "figures.mplstyle"


# Figures of the target and the retain model: {"retain model": {metric: value}, ...}.
Marks = Mapping[str, Mapping[str, "float | None"]]


def choose_line_styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, marker and dash of each series: no two of the first 77 share the first two.

    Where several labels begin alike ("npo, ...") they share a colour, and differ in their dash.
    """
    leads = [label.split(", ")[0] for label in labels]
    groups = list(dict.fromkeys(leads))
    alone = len(groups) in (1, len(labels))
    return {
        label: {
            "color": COLOURS[(number if alone else groups.index(lead)) % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "ls": DASHES[(number if alone else leads[:number].count(lead)) % len(DASHES)],
        }
        for number, (label, lead) in enumerate(zip(labels, leads, strict=True))
    }


def to_float_array(values: Sequence[Any]) -> np.ndarray:
    """Values with NaN for what is missing, infinite or no number."""
    numbers = map(parse_number, values)
    return np.array([math.nan if number is None else number for number in numbers])


@contextlib.contextmanager
def use_plot_style() -> Iterator[None]:
    """The style sheet alone, whatever the user's matplotlibrc says; no warnings for odd glyphs."""
    from matplotlib.style import context

    with warnings.catch_warnings(), context(STYLE_SHEET, after_reset=True):
        warnings.simplefilter("ignore")
        yield


def make_blank_figure(width: float, height: float, **grid: Any) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches and its panels, in reading order."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot, which would keep every figure of a process
    return figure, list(figure.subplots(squeeze=False, **grid).flat)


def escape_label(text: str) -> str:
    """A label as matplotlib shows it literally: one line, no formula, never taken for hidden."""
    line = " ".join(reveal_controls(str(text)).split()).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


def make_axis_title(name: str, better: str = "") -> str:
    way = better or find_better_direction(name)
    return escape_label(find_figure_title(name) + (f"  ({way} is better)" if way else ""))


def has_log_axis(name: str, values: Sequence[float]) -> bool:
    """Whether a metric that asks for a logarithmic axis can have one."""
    return is_logarithmic_figure(name) and min(values, default=0) > 0


def draw_no_values(axes: Axes) -> None:
    centred = {"ha": "center", "va": "center", "transform": axes.transAxes}
    axes.text(0.5, 0.5, "no values", color=FAINT, **centred)


def add_legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """A legend below the panels, for which the figure grows."""
    if not handles:
        return
    longest = max(map(len, handles))
    columns = max(1, min(len(handles), 5, int(PAGE_WIDTH * 16 / (longest + 8))))
    figure.set_figheight(figure.get_figheight() + 0.15 * -(-len(handles) // columns))
    labels = list(map(escape_label, handles))
    figure.legend(list(handles.values()), labels, loc="outside lower center", ncols=columns)


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG (200 dpi) and SVG; the same figure gives the same bytes.

    Args:
        path: of the files, without suffix.

    Returns:
        Both files, PNG first.
    """
    with use_plot_style():
        picture, drawing = io.BytesIO(), io.StringIO()
        figure.savefig(picture, format="png", dpi=200, metadata={"Software": None})
        figure.set_layout_engine("none")  # the layout found for the PNG is kept
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(drawing, format="svg", metadata=nothing)
    files = [path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "svg")]
    write_whole_bytes(files[0], picture.getvalue())
    write_whole_text(files[1], drawing.getvalue())
    return files
