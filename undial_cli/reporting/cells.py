"""What is shown of runs: figures next to each other, intervals, settings, environments, notes.

The screen, the page and the Markdown files show the same. Knows collected runs, no markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from undial_cli.config.suites import FORGET
from undial_cli.evaluation.figures import MAIN_FIGURES, find_better_direction, find_figure_title
from undial_cli.reporting.collect import RunRecord, flatten_settings, get_part, list_request_figures
from undial_cli.reporting.labels import KEYS_NOT_COMPARED, format_typed_value, serialise_value
from undial_cli.reporting.precision import (
    WEAK_LEGEND,
    FigureStatistics,
    ReadResults,
    format_difference,
    format_intervals,
    format_sample_count,
    get_set_role,
    get_statistics,
    is_weak_figure,
    list_missing_metrics,
    list_remarks,
    mark_weak_figure,
    state_damage,
)
from undial_cli.reporting.samples import TEXT_TITLES
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow, make_text_sheet
from undial_cli.reporting.text import (
    capitalise_first,
    format_figure,
    format_gap,
    format_run_time,
    format_setting_value,
    get_set_title,
    name_setting,
    parse_number,
)

MOST_MAIN_METRICS = 7
EXAMPLES, LONGEST = 5, 400
# Pairs of a forget and a retain score, the most telling first.
FORGET_RETAIN_PAIRS = (
    ("forget_rouge", "retain_rouge"),
    ("forget_quality", "model_utility"),
    ("forget_knowmem_rouge", "retain_knowmem_rouge"),
    ("forget_el_3", "mauve"),
    ("forget_el_10", "retain_rouge"),
    ("forget_probability", "retain_probability"),
    ("forget_verbmem_rouge", "retain_knowmem_rouge"),
    ("forget_probability", "model_utility"),
)
HEADLINE_METRICS = ("model_utility", "forget_quality", "privleak")
NO_RETAIN_NOTE = (
    "No retain model: whether the model now behaves as if it had never seen the forget set cannot "
    "be concluded; a low score may also mean that it was damaged."
)
SHARED_MODELS = {"target": "target", "reference": "retain model"}


@dataclass
class ModelFigures:
    """A model's figures, and n and intervals of them, by metric."""

    title: str
    figures: dict[str, Any]
    statistics: dict[str, FigureStatistics] = field(default_factory=dict)


def list_model_figures(command: str, results: ReadResults) -> list[ModelFigures]:
    """The models whose figures stand beside each other, in the order in which they came about."""
    alone = command in ("evaluate", "finetune")
    after, target, reference = (get_part(results, n) for n in ("metrics", "target", "reference"))
    start = ModelFigures("target" if alone else "before", target, get_statistics(results, "target"))
    served = list_request_figures(results)
    if served:
        start.title = "start"
        models = [
            start,
            *(ModelFigures(f"after {n}", figures) for n, figures in enumerate(served, 1)),
        ]
        models[-1].statistics = get_statistics(results)
    else:
        models = [start] if target or not alone else []
        title = "model" if alone else "after"
        models.append(ModelFigures(title, after, get_statistics(results)))
    if reference:
        statistics = get_statistics(results, "reference")
        models.append(ModelFigures("retain model", reference, statistics))
    return models


def find_shared_figures(of_runs: Sequence[ReadResults]) -> dict[str, dict[str, Any]]:
    """The target's and the retain model's figures, where all results that have them agree."""
    shared = {}
    for name, title in SHARED_MODELS.items():
        known = [figures for results in of_runs if (figures := get_part(results, name))]
        if known and all(other == known[0] for other in known):
            shared[title] = known[0]
    return shared


def choose_metric_pairs(metrics: set[str]) -> list[tuple[str, str]]:
    """The pairs of a forget and a retain score of which both are there."""
    return [pair for pair in FORGET_RETAIN_PAIRS if set(pair) <= metrics]


