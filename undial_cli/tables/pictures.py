"""The pictures of a table: its figures as the plain data that reporting/plots.py draws.

Imports matplotlib only where there is something to draw.
"""

from __future__ import annotations

from pathlib import Path

from undial_cli.tables.config import ColumnConfig, PlotConfig
from undial_cli.tables.figures import Filled
from undial_cli.tables.runs import Line

Grid = dict[tuple[str, str], dict[float, tuple[float, float]]]
MARKS = {"target": "target", "retain": "retain model"}


def draw(filled: Filled, folder: Path) -> list[Path]:
    """Draw the table's plots that have any figure; returns the files."""
    files: list[Path] = []
    for plot in filled.table.plots:
        name = folder / (plot.name or f"{plot.kind}_{plot.x}_{plot.y}")
        files += trade_off(filled, plot, name) if plot.kind == "trade_off" else []
        files += grid(filled, plot, name) if plot.kind == "grid" else []
    return files


def drawn(filled: Filled, plot: PlotConfig) -> list[Line]:
    """The lines of a plot that have runs."""
    return [
        line
        for line in filled.lines
        if not line.row.of and (not plot.rows or line.row.label in plot.rows)
    ]


def column_of(filled: Filled, name: str) -> ColumnConfig:
    """A column by name."""
    return next(c for c in filled.table.columns if c.name == name)


def trade_off(filled: Filled, plot: PlotConfig, name: Path) -> list[Path]:
    """One column against another, a point for each line and column group."""
    x, y = column_of(filled, plot.x), column_of(filled, plot.y)
    several = len(filled.groups) > 1
    found: list[tuple[str, float, float, str]] = []
    for line in drawn(filled, plot):
        for across in filled.groups:
            place = [filled.cell(line, across, c.name).mean for c in (x, y)]
            if place[0] is None or place[1] is None:
                continue
            label = f"{line.row.label}, {across}" if several else line.row.label
            found.append((label, place[0], place[1], line.section or line.row.label))
    if not found:
        return []
    from undial_cli.reporting import plots

    points = [plots.Point(label, px, py, group) for label, px, py, group in found]
    titles = axis(x), axis(y)
    better = tuple("higher" if c.better == "higher" else "lower" for c in (x, y))
    marks = marks_of(filled, {titles[0]: x, titles[1]: y})
    return plots.save(plots.trade_off(points, *titles, (better[0], better[1]), marks), name)


def axis(column: ColumnConfig) -> str:
    """What a picture calls a column: its metric, which pictures know how to name and scale."""
    return column.metric[0] if len(column.metric) == 1 else column.title


def marks_of(filled: Filled, axes: dict[str, ColumnConfig]) -> dict[str, dict[str, float]]:
    """Figures of the target and the retain model under the axes' names, where all have one."""
    found: dict[str, dict[str, float]] = {}
    lines = [line for line in filled.lines if not line.row.of]
    for of, title in MARKS.items():
        place: dict[str, float] = {}
        for name, column in axes.items():
            values = {
                value
                for line in lines
                for across in filled.groups
                if (value := filled.mark(of, line, across, column.name)) is not None
            }
            if values:
                place[name] = sum(values) / len(values)
        if len(place) == len(axes):
            found[title] = place
    return found


def cells_of(filled: Filled, plot: PlotConfig) -> Grid:
    """(line, panel) -> x -> (mean, spread) of all columns that hold the plot's metric alone."""
    found: Grid = {}
    for line in drawn(filled, plot):
        for across in filled.groups:
            for column in filled.table.columns:
                cell = filled.cell(line, across, column.name)
                if column.metric != [plot.y] or cell.mean is None:
                    continue
                names = {"section": line.section, "across": across, "row": line.row.label}
                names |= {"step": str(column.step), "request": str(column.request)}
                x = number(names[plot.x])
                if x is not None:
                    key = names[plot.line], names[plot.panel]
                    found.setdefault(key, {})[x] = (cell.mean, cell.spread or 0.0)
    return found


def number(text: str) -> float | None:
    """The number at the end or the beginning of a label: `lr 1e-4`, `30 epochs`."""
    for word in reversed(text.split()):
        try:
            return float(word)
        except ValueError:
            continue
    return None


def grid(filled: Filled, plot: PlotConfig, name: Path) -> list[Path]:
    """Lines over steps, epochs or another number, a panel for each setting."""
    cells = cells_of(filled, plot)
    if not cells:
        return []
    from undial_cli.reporting import plots

    column = next(c for c in filled.table.columns if c.metric == [plot.y])
    x = {"step": "steps", "request": "requests"}.get(plot.x, plot.x)
    if plot.x == "across" and filled.groups[0]:
        x = filled.groups[0].rpartition(" ")[2] if number(filled.groups[0]) else x
    return plots.save(plots.grid(cells, x, plot.y, marks_of(filled, {plot.y: column})), name)
