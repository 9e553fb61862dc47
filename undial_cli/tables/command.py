"""`undial reproduce table=NAME`: the plan, what is missing of it, and the table that comes out.

The way of the command, top to bottom. Imports no torch; the runs are others' work.
"""

from __future__ import annotations

from pathlib import Path

from undial_cli import ui
from undial_cli.config.tables import TableConfig
from undial_cli.errors import UserError, bad_value
from undial_cli.planning.estimate import estimate_missing_runs
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow, make_screen_table
from undial_cli.sweeps.jobs import EXIT_CODES, Job
from undial_cli.system.files import is_plain_name
from undial_cli.tables import load, render
from undial_cli.tables.figures import FilledTable, fill_table, list_failures
from undial_cli.tables.runs import (
    DONE,
    FAILED,
    REFUSED,
    TableLine,
    TableRun,
    compose_table_runs,
    find_lacking_keys,
    list_table_lines,
)
from undial_cli.tables.search import (
    choose_settings,
    compose_table_searches,
    fail_unsearched_runs,
)


def run_reproduce_command(words: list[str]) -> int:
    """Do `undial reproduce WORDS`; returns the exit code: 1 if a run failed, 2 if one was refused.

    Raises:
        UserError: a word is wrong; nothing has been run and nothing written.
    """
    command_words, run_words, folder = load.split_table_words(words)
    asked = load.load_table(command_words, folder)
    name = next(w.partition("=")[2] for w in reversed(command_words) if w.startswith("table="))
    if not all(map(is_plain_name, name.split("/"))):
        raise bad_value("table", name, load.list_table_names(folder))
    lines = list_table_lines(asked.table, asked.rows)
    searches = compose_table_searches(asked, lines, run_words, folder)
    tried = [entry for one in searches for entry in one.runs]
    runs = compose_table_runs(asked, lines, run_words, folder, choose_settings(searches))
    lacking = find_lacking_keys(asked.table, runs)
    searched = {entry.folder.path for entry in tried}  # may hold runs of the table
    planned = [*tried, *(entry for entry in runs if entry.folder.path not in searched)]
    show_table_plan(asked.table, lines, planned, lacking)
    if asked.plan:
        return 0
    if lacking and any(entry.status != DONE for entry in planned):
        key, meaning = next(iter(lacking.items()))
        raise UserError(f"table={name}: needs {key}=..., {meaning}")
    if searches:
        run_table(
            [entry for entry in tried if entry.status != DONE], f"{asked.table.title}: search"
        )
        runs = compose_table_runs(asked, lines, run_words, folder, choose_settings(searches))
    unsearched = fail_unsearched_runs(searches, runs)
    missing = [entry for entry in runs if entry.status != DONE and entry not in unsearched]
    code = max(run_table(missing, asked.table.title), EXIT_CODES[FAILED] if unsearched else 0)
    filled = fill_table(asked.table, name, lines, runs, searches)
    output = Path(asked.output_dir).expanduser() / "reproduce" / name
    # what tells this table from the same one asked for in another way
    telling = [w for w in words if w.partition("=")[0] in ("rows", "seeds") or w in run_words]
    written = render.write_table_files(filled, output, telling)
    show_table(filled)
    ui.say(f"in {output}: {', '.join(sorted(file.name for file in written))}")
    if missing:
        from undial_cli.reporting.report import try_write_report
        from undial_cli.runs.evidence import settle_ledgers

        page = try_write_report([output], output / "report")
        settle_ledgers([output])
        ui.say(f"report: {page}" if page else f"undial report {output} makes the page of the runs")
    return code


def run_table(missing: list[TableRun], title: str) -> int:
    """Run what is missing, and note how it ended; the worst exit code."""
    if not missing:
        return 0
    from undial_cli.sweeps.sweep import run_jobs

    jobs = [Job(entry.label, entry.run, entry.values) for entry in missing]
    worst = 0
    for entry, outcome in zip(missing, run_jobs(jobs, title), strict=True):
        entry.read_status()
        if outcome.status != DONE:
            entry.status, entry.reason = outcome.status, outcome.reason or entry.reason
        worst = max(worst, EXIT_CODES[outcome.status])
    return worst


def show_table_plan(
    config: TableConfig, lines: list[TableLine], runs: list[TableRun], lacking: dict[str, str]
) -> None:
    """Print the runs, how they stand, and what the missing ones cost."""
    columns = [Column("row", numeric=False), *map(Column, ("runs", "done", "failed", "missing"))]
    rows = []
    for line in lines:
        statuses = [entry.status for entry in runs if entry.line == line]
        done = statuses.count(DONE)
        failed = statuses.count(FAILED) + statuses.count(REFUSED)
        counts = (len(statuses), done, failed, len(statuses) - done - failed)
        cells = [Cell(str(count) if count else "-") for count in counts]
        if line.row.of:
            model = {"target": "target", "retain": "retain model"}[line.row.of]
            cells = [Cell(f"none: of the {model}", style="dim"), Cell(), Cell(), Cell()]
        rows.append(SheetRow([Cell(line.row.label), *cells], line.section))
    ui.say(make_screen_table(Sheet(f"plan: {config.title}", columns, rows)))
    done = sum(entry.status == DONE for entry in runs)
    ui.say(f"{len(runs)} runs: {done} done, {len(runs) - done} to be run")
    for position, reason in list_failures(runs):
        ui.say(f"failed before: {position}: {reason}", "yellow")
    for key, meaning in lacking.items():
        ui.say(f"needs {key}=...: {meaning}", "yellow")
    finished = [entry.seconds for entry in runs if entry.status == DONE and entry.seconds]
    missing = [entry.run for entry in runs if entry.status != DONE]
    cost = estimate_missing_runs(config.cost, missing, finished)
    if cost:
        ui.say(cost, "dim")


def show_table(filled: FilledTable) -> None:
    for sheet in render.make_table_sheets(filled):
        ui.say(make_screen_table(sheet))
    for style, note in render.list_table_notes(filled):
        ui.say(note, style)
