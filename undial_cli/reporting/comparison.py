"""Two or more finished runs beside each other: what was set differently, and what came of it.

The first run is what the others are compared with; differences have paired intervals where the
samples of both are there. Knows collected runs (collect.py), no command.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from undial_cli.config.suites import EvalConfig
from undial_cli.evaluation.figures import split_figure_name
from undial_cli.evaluation.intervals import compute_statistics
from undial_cli.evaluation.results import load_evaluation
from undial_cli.reporting import notes
from undial_cli.reporting.cells import (
    ModelFigures,
    describe_direction,
    list_metric_names,
    make_figure_cell,
    subtract_figures,
)
from undial_cli.reporting.collect import RunRecord, get_part
from undial_cli.reporting.labels import KEYS_NOT_COMPARED, serialise_value
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow, make_text_sheet
from undial_cli.reporting.text import format_run_time, format_setting_value, parse_number

Differences = dict[str, dict[str, Any]]


def find_differing_settings(runs: Sequence[RunRecord]) -> dict[str, list[Any]]:
    """Every key that is not the same in all runs, with its value in each; None where it has none.

    Left out are those that no figure depends on, as where a run is written.
    """
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: [run.settings.get(key) for run in runs] for key in keys}
    return {
        key: each
        for key, each in values.items()
        if key not in KEYS_NOT_COMPARED and len(set(map(serialise_value, each))) > 1
    }


def compute_differences(first: RunRecord, other: RunRecord) -> Differences:
    """By metric, the figure of a run less that of the first one, as results.json has differences.

    Without samples, as where text was purged, or where the rows differ, without an interval.
    """
    gaps = subtract_figures(other.figures(), first.figures())
    differences: Differences = {n: {"difference": gap, "interval": None} for n, gap in gaps.items()}
    ours, theirs = (load_evaluation(run.folder / "evaluation") for run in (other, first))
    if ours is not None and theirs is not None and (config := read_suite(other)) is not None:
        paired = compute_statistics(ours, {"first": theirs}, config)["differences"]["first"]
        differences |= {name: paired[name] for name in differences if name in paired}
    return differences


def read_suite(run: RunRecord) -> EvalConfig | None:
    """The suite that a run was evaluated by; None where its run.yaml is of another shape."""
    schema = OmegaConf.structured(EvalConfig)
    try:
        config = OmegaConf.to_object(OmegaConf.merge(schema, get_part(run.nested, "eval")))
    except OmegaConfBaseException:
        return None
    assert isinstance(config, EvalConfig)
    return config


def name_runs(runs: Sequence[RunRecord]) -> list[str]:
    """A short name for each run: its folder's, or the whole path where two are called alike."""
    names = [run.folder.name for run in runs]
    alike = len(set(names)) < len(names)
    return [str(run.folder) if alike else name for run, name in zip(runs, names, strict=True)]


def make_overview_sheet(runs: Sequence[RunRecord], names: Sequence[str]) -> Sheet:
    """A row per run: what it is, how it ended and how long it took."""
    rows = [
        [
            name,
            run.title,
            run.status,
            format_run_time(run.seconds),
            notes.read_verdict(run.results).get("word", "–"),
        ]
        for run, name in zip(runs, names, strict=True)
    ]
    return make_text_sheet(["run", "what", "status", "time", "verdict"], rows)


def make_differing_sheet(runs: Sequence[RunRecord], names: Sequence[str]) -> Sheet:
    """A row per setting that differs."""
    rows = [
        [key, *(
            format_setting_value(value) if key in run.settings else "–"
            for run, value in zip(runs, values, strict=True)
        )]
        for key, values in find_differing_settings(runs).items()
    ]  # fmt: skip
    return make_text_sheet(["setting", *names], rows)


def make_figures_sheet(
    runs: Sequence[RunRecord], names: Sequence[str], differences: Sequence[Differences]
) -> Sheet:
    """A row per metric: each run's figure, and the others' less the first one's.

    Args:
        differences: of all runs but the first.
    """
    columns = [Column("metric", numeric=False), *map(Column, names)]
    columns += [Column(f"{name} − {names[0]}") for name in names[1:]]
    measured = dict.fromkeys(name for run in runs for name in list_metric_names(run))
    models = [ModelFigures("", run.figures(), notes.get_statistics(run.results)) for run in runs]
    rows = []
    for name in measured:
        cells = [Cell(name), *(make_figure_cell(name, model) for model in models)]
        for part in differences:
            gap = part.get(name)
            cells.append(
                Cell(notes.format_difference(gap), parse_number((gap or {}).get("difference")))
            )
        owner = next(run for run in runs if name in list_metric_names(run))
        rows.append(
            SheetRow(cells, split_figure_name(name)[0], describe_direction(name, owner), name)
        )
    return Sheet("", columns, rows)
