"""The figures of a table: read from run folders, averaged over seeds, held against published ones.

Knows the records of runs and the table's config; imports no torch.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from undial_cli.config.tables import ColumnConfig, TableConfig
from undial_cli.evaluation.figures import AUDIT_VERDICT, RUN_SECONDS, WORDS
from undial_cli.reporting.audit_record import AuditRecord
from undial_cli.reporting.collect import RunRecord, list_request_figures
from undial_cli.reporting.notes import get_statistics, read_verdict
from undial_cli.tables.runs import DONE, FAILED, REFUSED, TableLine, TableRun
from undial_cli.tables.search import LineSearch


@dataclass(frozen=True)
class FigureCell:
    """One figure: mean and spread (sample standard deviation; None of one run) over `n` runs.

    `within`: whether it agrees with the published figure; None where one of the two or the
    tolerance is missing. `word`: of a column of words, that of all its runs, or how many have
    which. `gap`: why there is neither. `short`: some of its runs failed.
    """

    mean: float | None = None
    spread: float | None = None
    n: int = 0
    reference: float | None = None
    within: bool | None = None
    word: str = ""
    gap: str = ""
    short: bool = False


@dataclass
class FilledTable:
    """A table with its figures, by line, column group and column."""

    table: TableConfig
    name: str
    lines: list[TableLine]
    runs: list[TableRun]
    cells: dict[tuple[TableLine, str, str], FigureCell] = field(default_factory=dict)
    searches: list[LineSearch] = field(default_factory=list)

    @property
    def groups(self) -> list[str]:
        """The column groups; one without a name where there are none."""
        return [across.label for across in self.table.across] or [""]

    def cell(self, line: TableLine, across: str, column: str) -> FigureCell:
        """A cell; an empty one where the line is not run in that group."""
        return self.cells.get((line, across, column), FigureCell())

    def column(self, name: str) -> ColumnConfig:
        return next(column for column in self.table.columns if column.name == name)

    def mark(self, of: str, line: TableLine, across: str, column: ColumnConfig) -> float | None:
        """The target's or retain model's figure that a cell is measured by."""
        near = [r for r in self.runs if r.across == across and r.line.section == line.section]
        return average_figures(list_column_figures(near, column, of))[0]


def fill_table(
    table: TableConfig,
    name: str,
    lines: list[TableLine],
    runs: list[TableRun],
    searches: list[LineSearch] | None = None,
) -> FilledTable:
    """All cells of a table from the run folders as they are now."""
    filled = FilledTable(table, name, lines, runs, searches=searches or [])
    for line in lines:
        for group in filled.groups:
            if line.row.across and group not in line.row.across:
                continue
            line_runs = [r for r in runs if r.across == group and r.line == line]
            if line.row.of:
                line_runs = choose_model_runs(line, group, runs)
            for column in table.columns:
                cell = make_run_cell(line_runs, column, line.row.of)
                reference = find_published_figure(line, group, column.name)
                cell = compare_to_published(cell, reference, column)
                filled.cells[line, group, column.name] = cell
    return filled


def choose_model_runs(line: TableLine, across: str, runs: list[TableRun]) -> list[TableRun]:
    """The runs whose target and retain model a line without runs shows: one for each seed."""
    by_seed: dict[int, TableRun] = {}
    for entry in runs:
        fits = entry.across == across and line.section in ("", entry.line.section)
        if fits and (entry.seed not in by_seed or by_seed[entry.seed].status != DONE):
            by_seed[entry.seed] = entry
    return list(by_seed.values())


def make_run_cell(runs: list[TableRun], column: ColumnConfig, of: str) -> FigureCell:
    """Mean and spread over the runs that are done, or why there is none."""
    figures = list_column_figures(runs, column, of)
    mean, spread, n = average_figures(figures)
    short = any(entry.status in (FAILED, REFUSED) for entry in runs) and not of
    if mean is not None:
        return FigureCell(mean, spread, n, short=short)
    of_words = len(column.metric) == 1 and column.metric[0] in WORDS and not of
    words = count_verdicts(runs, column.metric[0]) if of_words else {}
    if words:
        texts = [word if len(words) == 1 else f"{word} {count}" for word, count in words.items()]
        return FigureCell(n=sum(words.values()), word=", ".join(texts), short=short)
    return FigureCell(gap="no figure" if figures else "failed" if short else "not run")


def list_column_figures(runs: list[TableRun], column: ColumnConfig, of: str) -> list[float | None]:
    """A column's figure of each run that is done; None where a part of it is missing.

    `of`: `target` or `retain`, the figure of that model; empty: of the run itself.
    """
    figures: list[float | None] = []
    for entry in runs:
        if entry.status == DONE:
            known = select_run_figures(entry.record, column, of)
            parts = [known.get(metric) for metric in column.metric]
            numbers = [p for p in parts if isinstance(p, int | float) and math.isfinite(p)]
            figures.append(statistics.fmean(numbers) if len(numbers) == len(parts) else None)
    return figures


def count_verdicts(runs: list[TableRun], metric: str) -> dict[str, int]:
    """The verdicts on all runs that are done, by audit or figures, the most frequent first."""
    done = [entry.record for entry in runs if entry.status == DONE]
    if metric == AUDIT_VERDICT:
        words = Counter(AuditRecord(record.audit).word for record in done if record.audit)
    else:
        words = Counter(filter(None, (read_verdict(r.results).get("word") for r in done)))
    return dict(words.most_common())


def average_figures(values: Iterable[float | None]) -> tuple[float | None, float | None, int]:
    """Mean, sample standard deviation and number of the figures that are known."""
    known = [v for v in values if v is not None]
    if not known:
        return None, None, 0
    spread = statistics.stdev(known) if len(known) > 1 else None
    return statistics.fmean(known), spread, len(known)


def select_run_figures(record: RunRecord, column: ColumnConfig, of: str) -> dict[str, Any]:
    """The figures among which a column's is: at the end, at a step, or after a request."""
    part = {"retain": "reference", "target": "target"}.get(of, "")
    if column.statistic:
        statistics_by_metric = get_statistics(record.results, part)
        return {name: s.get(column.statistic) for name, s in statistics_by_metric.items()}
    if of:
        return record.figures(part)
    if column.step is not None:
        rows = [row for row in record.steps if row.get("step") == column.step]
        return {name: value for row in rows for name, value in row.items()}
    if column.request == 0:
        return record.figures("target")
    if column.request is not None:
        after_requests = list_request_figures(record.results)
        return after_requests[column.request - 1] if column.request <= len(after_requests) else {}
    return {RUN_SECONDS: record.seconds, **record.figures()}


def find_published_figure(line: TableLine, across: str, column: str) -> float | None:
    """The published figure of a cell: the one whose key says most of where it is."""
    for section, group in ((line.section, across), (line.section, ""), ("", across), ("", "")):
        figure = line.row.reference.get("/".join(filter(None, (section, group, column))))
        if figure is not None:
            return figure
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
    """(position, reason) of what failed or was refused; seeds with the same reason together."""
    seeds_by_failure: dict[tuple[str, str], list[str]] = {}
    for entry in runs:
        if entry.status in (FAILED, REFUSED):
            failure = entry.position, entry.reason or entry.status
            seeds_by_failure.setdefault(failure, []).append(str(entry.seed))
    failures = []
    for (position, reason), seeds in seeds_by_failure.items():
        if len(seeds) < sum(entry.position == position for entry in runs):
            position += f" (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})"
        failures.append((position, reason))
    return failures
