"""The plots of a table: its figures as the plain data that reporting draws.

Imports matplotlib only where there is something to draw.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from undial_cli.config.tables import ColumnConfig, PlotConfig
from undial_cli.reporting.plot_lines import LinePanel, draw_lines
from undial_cli.reporting.plot_style import Marks, make_axis_title, save_figure
from undial_cli.reporting.plots import TradeOffPoint, draw_trade_off
from undial_cli.tables.figures import FilledTable, average_figures
from undial_cli.tables.load import name_plot_file
from undial_cli.tables.runs import TableLine

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_table_plots(filled: FilledTable, folder: Path) -> list[Path]:
    files: list[Path] = []
    for plot in filled.table.plots:
        draw = draw_table_trade_off if plot.kind == "trade_off" else draw_table_grid
        figure = draw(filled, plot)
        if figure is not None:
            files += save_figure(figure, folder / name_plot_file(plot))
    return files


def list_plotted_lines(filled: FilledTable, plot: PlotConfig) -> list[tuple[TableLine, str]]:
    """The lines of a plot that have runs, in each column group."""
    lines = [line for line in filled.lines if not line.row.of]
    shown = [line for line in lines if not plot.rows or line.row.label in plot.rows]
    return [(line, group) for line in shown for group in filled.groups]


def draw_table_trade_off(filled: FilledTable, plot: PlotConfig) -> Figure | None:
    """One column against another, a point for each line and column group.

    Or one metric against another, and a point for each step of which both have a column: then all
    points of a section are alike.
    """
    points: list[TradeOffPoint] = []
    pairs = pair_columns(filled.table.columns, plot)
    for line, group in list_plotted_lines(filled, plot):
        for columns in pairs:
            x, y = (filled.cell(line, group, column.name).mean for column in columns)
            if x is not None and y is not None:
                label = ", ".join(filter(None, (line.section, line.row.label, group)))
                series = line.section or line.row.label
                points.append(TradeOffPoint(label if len(pairs) == 1 else series, x, y, series))
    if not points:
        return None
    columns = pairs[-1]
    # by its metric a plot knows how to name and scale an axis
    x_name, y_name = (c.metric[0] if len(c.metric) == 1 else c.title for c in columns)
    x_way, y_way = ("higher" if c.better == "higher" else "lower" for c in columns)
    marks = collect_marks(filled, {x_name: columns[0], y_name: columns[1]})
    return draw_trade_off(points, x_name, y_name, (x_way, y_way), marks)


def pair_columns(
    columns: list[ColumnConfig], plot: PlotConfig
) -> list[tuple[ColumnConfig, ColumnConfig]]:
    """The columns that a trade-off shows against each other: those named, or those of one step."""
    named = {column.name: column for column in columns}
    if plot.x in named:
        return [(named[plot.x], named[plot.y])]
    across, up = ([c for c in columns if c.metric == [name]] for name in (plot.x, plot.y))
    return [(a, b) for a in across for b in up if a.step == b.step]


def collect_marks(filled: FilledTable, axes: dict[str, ColumnConfig]) -> Marks:
    """Figures of the target and the retain model under the axes' names, where all have one."""
    marks = {}
    lines = [line for line in filled.lines if not line.row.of]
    for of, title in (("target", "target"), ("retain", "retain model")):
        figures = {}
        for name, column in axes.items():
            known = {filled.mark(of, a, group, column) for a in lines for group in filled.groups}
            figures[name] = average_figures(known)[0]
        if None not in figures.values():
            marks[title] = figures
    return marks


def draw_table_grid(filled: FilledTable, plot: PlotConfig) -> Figure | None:
    """Lines over steps, epochs or another number, a panel for each setting."""
    panels: dict[str, LinePanel] = {}
    columns = [column for column in filled.table.columns if column.metric == [plot.y]]
    for line, group in list_plotted_lines(filled, plot):
        for column in columns:
            cell = filled.cell(line, group, column.name)
            names = {"section": line.section, "across": group, "row": line.row.label}
            names |= {"step": str(column.step), "request": str(column.request)}
            x = parse_label_number(names[plot.x])
            if x is not None and cell.mean is not None:
                title = names[plot.panel]
                panel = panels.setdefault(title, LinePanel(title, plot.y))
                panel.lines.setdefault(names[plot.line], {})[x] = (cell.mean, cell.spread)
    if not panels:
        return None
    x_name = {"step": "steps", "request": "requests"}.get(plot.x, plot.x)
    if plot.x == "across" and parse_label_number(filled.groups[0]):
        x_name = filled.groups[0].rpartition(" ")[2]  # "30 epochs": the axis is of epochs
    marks = collect_marks(filled, {plot.y: columns[0]})
    xs = {x for panel in panels.values() for curve in panel.lines.values() for x in curve}
    ticks = {x: f"{x:g}" for x in sorted(xs)}
    return draw_lines(list(panels.values()), x_name, make_axis_title(plot.y), marks, ticks)


def parse_label_number(text: str) -> float | None:
    """The number at the end or the beginning of a label: `lr 1e-4`, `30 epochs`."""
    for word in reversed(text.split()):
        try:
            return float(word)
        except ValueError:
            continue
    return None
