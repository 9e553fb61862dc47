"""A table on the screen: the plan before, and ours beside the published figures after.

Knows rich and the texts of render.py.
"""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from undial_cli import ui
from undial_cli.planning.estimate import estimate
from undial_cli.tables.config import TableConfig
from undial_cli.tables.figures import Cell, Filled, failures
from undial_cli.tables.render import Block, blocks, cell_text, heading, notes
from undial_cli.tables.runs import DONE, FAILED, REFUSED, Line, TableRun


def show_plan(
    config: TableConfig, lines: list[Line], runs: list[TableRun], lacking: dict[str, str]
) -> None:
    """Print the runs, how they stand, and what the missing ones cost."""
    table = Table(title=f"plan: {config.title}", title_justify="left")
    for column in ("row", "runs", "done", "failed", "missing"):
        table.add_column(column, justify="left" if column == "row" else "right", overflow="fold")
    before = ""
    for line in lines:
        mine = [entry for entry in runs if entry.line == line]
        before = section(table, line, before, 4)
        if line.row.of:
            whose = {"target": "target", "retain": "retain model"}[line.row.of]
            table.add_row(Text(line.row.label), Text(f"none: of the {whose}", "dim"), "", "", "")
            continue
        done = sum(entry.status == DONE for entry in mine)
        bad = sum(entry.status in (FAILED, REFUSED) for entry in mine)
        counts = (len(mine), done, bad, len(mine) - done - bad)
        table.add_row(Text(line.row.label), *(str(n) if n else "-" for n in counts))
    ui.say(table)
    ui.say(summed(runs))
    for place, reason in failures(runs):
        ui.say(f"failed before: {place}: {reason}", "yellow")
    for key, what in lacking.items():
        ui.say(f"needs {key}=...: {what}", "yellow")
    finished = [entry.seconds for entry in runs if entry.status == DONE and entry.seconds]
    missing = [entry.run for entry in runs if entry.status != DONE]
    cost = estimate(config.cost, missing, finished)
    if cost:
        ui.say(cost, "dim")


def summed(runs: list[TableRun]) -> str:
    """How many runs there are, and how they stand."""
    done = sum(entry.status == DONE for entry in runs)
    return f"{len(runs)} runs: {done} done, {len(runs) - done} to be run"


def section(table: Table, line: Line, before: str, columns: int) -> str:
    """Begin a new section where one begins."""
    if line.section and line.section != before:
        table.add_section()
        table.add_row(Text(line.section, "bold"), *([""] * columns))
    return line.section or before


def show(filled: Filled) -> None:
    """Print ours beside the published figures, and what has to be said of them."""
    for block in blocks(filled):
        ui.say(drawn(filled, block))
    said = notes(filled)
    for style, texts in (
        ("red", said.failures),
        ("", said.claims),
        ("dim", said.facts),
        ("yellow", said.agreement),
    ):
        for text in texts:
            ui.say(text, style)


def drawn(filled: Filled, block: Block) -> Table:
    """One rich table."""
    title = ": ".join(part for part in (filled.table.title, block.title) if part)
    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold")
    several = len({across for across, _ in block.columns}) > 1
    for across, column in block.columns:
        name = f"{across}\n{heading(column)}" if several else heading(column)
        table.add_column(Text(name), justify="right")
    before = ""
    for line, cells in block.rows:
        before = section(table, line, before, len(cells))
        texts = [
            Text(cell_text(cell, column), style(cell))
            for cell, (_, column) in zip(cells, block.columns, strict=True)
        ]
        table.add_row(Text(line.row.label), *texts)
    return table


def style(cell: Cell) -> str:
    """How a cell looks."""
    if cell.gap == "failed" or cell.within is False:
        return "red"
    return "green" if cell.within else ""
