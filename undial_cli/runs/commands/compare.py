"""`undial compare RUN RUN [MORE...]`: what differs in settings, and the figures side by side.

Reads what runs left; nothing is computed anew but the intervals of differences.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from undial_cli import ui
from undial_cli.errors import UserError
from undial_cli.reporting import comparison, notes
from undial_cli.reporting.collect import (
    RunRecord,
    find_run_folders,
    find_sweep_runs,
    read_run_record,
)
from undial_cli.reporting.sheet import make_screen_table
from undial_cli.runs.command_words import parse_command_words

COMPARE_FLAGS = {"json": ""}


def run_compare_command(words: Sequence[str]) -> int:
    """Do `undial compare WORDS`; returns the exit code.

    Raises:
        UserError: a wrong word, or fewer than two runs.
    """
    asked = parse_command_words("compare", words, COMPARE_FLAGS)
    runs = [read_run_record(folder) for folder in find_compared_runs(asked.paths)]
    differences = [comparison.compute_differences(runs[0], run) for run in runs[1:]]
    if asked.has("json"):
        print(json.dumps(record_comparison(runs, differences), indent=2))
        return 0
    names = comparison.name_runs(runs)
    ui.say(make_screen_table(comparison.make_overview_sheet(runs, names)))
    settings = comparison.make_differing_sheet(runs, names)
    if settings.rows:
        ui.say(make_screen_table(settings))
    else:
        ui.say("no setting that figures depend on differs")
    figures = comparison.make_figures_sheet(runs, names, differences)
    if figures.rows:
        ui.say(make_screen_table(figures, headings=False))
        if any(part.get("interval") for each in differences for part in each.values()):
            ui.say(
                "in brackets: 95 % interval of the difference, paired by rows or subjects", "dim"
            )
    say_notes(runs, names, differences)
    return 0


def find_compared_runs(paths: Sequence[Path]) -> list[Path]:
    """The run folders at or below the paths, in their order.

    Raises:
        UserError: a path is none, or there are fewer than two runs.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        path = path.parent if path.name == "run.yaml" else path
        if not path.is_dir():
            raise UserError(f"compare {path}: no such folder; allowed is a run folder, a "
                            "sweep folder, or one with runs below it")  # fmt: skip
        inside = find_sweep_runs(path) or list(find_run_folders(path))
        if not inside:
            raise UserError(f"compare {path}: there are no runs (no run.yaml below)")
        folders |= {folder.resolve(): folder for folder in inside}
    if len(folders) < 2:
        raise UserError("compare: expected two runs or more, as in undial compare "
                        f"outputs/unlearn/A outputs/unlearn/B; got {len(folders)}")  # fmt: skip
    return list(folders.values())


def say_notes(
    runs: Sequence[RunRecord],
    names: Sequence[str],
    differences: Sequence[comparison.Differences],
) -> None:
    """Say what has to be known of the runs, and why a difference has no interval."""
    for run, name in zip(runs, names, strict=True):
        for line in filter(None, [notes.state_damage(run.results), *run.problems]):
            ui.say(f"{name}: {line}", "yellow")
    for name, part in zip(names[1:], differences, strict=True):
        if part and not any(difference.get("interval") for difference in part.values()):
            ui.say(f"{name} − {names[0]}: no intervals, as their samples are not there, not the "
                   "same rows, or too few", "yellow")  # fmt: skip


def record_comparison(
    runs: Sequence[RunRecord], differences: Sequence[comparison.Differences]
) -> dict[str, Any]:
    """The comparison as JSON has it; differences are to the first run."""
    return {
        "runs": [
            {
                "folder": str(run.folder),
                "status": run.status,
                "seconds": run.seconds,
                "verdict": notes.read_verdict(run.results).get("word"),
                "metrics": run.figures(),
            }
            for run in runs
        ],
        "settings": comparison.find_differing_settings(runs),
        "differences": list(differences),
    }
