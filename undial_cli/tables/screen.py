"""A table on the screen: the plan before, and ours beside the published figures after.

Knows the texts of render.py.
"""

from __future__ import annotations

import dataclasses

from undial_cli import ui
from undial_cli.reporting.sheet import Cell, Column, Row, Sheet, on_screen
from undial_cli.tables.config import TableConfig
from undial_cli.tables.cost import estimate
from undial_cli.tables.figures import Filled, failures
from undial_cli.tables.render import caption_of, notes, sheets
from undial_cli.tables.runs import DONE, FAILED, REFUSED, Line, TableRun


def show_plan(
    config: TableConfig, lines: list[Line], runs: list[TableRun], lacking: dict[str, str]
) -> None:
    """Print the runs, how they stand, and what the missing ones cost."""
    columns = [Column("row", numeric=False), *map(Column, ("runs", "done", "failed", "missing"))]
    rows = []
    for line in lines:
        statuses = [entry.status for entry in runs if entry.line == line]
        done = statuses.count(DONE)
        bad = statuses.count(FAILED) + statuses.count(REFUSED)
        counts = (len(statuses), done, bad, len(statuses) - done - bad)
        cells = [Cell(str(count) if count else "-") for count in counts]
        if line.row.of:
            model = {"target": "target", "retain": "retain model"}[line.row.of]
            cells = [Cell(f"none: of the {model}", style="dim"), Cell(), Cell(), Cell()]
        rows.append(Row([Cell(line.row.label), *cells], line.section))
    ui.say(on_screen(Sheet(f"plan: {config.title}", columns, rows)))
    done = sum(entry.status == DONE for entry in runs)
    ui.say(f"{len(runs)} runs: {done} done, {len(runs) - done} to be run")
    for where, reason in failures(runs):
        ui.say(f"failed before: {where}: {reason}", "yellow")
    for key, meaning in lacking.items():
        ui.say(f"needs {key}=...: {meaning}", "yellow")
    cost = estimate(config.cost, runs)
    if cost:
        ui.say(cost, "dim")


def show(filled: Filled) -> None:
    """Print ours beside the published figures, and what has to be said of them."""
    for part in sheets(filled):
        ui.say(on_screen(dataclasses.replace(part, title=caption_of(filled, part))))
    said = notes(filled)
    for style, texts in (
        ("red", said.failures),
        ("", said.claims),
        ("dim", said.facts),
        ("yellow", said.agreement),
    ):
        for text in texts:
            ui.say(text, style)
