"""How figures look and are stored: colours, markers, line styles, a blank figure, PNG and SVG.

Imports matplotlib inside functions, and never its global state of open figures. Knows no metric.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undial_cli.system.files import write_whole_bytes, write_whole_text

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
INK, FAINT, PAPER = "#1b1b1f", "#8a8a93", "#ffffff"
PAGE_WIDTH = 6.5  # inches: the text width of a paper
STYLE_SHEET = Path(__file__).parent / "templates" / "figures.mplstyle"


def choose_line_styles(labels: Sequence[str]) -> list[dict[str, Any]]:
    """Colour, marker and dash of several series: no two of the first 77 share the first two.

    Where several labels begin alike ("npo, ...") they share a colour, and differ in their dash.
    """
    leads = [label.split(", ")[0] for label in labels]
    groups = list(dict.fromkeys(leads))
    alone = len(groups) in (1, len(labels))
    return [
        {
            "color": COLOURS[(number if alone else groups.index(lead)) % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "ls": DASHES[(number if alone else leads[:number].count(lead)) % len(DASHES)],
        }
        for number, lead in enumerate(leads)
    ]


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
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(squeeze=False, **grid).flat)


def escape_label(text: str) -> str:
    """A label as matplotlib shows it literally: one line, no formula, never taken for hidden."""
    line = " ".join(str(text).split()).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


def add_legend(figure: Figure, handles: Mapping[str, Any]) -> None:
    """A legend below the panels, for which the figure grows."""
    if not handles:
        return
    columns = max(1, min(len(handles), 5, int(PAGE_WIDTH * 16 / (max(map(len, handles)) + 8))))
    figure.set_figheight(figure.get_figheight() + 0.15 * -(-len(handles) // columns))
    figure.legend(list(handles.values()), list(map(escape_label, handles)), loc="outside lower center",
                  ncols=columns)  # fmt: skip


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
