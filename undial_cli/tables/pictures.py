"""The pictures of a table: its figures as the plain data that reporting/plots.py draws.

Imports matplotlib only where there is something to draw.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from undial_cli.reporting import plots, style
from undial_cli.tables.config import ColumnConfig, PlotConfig, title_of
from undial_cli.tables.figures import Filled, average
from undial_cli.tables.runs import Line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKS = {"target": "target", "retain": "retain model"}


def draw(filled: Filled, folder: Path) -> list[Path]:
    """Draw the table's plots that have any figure; returns the files."""
    files: list[Path] = []
    for plot in filled.table.plots:
        figure = trade_off(filled, plot) if plot.kind == "trade_off" else grid(filled, plot)
        if figure is not None:
            files += style.save(figure, folder / (plot.name or f"{plot.kind}_{plot.x}_{plot.y}"))
    return files


def lines_of(filled: Filled, plot: PlotConfig) -> list[Line]:
    """The lines of a plot that have runs."""
    return [
        line
        for line in filled.lines
        if not line.row.of and (not plot.rows or line.row.label in plot.rows)
    ]


def trade_off(filled: Filled, plot: PlotConfig) -> Figure | None:
    """One column against another, a point for each line and column group."""
    columns = [next(c for c in filled.table.columns if c.name == name) for name in (plot.x, plot.y)]
    points: list[plots.Point] = []
    for line in lines_of(filled, plot):
        for group in filled.groups:
            x, y = (filled.cell(line, group, column.name).mean for column in columns)
            if x is not None and y is not None:
                label = ", ".join(filter(None, (line.section, line.row.label, group)))
                points.append(plots.Point(label, x, y, line.section or line.row.label))
    if not points:
        return None
    x_name, y_name = map(axis, columns)
    x_way, y_way = ("higher" if c.better == "higher" else "lower" for c in columns)
    marks = marks_of(filled, {x_name: columns[0], y_name: columns[1]})
    return plots.trade_off(points, x_name, y_name, (x_way, y_way), marks)


def axis(column: ColumnConfig) -> str:
    """What a picture calls a column: its metric, which pictures know how to name and scale."""
    return column.metric[0] if len(column.metric) == 1 else title_of(column)


def marks_of(filled: Filled, axes: dict[str, ColumnConfig]) -> plots.Marks:
    """Figures of the target and the retain model under the axes' names, where all have one."""
    marks: dict[str, dict[str, float | None]] = {}
    lines = [line for line in filled.lines if not line.row.of]
    for of, title in MARKS.items():
        means: dict[str, float | None] = {}
        for name, column in axes.items():
            figures = {
                filled.mark(of, line, group, column.name)
                for line in lines
                for group in filled.groups
            }
            means[name] = average(list(figures))[0]
        if None not in means.values():
            marks[title] = means
    return marks


def grid(filled: Filled, plot: PlotConfig) -> Figure | None:
    """Lines over steps, epochs or another number, a panel for each setting."""
    cells: dict[tuple[str, str], dict[float, tuple[float | None, float | None]]] = {}
    columns = [column for column in filled.table.columns if column.metric == [plot.y]]
    for line in lines_of(filled, plot):
        for group in filled.groups:
            for column in columns:
                cell = filled.cell(line, group, column.name)
                names = {"section": line.section, "across": group, "row": line.row.label}
                names |= {"step": str(column.step), "request": str(column.request)}
                x = number(names[plot.x])
                if x is not None and cell.mean is not None:
                    curve = cells.setdefault((names[plot.line], names[plot.panel]), {})
                    curve[x] = (cell.mean, cell.spread or 0.0)
    if not cells:
        return None
    x_name = {"step": "steps", "request": "requests"}.get(plot.x, plot.x)
    if plot.x == "across" and number(filled.groups[0]):
        x_name = filled.groups[0].rpartition(" ")[2]
    return plots.grid(cells, x_name, plot.y, marks_of(filled, {plot.y: columns[0]}))


def number(text: str) -> float | None:
    """The number at the end or the beginning of a label: `lr 1e-4`, `30 epochs`."""
    for word in reversed(text.split()):
        try:
            return float(word)
        except ValueError:
            continue
    return None
