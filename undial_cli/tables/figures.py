"""The figures of a table: read from run folders, averaged over seeds, held against published ones.

Knows the files of a run folder and the table's config; imports no torch.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undial_cli.config.tables import ColumnConfig, RowConfig, TableConfig
from undial_cli.reporting.collect import (
    RunRecord,
    list_request_figures,
    read_jsonl_objects,
    read_object,
)
from undial_cli.tables.runs import DONE, FAILED, REFUSED, TableLine, TableRun

# What results.json calls the figures of a model.
RESULT_NAMES = {"target": "target", "retain": "reference"}


@dataclass(frozen=True)
class FigureCell:
    """One figure: mean and spread (sample standard deviation; None of one run) over `n` runs.

    `within`: whether it agrees with the published figure; None where one of the two or the
    tolerance is not there. `gap`: why there is no mean. `short`: some of its runs failed.
    """

    mean: float | None = None
    spread: float | None = None
    n: int = 0
    reference: float | None = None
    within: bool | None = None
    gap: str = ""
    short: bool = False

    @property
    def difference(self) -> float | None:
        """Ours less the published figure."""
        return None if self.mean is None or self.reference is None else self.mean - self.reference


@dataclass
class FilledTable:
    """A table with its figures, by line, column group and column."""

    table: TableConfig
    name: str
    lines: list[TableLine]
    runs: list[TableRun]
    cells: dict[tuple[TableLine, str, str], FigureCell] = field(default_factory=dict)
    records: dict[Path, RunRecord] = field(default_factory=dict)

    @property
    def groups(self) -> list[str]:
        """The column groups; one without a name where there are none."""
        return [across.label for across in self.table.across] or [""]

    def cell(self, line: TableLine, across: str, column: str) -> FigureCell:
        """A cell; an empty one where the line is not run in that group."""
        return self.cells.get((line, across, column), FigureCell())

    def column(self, name: str) -> ColumnConfig:
        """A column by name."""
        return next(column for column in self.table.columns if column.name == name)

    def mark(self, of: str, line: TableLine, across: str, column: ColumnConfig) -> float | None:
        """The target's or retain model's figure in the place of a cell."""
        near = [r for r in self.runs if r.across == across and r.line.section == line.section]
        return average_figures(self.figures(near, column, of))[0]

    def figures(self, runs: list[TableRun], column: ColumnConfig, of: str) -> list[float | None]:
        """A column's figure of each run that is done."""
        done = [entry.folder.path for entry in runs if entry.status == DONE]
        for folder in done:
            if folder not in self.records:
                results = read_object(folder / "evaluation" / "results.json")
                steps = read_jsonl_objects(folder / "metrics.jsonl", [])
                self.records[folder] = RunRecord(folder, results=results, steps=steps)
        return [read_column_figure(self.records[folder], column, of) for folder in done]


def fill_table(
    table: TableConfig, name: str, lines: list[TableLine], runs: list[TableRun]
) -> FilledTable:
    """All cells of a table from the run folders as they are now."""
    found = FilledTable(table, name, lines, runs)
    for line in lines:
        for across in found.groups:
            if line.row.across and across not in line.row.across:
                continue
            mine = [r for r in runs if r.across == across and r.line == line]
            if line.row.of:
                mine = choose_model_runs(line, across, runs)
            for column in table.columns:
                cell = make_run_cell(found, line.row, column, mine)
                reference = find_published_figure(line, across, column.name)
                found.cells[line, across, column.name] = compare_to_published(
                    cell, reference, column
                )
    return found


def choose_model_runs(line: TableLine, across: str, runs: list[TableRun]) -> list[TableRun]:
    """The runs whose target and retain model a line without runs shows: one for each seed."""
    found: dict[int, TableRun] = {}
    for entry in runs:
        fits = entry.across == across and line.section in ("", entry.line.section)
        if fits and (entry.seed not in found or found[entry.seed].status != DONE):
            found[entry.seed] = entry
    return list(found.values())


def make_run_cell(
    filled: FilledTable, row: RowConfig, column: ColumnConfig, runs: list[TableRun]
) -> FigureCell:
    """Mean and spread over the runs that are done, or why there is none."""
    values = filled.figures(runs, column, row.of)
    mean, spread, n = average_figures(values)
    short = any(entry.status in (FAILED, REFUSED) for entry in runs) and not row.of
    if mean is not None:
        return FigureCell(mean, spread, n, short=short)
    return FigureCell(gap="no figure" if values else "failed" if short else "not run")


def average_figures(values: Iterable[float | None]) -> tuple[float | None, float | None, int]:
    """Mean, sample standard deviation and number of the figures that are there."""
    known = [v for v in values if v is not None]
    if not known:
        return None, None, 0
    spread = statistics.stdev(known) if len(known) > 1 else None
    return statistics.fmean(known), spread, len(known)


def read_column_figure(record: RunRecord, column: ColumnConfig, of: str) -> float | None:
    """A column's figure of a run; None where it, or one of its parts, is missing."""
    values = select_run_figures(record, column, of)
    parts = [values.get(metric) for metric in column.metric]
    numbers = [p for p in parts if isinstance(p, int | float) and math.isfinite(p)]
    return statistics.fmean(numbers) if len(numbers) == len(parts) else None


def select_run_figures(record: RunRecord, column: ColumnConfig, of: str) -> dict[str, Any]:
    """The figures among which a column's is: at the end, at a step, or after a request."""
    if of:
        return record.figures(RESULT_NAMES[of])
    if column.step is not None:
        rows = [row for row in record.steps if row.get("step") == column.step]
        return {name: value for row in rows for name, value in row.items()}
    if column.request == 0:
        return record.figures("target")
    if column.request is not None:
        served = list_request_figures(record.results)
        return served[column.request - 1] if column.request <= len(served) else {}
    return record.figures()


def find_published_figure(line: TableLine, across: str, column: str) -> float | None:
    """The published figure of a cell: the one whose key says most of where it is."""
    parts = [(line.section, across, column), (line.section, "", column), ("", across, column)]
    for place in [*parts, ("", "", column)]:
        value = line.row.reference.get("/".join(part for part in place if part))
        if value is not None:
            return value
    return None


def compare_to_published(
    cell: FigureCell, reference: float | None, column: ColumnConfig
) -> FigureCell:
    """A cell with its published figure and whether it agrees, by the larger of the tolerances."""
    within = None
    if cell.mean is not None and reference is not None:
        bounds = [column.tolerance] if column.tolerance is not None else []
        if column.relative_tolerance is not None:
            bounds.append(column.relative_tolerance * abs(reference))
        if bounds:
            # a last digit of the published figure is not held against ours
            within = abs(cell.mean - reference) <= max(bounds) * (1 + 1e-9)
    return dataclasses.replace(cell, reference=reference, within=within)


def list_failures(runs: list[TableRun]) -> list[tuple[str, str]]:
    """(place, reason) of what failed or was refused; seeds with the same reason together."""
    seeds: dict[tuple[str, str], list[str]] = {}
    for entry in runs:
        if entry.status in (FAILED, REFUSED):
            reason = entry.reason or entry.status
            seeds.setdefault((entry.place, reason), []).append(str(entry.seed))
    failed = []
    for (where, reason), of in seeds.items():
        if len(of) < sum(entry.place == where for entry in runs):
            where = f"{where} (seed{'s' if len(of) > 1 else ''} {', '.join(of)})"
        failed.append((where, reason))
    return failed
