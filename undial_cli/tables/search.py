"""The search of a table: a grid of runs for every line, the best of which gives its settings.

Knows how runs of a table are composed, and what `train.select` says of them; imports no torch.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undial_cli.config.schema import TrainingRun
from undial_cli.config.tables import ReproduceConfig, SearchConfig
from undial_cli.errors import UserError
from undial_cli.evaluation.selection_rule import score_choice
from undial_cli.reporting.collect import get_part
from undial_cli.reporting.sheet import format_csv
from undial_cli.reporting.text import parse_number
from undial_cli.tables.runs import (
    DONE,
    FAILED,
    REFUSED,
    TableLine,
    TableRun,
    compose_table_run,
    list_table_places,
)

SEARCH_HEADER = (
    "section", "row", "across", "settings", "select", "figure", "utility", "chosen", "status",
    "folder",
)  # fmt: skip


@dataclass(frozen=True)
class LineSearch:
    """What is tried for a line in a column group: settings as words, and a run of each."""

    line: TableLine
    across: str
    tried: list[tuple[str, ...]]
    runs: list[TableRun]

    def find_best(self) -> int | None:
        """The number of the best run, the first of equal ones; None before all have ended, and
        where none has a figure."""
        if not all(entry.status in (DONE, FAILED, REFUSED) for entry in self.runs):
            return None
        ranks = [(rank_selected(entry), n) for n, entry in enumerate(self.runs)]
        known = [(rank, n) for rank, n in ranks if rank is not None]
        return min(known)[1] if known else None


def compose_table_searches(
    asked: ReproduceConfig, lines: list[TableLine], words: list[str], folder: str | None
) -> list[LineSearch]:
    """The searches of the lines, their runs looked up; none of a line that leaves no key open.

    Raises:
        UserError: nothing says what is best.
    """
    table, searches = asked.table, []
    for line, group in list_table_places(table, lines):
        given = {word.partition("=")[0] for word in (*line.row.overrides, *words)}
        points = list_grid_points(table.search, given)
        runs = []
        for point in points:
            further = [*table.search.overrides, *point]
            entry = compose_table_run(asked, line, group, table.seeds[0], words, folder, further)
            entry.searched = ", ".join(point)
            if not isinstance(entry.run, TrainingRun) or entry.run.train.select is None:
                raise UserError(
                    f"table.search: {entry.position}: needs train.select, which says what is best"
                )
            runs.append(entry)
        if runs:
            searches.append(LineSearch(line, group.label, points, runs))
    return searches


def list_grid_points(search: SearchConfig, given: Collection[str]) -> list[tuple[str, ...]]:
    """Each combination of the grid's values as words, but for keys that are given; [] of none."""
    axes = [
        [f"{key}={value}" for value in values]
        for key, values in search.grid.items()
        if key not in given
    ]
    return list(itertools.product(*axes)) if axes else []


def rank_selected(entry: TableRun) -> float | None:
    """What a run is ranked by, less being better: the score of the weights that it chose."""
    chosen = get_part(entry.record.results, "selection") if entry.status == DONE else {}
    score = score_choice(chosen)
    return score if score is None or chosen.get("direction") == "minimize" else -score


def choose_settings(searches: list[LineSearch]) -> dict[tuple[TableLine, str], tuple[str, ...]]:
    """The further words of each line's runs by column group; before its search has ended those of
    the search's first run."""
    return {(one.line, one.across): one.tried[one.find_best() or 0] for one in searches}


def fail_unsearched_runs(searches: list[LineSearch], runs: list[TableRun]) -> list[TableRun]:
    """The runs whose search gave nothing to choose from: they count as failed."""
    without = {(one.line, one.across) for one in searches if one.find_best() is None}
    failed = [entry for entry in runs if (entry.line, entry.across) in without]
    for entry in failed:
        entry.status, entry.reason = FAILED, "no run of its search has a figure of train.select"
    return failed


def list_search_notes(searches: list[LineSearch]) -> list[str]:
    """What was chosen for each line, and from what, by its figure of train.select."""
    notes = []
    for one in searches:
        if (best := one.find_best()) is not None:
            tried = ", ".join(f"{run.searched} ({describe_selected(run)})" for run in one.runs)
            notes.append(f"{one.runs[best].position}: the best of {tried}")
    return notes


def describe_selected(entry: TableRun) -> str:
    """The figure that a run's weights were chosen by, or how it ended."""
    if rank_selected(entry) is None:
        return "no figure" if entry.status == DONE else entry.status
    chosen = get_part(entry.record.results, "selection")
    short = "" if chosen.get("keeps_utility") is not False else ", too little utility"
    return f"{chosen.get('select')} {parse_number(chosen.get('figure')):.3g}{short}"


def format_search_csv(searches: list[LineSearch], folder: Path) -> str:
    """One line for each run of the searches."""
    rows: list[Sequence[Any]] = [SEARCH_HEADER]
    for one in searches:
        best = one.find_best()
        for n, entry in enumerate(one.runs):
            chosen = get_part(entry.record.results, "selection")
            figures = [chosen.get(key) for key in ("select", "figure", "utility")]
            path = os.path.relpath(entry.folder.path, folder)
            ended = (str(n == best).lower(), entry.status, path)
            line = (one.line.section, one.line.row.label, one.across)
            rows.append((*line, entry.searched, *figures, *ended))
    return format_csv(rows)
