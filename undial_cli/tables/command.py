"""`undial reproduce table=NAME`: the plan, what is missing of it, and the table that comes out.

The way of the command, top to bottom. Imports no torch; the runs are others' work.
"""

from __future__ import annotations

from pathlib import Path

from undial_cli import ui
from undial_cli.errors import UserError
from undial_cli.tables import files, load, screen
from undial_cli.tables.figures import fill
from undial_cli.tables.runs import DONE, REFUSED, TableRun, lacking, lines_of, runs_of

EXIT_CODES = {DONE: 0, "failed": 1, REFUSED: 2}


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
    screen.show_plan(asked.table, lines, runs, lacks)
    if asked.plan:
        return 0
    missing = [entry for entry in runs if entry.status != DONE]
    if lacks and missing:
        key, what = next(iter(lacks.items()))
        raise UserError(f"table={name}: needs {key}=..., {what}")
    code = fulfil(missing, asked.table.title)
    filled = fill(asked.table, name, lines, runs)
    said = [w for w in words if w.partition("=")[0] in ("rows", "seeds") or w in others]
    place = Path(asked.output_dir).expanduser() / "reproduce" / name
    written = files.write(filled, place, said)
    screen.show(filled)
    ui.say(f"in {place}: {', '.join(sorted(file.name for file in written))}")
    if missing:
        from undial_cli.reporting.report import after

        page = after([place], place / "report")
        ui.say(f"report: {page}" if page else f"undial report {place} makes the page of the runs")
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
