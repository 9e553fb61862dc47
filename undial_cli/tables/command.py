"""`undial reproduce table=NAME`: the plan, what is missing of it, and the table that comes out.

The way of the command, top to bottom. Imports no torch; the runs are others' work.
"""

from __future__ import annotations

from pathlib import Path

from undial_cli import ui
from undial_cli.errors import UserError
from undial_cli.planning.estimate import estimate
from undial_cli.reporting.sheet import Cell, Column, Row, Sheet, on_screen
from undial_cli.tables import load, render
from undial_cli.tables.config import TableConfig
from undial_cli.tables.figures import Filled, failures, fill
from undial_cli.tables.runs import (
    DONE,
    FAILED,
    REFUSED,
    Line,
    TableRun,
    lacking,
    lines_of,
    runs_of,
)

EXIT_CODES = {DONE: 0, FAILED: 1, REFUSED: 2}


def run(words: list[str]) -> int:
    """Do `undial reproduce WORDS`; returns the exit code.

    0: every run of the table is done (or only the plan was asked for), 1: one failed, 2: one was
    refused.

    Raises:
        UserError: a word is wrong; nothing has been run and nothing written.
    """
    own, others, folder = load.parted(words)
    asked = load.read(own, folder)
    name = next(w.partition("=")[2] for w in reversed(own) if w.startswith("table="))
    lines = lines_of(asked.table, asked.rows)
    runs = runs_of(asked, lines, others, folder)
    lacks = lacking(asked.table, runs)
    show_plan(asked.table, lines, runs, lacks)
    if asked.plan:
        return 0
    missing = [entry for entry in runs if entry.status != DONE]
    if lacks and missing:
        key, meaning = next(iter(lacks.items()))
        raise UserError(f"table={name}: needs {key}=..., {meaning}")
    code = fulfil(missing, asked.table.title)
    filled = fill(asked.table, name, lines, runs)
    given = [w for w in words if w.partition("=")[0] in ("rows", "seeds") or w in others]
    output = Path(asked.output_dir).expanduser() / "reproduce" / name
    written = render.write(filled, output, given)
    show(filled)
    ui.say(f"in {output}: {', '.join(sorted(file.name for file in written))}")
    if missing:
        from undial_cli.reporting.report import after

        page = after([output], output / "report")
        ui.say(f"report: {page}" if page else f"undial report {output} makes the page of the runs")
    return code


def fulfil(missing: list[TableRun], title: str) -> int:
    """Run what is missing, and note how it ended; the worst exit code."""
    if not missing:
        return 0
    from undial_cli.sweeping.job import Job
    from undial_cli.sweeping.sweep import run_all

    jobs = [Job(entry.label, entry.run, entry.values) for entry in missing]
    worst = 0
    for entry, outcome in zip(missing, run_all(jobs, title), strict=True):
        if outcome.status == REFUSED:
            entry.status = REFUSED
        entry.look()
        if outcome.status != DONE:
            entry.status, entry.reason = outcome.status, outcome.reason or entry.reason
        worst = max(worst, EXIT_CODES[outcome.status])
    return worst


def show_plan(
    config: TableConfig, lines: list[Line], runs: list[TableRun], lacks: dict[str, str]
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
    for key, meaning in lacks.items():
        ui.say(f"needs {key}=...: {meaning}", "yellow")
    finished = [entry.seconds for entry in runs if entry.status == DONE and entry.seconds]
    missing = [entry.run for entry in runs if entry.status != DONE]
    cost = estimate(config.cost, missing, finished)
    if cost:
        ui.say(cost, "dim")


def show(filled: Filled) -> None:
    """Print ours beside the published figures, and what has to be said of them."""
    for part in render.sheets(filled):
        ui.say(on_screen(part))
    for style, note in render.notes(filled):
        ui.say(note, style)
