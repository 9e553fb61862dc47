"""What a table of configs/table/ holds: runs as rows, metrics as columns, published figures.

The one source of types and ranges of `undial reproduce`. Imports neither torch nor hydra; knows no
metric (tables/load.py fills in the titles that follow from one) and not how a table is filled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from undial_cli.config.fields import group, key

BETTER_WAYS = ("lower", "higher", "zero", "retain", "none")


@dataclass
class ColumnConfig:
    """One figure of every run."""

    name: str = key("", "what `reference`, `claims` and `plots` call it; empty: as the metric")
    metric: list[str] = key([], "metric of results.json, or run_seconds; of several: their mean")
    title: str = key("", "heading; empty: the name, or where it has none the metric in words")
    format: str = key(".3f", "Python's format of a number")
    better: str = key(
        "",
        "which way is good; retain: near the retain model; empty: the metric's",
        allowed=BETTER_WAYS,
    )
    tolerance: float | None = key(None, "difference that counts as agreement", minimum=0)
    relative_tolerance: float | None = key(
        None, "the same as a share of the published figure; the larger of the two", minimum=0
    )
    step: int | None = key(None, "figure on the way, at this optimiser step", minimum=1)
    request: int | None = key(None, "figure after this sequential request; 0: before", minimum=0)
    statistic: str = key(
        "",
        "in place of the figure: n, its samples, or D, the distance behind forget_quality",
        allowed=("", "n", "D"),
    )


@dataclass
class RowConfig:
    """One line: its runs are those of `overrides`, one for each column group and seed."""

    label: str = key("", "what stands in the first column")
    section: str = key("", "the section it stands in; empty: in each of them")
    overrides: list[str] = key([], "of these runs")
    of: str = key(
        "",
        "no run of its own: figures of the target or retain model beside any finished run",
        allowed=("", "target", "retain"),
    )
    command: str = key("", "empty: the table's", allowed=("", "unlearn", "finetune", "evaluate"))
    across: list[str] = key([], "column groups in which it is run; []: all")
    reference: dict[str, float] = key(
        {}, "published figures by column, or GROUP/COLUMN, SECTION/COLUMN, SECTION/GROUP/COLUMN"
    )
    note: str = key("", "said below the table")


@dataclass
class AcrossConfig:
    """A group of columns: the same columns for runs with further overrides."""

    label: str = key("", "heading of the group")
    overrides: list[str] = key([], "of its runs")


@dataclass
class AgreementConfig:
    """Whether ours and the published figures can be expected to agree."""

    expected: bool = key(True, "whether they should")
    reasons: list[str] = key([], "why not, or what to know")


@dataclass
class ClaimConfig:
    """A sentence of the paper that the figures bear out or not, cell by cell."""

    text: str = key("", "the claim")
    columns: list[str] = key([], "columns that hold what is to be kept")
    keeps: list[str] = key([], "rows said to keep it")
    loses: list[str] = key([], "rows said to lose it")
    kept: float = key(0.8, "share of the target's figure that counts as kept", above=0)
    forget: list[str] = key([], "for each of `columns`, the one that holds what is to go")
    forgotten: float = key(0.5, "share of the target's figure that counts as gone", above=0)


@dataclass
class PlotConfig:
    """A picture of the table's figures."""

    kind: str = key("trade_off", "which picture", allowed=("trade_off", "grid"))
    name: str = key("", "of the file")
    x: str = key(
        "",
        "trade_off: a column, or a metric at all its steps; grid: step, request, across, row or "
        "section",
    )
    y: str = key("", "trade_off: a column, or a metric as x is; grid: a metric")
    panel: str = key("section", "grid: a panel for each", allowed=("section", "across", "row"))
    line: str = key("row", "grid: a line for each", allowed=("section", "across", "row"))
    rows: list[str] = key([], "rows that are drawn; []: all")


@dataclass
class CostConfig:
    """Facts for an estimate of training, used where no run of the table is done yet."""

    parameters: dict[str, float] = key({}, "parameters of each model, by name; '*': any other")
    tokens: dict[str, float] = key({}, "tokens of an epoch, by forget split; '*': any other")
    device: str = key("", "the device that the hours are given for")
    tflops: float = key(0.0, "its peak, 1e12 operations per second", minimum=0)
    share: float = key(0.4, "share of the peak that training reaches", above=0, maximum=1)
    seconds: float = key(0.0, "measured seconds of one run, evaluation included", minimum=0)
    measured: str = key("", "where that was measured")
    source: str = key("", "where the facts are from")


@dataclass
class SearchConfig:
    """A search before the runs that are shown: a grid for each line, of which the run with the best
    figure of train.select gives the settings. Keys that a row or the command line sets are left."""

    grid: dict[str, list[Any]] = key({}, "keys of runs and the values that are tried; {}: none")
    overrides: list[str] = key([], "of the search's runs alone, such as a shorter evaluation")


@dataclass
class TableConfig:
    """A table."""

    title: str = key("", "heading")
    source: str = key("", "paper or repository of the published figures")
    note: str = key("", "said below the table")
    command: str = key("unlearn", "what its runs are", allowed=("unlearn", "finetune", "evaluate"))
    overrides: list[str] = key([], "of all its runs")
    needs: dict[str, str] = key({}, "keys that the user has to give, and what they are")
    sections: dict[str, list[str]] = key({}, "sections and the overrides of their runs")
    across: list[AcrossConfig] = key([], "groups of columns; []: one")
    columns: list[ColumnConfig] = key([], "the columns")
    rows: list[RowConfig] = key([], "the rows")
    seeds: list[int] = key([0], "one run for each; more than one: mean and spread")
    search: SearchConfig = group(SearchConfig, "for settings, with the table's first seed")
    agreement: AgreementConfig = group(AgreementConfig, "with the published figures")
    claims: list[ClaimConfig] = key([], "what the paper says of such figures")
    plots: list[PlotConfig] = key([], "pictures")
    cost: CostConfig = group(CostConfig, "facts for an estimate")


@dataclass
class ReproduceConfig:
    """`undial reproduce`."""

    table: TableConfig = group(TableConfig, "the table")
    plan: bool = key(False, "show the runs, what is done and the cost; run nothing")
    rows: list[str] = key([], "rows or sections to run and show; []: all")
    seeds: list[int] = key([], "[]: the table's")
    output_dir: str = key("outputs", "where run folders and reproduce/NAME go")
    models: str | None = key(
        None, "folder with the table's published models as ORG/NAME; null: from the hub"
    )