def subtract_figures(ours: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Figures less another model's, where both are there."""
    pairs = {n: (parse_number(value), parse_number(other.get(n))) for n, value in ours.items()}
    return {n: a - b for n, (a, b) in pairs.items() if a is not None and b is not None}


def make_figure_cell(name: str, model: ModelFigures) -> Cell:
    """A figure as a cell, marked where its statistics say that it carries nothing."""
    value = model.figures.get(name)
    text = mark_weak_figure(format_figure(value), name, model.statistics.get(name))
    return Cell(text, parse_number(value))


def list_metric_names(run: RunRecord) -> list[str]:
    """The metrics of a run in their order: those of its sets, then the joint ones."""
    return list(run.figures() or run.figures("target") or run.figures("reference"))


def make_run_sheet(run: RunRecord) -> Sheet:
    """The figures of one run, by set.

    The last column is the model's figure minus the retain model's, or, without a retain model,
    minus the target's.
    """
    models = list_model_figures(run.command, run.results)
    columns = [Column("metric", numeric=False), *(Column(model.title) for model in models)]
    reference = run.figures("reference")
    compared = reference or run.figures("target")
    gaps, roles = subtract_figures(run.figures(), compared), get_part(run.results, "roles")
    if compared:
        ours, other = models[-2:] if reference else (models[-1], models[0])
        columns.append(Column(f"{ours.title} − {other.title}"))
    rows = []
    for name in list_metric_names(run):
        group = get_set_title(name) or "joint"
        cells = [make_figure_cell(name, model) for model in models]
        if compared:
            cells.append(Cell(format_gap(gaps.get(name)), gaps.get(name)))
        title = Cell(find_figure_title(name).removeprefix(f"{group} "))
        way = find_better_direction(name, roles)
        rows.append(SheetRow([title, *cells], group, f"{way} is better" if way else "", name))
    order = list(dict.fromkeys(row.group for row in rows))
    return Sheet("", columns, sorted(rows, key=lambda row: order.index(row.group)))


def make_precision_sheet(run: RunRecord) -> Sheet:
    """How far the figures of one run carry: n, intervals, and paired differences."""
    models = [model for model in list_model_figures(run.command, run.results) if model.statistics]
    differences = get_part(run.results, "differences")
    compared = {
        title: get_part(differences, name)
        for name, title in (("target", "before"), ("reference", "retain model"))
        if get_part(differences, name)
    }
    titles = ["n", *(f"95 % interval, {model.title}" for model in models)]
    titles += [f"less {title}" for title in compared]
    rows = []
    for name in list_metric_names(run):
        known = [model.statistics.get(name) for model in models]
        if any(known):
            texts = [
                find_figure_title(name),
                format_sample_count(next(filter(None, known))),
            ]
            texts += [format_intervals(statistic) for statistic in known]
            texts += [format_difference(figures.get(name)) for figures in compared.values()]
            rows.append(SheetRow([Cell(text) for text in texts], hint=name))
    return Sheet("", [Column("metric", numeric=False), *map(Column, titles)], rows)


def choose_headlines(run: RunRecord) -> list[list[str]]:
    """The main figures of one run, for its head: name, before, after, retain model."""
    after = run.figures()
    requested = ("request_1_rouge", "request_1_probability", "retain_rouge")
    pair = next(iter(choose_metric_pairs(set(after))), requested)
    models = [run.figures("target"), after, run.figures("reference")]
    return [
        [
            find_figure_title(name),
            *(format_figure(figures.get(name)) for figures in models),
        ]
        for name in dict.fromkeys([*pair, *HEADLINE_METRICS])
        if parse_number(after.get(name)) is not None
    ][:4]


def make_comparison_sheet(runs: Sequence[RunRecord], keys: Sequence[str]) -> Sheet:
    """A row per run: its keys (or its label), status and time, then the metrics, main ones first.

    Above them the target and the retain model, where all runs share them.
    """
    known = list(dict.fromkeys(name for run in runs for name in list_metric_names(run)))
    first = [name for name in MAIN_FIGURES if name in known][:MOST_MAIN_METRICS] or known[
        :MOST_MAIN_METRICS
    ]
    metrics = list(dict.fromkeys([*first, *known]))
    columns = [
        Column(name_setting(key), parse_number(runs[0].values.get(key)) is not None) for key in keys
    ] or [Column("run", numeric=False)]
    columns += [Column("status", numeric=False), Column("time")]
    lead = len(columns)
    roles = get_part(runs[0].results, "roles")
    ways = [find_better_direction(name, roles) for name in metrics]
    columns += [
        Column(find_figure_title(name), note=f"{way} is better" if way else "")
        for name, way in zip(metrics, ways, strict=True)
    ]
    above = []
    for title, figures in find_shared_figures([run.results for run in runs]).items():
        cells = [make_figure_cell(name, ModelFigures(title, figures)) for name in metrics]
        above.append(SheetRow([Cell(title), *[Cell()] * (lead - 1), *cells]))
    rows = []
    for run in runs:
        cells = [
            Cell(
                format_typed_value(run.values.get(key, "–")),
                parse_number(run.values.get(key)),
            )
            for key in keys
        ] or [Cell(run.label)]
        cells += [Cell(run.status), Cell(format_run_time(run.seconds), run.seconds)]
        model = ModelFigures("", run.figures(), get_statistics(run.results))
        rows.append(SheetRow(cells + [make_figure_cell(n, model) for n in metrics], hint=run.label))
    return Sheet("", columns, rows, above, first=lead + len(first))


def make_unfinished_sheet(runs: Sequence[RunRecord]) -> Sheet:
    """Every run that is not done, with its status and reason."""
    rows = [
        (run.label, run.status, run.reason or "no reason is noted")
        for run in runs
        if run.status != "done"
    ]
    return make_text_sheet(["run", "status", "reason"], rows)


def choose_answered_samples(run: RunRecord, count: int) -> list[dict[str, Any]]:
    """A few samples of the forget set with their answers, spread over it."""
    asked = [
        sample
        for sample in run.samples
        if get_set_role(run.results, str(sample["set"])) == FORGET
        and isinstance(sample.get("generation"), str)
    ]
    return asked[:: max(1, len(asked) // count)][:count]


def make_examples_sheet(run: RunRecord) -> Sheet:
    """A few samples with their answers, where text was stored."""
    chosen = choose_answered_samples(run, EXAMPLES)
    used = [key for key in TEXT_TITLES if any(isinstance(s.get(key), str) for s in chosen)]
    rows = [[shorten_text(sample.get(key) or "–", LONGEST) for key in used] for sample in chosen]
    return make_text_sheet([TEXT_TITLES[key] for key in used], rows)


def shorten_text(text: str, most: int) -> str:
    """A text that fits a cell or panel; samples.jsonl has the whole."""
    return text if len(text) <= most else f"{text[:most]} ..."


def list_run_notes(runs: Sequence[RunRecord]) -> list[str]:
    """What a reader must know: missing metrics and why, no retain model, files not read."""
    labels: dict[str, list[str]] = {}
    for run in runs:
        lines = [capitalise_first(state_damage(run.results))]
        lines += [f"Missing: {line}" for line in list_missing_metrics(run.results)]
        lines += list_remarks(run.results)
        if any(is_weak_figure(n, s) for n, s in get_statistics(run.results).items()):
            lines.append(WEAK_LEGEND)
        if run.figures() and not run.figures("reference") and run.command != "finetune":
            lines.append(NO_RETAIN_NOTE)
        for line in filter(None, [*lines, *run.problems]):
            labels.setdefault(line, []).append(run.label)
    return [
        line if len(of) == len(runs) else f"{line} ({'; '.join(of)})" for line, of in labels.items()
    ]


def make_settings_sheet(runs: Sequence[RunRecord]) -> Sheet:
    """Every key that is not the same in all runs, with its value in each."""
    rows = [
        [
            key,
            *(
                format_setting_value(run.settings[key]) if key in run.settings else "–"
                for run in runs
            ),
        ]
        for key in dict.fromkeys(key for run in runs for key in run.settings)
        if key not in KEYS_NOT_COMPARED
        and len({serialise_value(run.settings.get(key)) for run in runs if run.settings}) > 1
    ]
    return make_text_sheet(["key", *(run.short for run in runs)], rows if len(runs) > 1 else [])


def make_environment_sheets(runs: Sequence[RunRecord]) -> list[Sheet]:
    """Every environment that runs were made in; its title says whose, where there are several."""
    labels: dict[str, list[str]] = {}
    contents: dict[str, dict[str, Any]] = {}
    for run in runs:
        shared = {name: value for name, value in run.environment.items() if name != "seed"}
        if shared:
            contents[serialise_value(shared)] = shared
            labels.setdefault(serialise_value(shared), []).append(run.label)
    title = "; ".join if len(labels) > 1 else lambda _: ""
    return [
        make_text_sheet(
            ["what", "value"],
            [(k, format_setting_value(v)) for k, v in flatten_settings(contents[key])],
            title(of),
        )
        for key, of in labels.items()
    ]
