"""Every table of the report as a Sheet: figures, intervals, samples, settings, environments.

The page and the Markdown files show the same cells. Knows collected runs, no markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from undial_cli.config.suites import FORGET
from undial_cli.evaluation.figures import MAIN_FIGURES, find_better_direction, find_figure_title
from undial_cli.reporting import notes
from undial_cli.reporting.collect import RunRecord, flatten_settings, get_part
from undial_cli.reporting.labels import KEYS_NOT_COMPARED, format_typed_value, serialise_value
from undial_cli.reporting.model_figures import (
    ModelFigures,
    choose_metric_pairs,
    find_shared_figures,
    list_metric_names,
    list_model_figures,
    subtract_figures,
)
from undial_cli.reporting.samples import TEXT_TITLES
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow, make_text_sheet
from undial_cli.reporting.text import (
    format_figure,
    format_gap,
    format_run_time,
    format_setting_value,
    get_set_title,
    name_setting,
    parse_number,
)

MOST_MAIN_METRICS = 7
MOST_EXAMPLES, MOST_LETTERS_OF_EXAMPLE = 5, 400
MOST_HEADLINES = 4
HEADLINE_METRICS = ("model_utility", "forget_quality", "privleak")
# The headlines of sequential requests, which have no figure of the forget set as a whole.
REQUEST_HEADLINES = ("request_1_rouge", "request_1_probability", "retain_rouge")


def make_figure_cell(name: str, model: ModelFigures) -> Cell:
    """A figure as a cell, marked where its statistics say that it carries nothing."""
    value = model.figures.get(name)
    text = notes.mark_weak_figure(format_figure(value), name, model.statistics.get(name))
    return Cell(text, parse_number(value))


def describe_direction(name: str, run: RunRecord) -> str:
    """Which way of a metric is better, as the note below its title."""
    direction = find_better_direction(name, get_part(run.results, "roles"))
    return f"{direction} is better" if direction else ""


def make_run_sheet(run: RunRecord) -> Sheet:
    """The figures of one run, by set.

    The last column is the model's figure minus the retain model's, or, without a retain model,
    minus the target's.
    """
    models = list_model_figures(run.command, run.results)
    columns = [Column("metric", numeric=False), *(Column(model.title) for model in models)]
    reference = run.figures("reference")
    compared = reference or run.figures("target")
    gaps = subtract_figures(run.figures(), compared)
    if compared:
        ours, other = models[-2:] if reference else (models[-1], models[0])
        columns.append(Column(f"{ours.title} − {other.title}"))
    rows = []
    for name in list_metric_names(run):
        group = get_set_title(name) or "joint"
        cells = [Cell(find_figure_title(name).removeprefix(f"{group} "))]
        cells += [make_figure_cell(name, model) for model in models]
        if compared:
            cells.append(Cell(format_gap(gaps.get(name)), gaps.get(name)))
        rows.append(SheetRow(cells, group, describe_direction(name, run), name))
    groups = list(dict.fromkeys(row.group for row in rows))
    return Sheet("", columns, sorted(rows, key=lambda row: groups.index(row.group)))


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
            count = notes.format_sample_count(next(filter(None, known)))
            texts = [find_figure_title(name), count]
            texts += map(notes.format_intervals, known)
            texts += [notes.format_difference(d.get(name)) for d in compared.values()]
            rows.append(SheetRow(list(map(Cell, texts)), hint=name))
    return Sheet("", [Column("metric", numeric=False), *map(Column, titles)], rows)


def choose_headlines(run: RunRecord) -> list[list[str]]:
    """The main figures of one run, for its head: name, before, after, retain model."""
    after = run.figures()
    pair = next(iter(choose_metric_pairs(set(after))), REQUEST_HEADLINES)
    wanted = dict.fromkeys([*pair, *HEADLINE_METRICS])
    names = [name for name in wanted if parse_number(after.get(name)) is not None]
    models = [run.figures("target"), after, run.figures("reference")]
    return [
        [find_figure_title(name), *(format_figure(figures.get(name)) for figures in models)]
        for name in names[:MOST_HEADLINES]
    ]


def make_comparison_sheet(runs: Sequence[RunRecord], keys: Sequence[str]) -> Sheet:
    """A row per run: its keys (or its label), status and time, then the metrics, main ones first.

    Above them the target and the retain model, where all runs share them.
    """
    measured = list(dict.fromkeys(name for run in runs for name in list_metric_names(run)))
    main = [name for name in MAIN_FIGURES if name in measured] or measured
    main = main[:MOST_MAIN_METRICS]
    metrics = list(dict.fromkeys([*main, *measured]))
    columns = [
        Column(name_setting(key), parse_number(runs[0].values.get(key)) is not None) for key in keys
    ] or [Column("run", numeric=False)]
    columns += [Column("status", numeric=False), Column("time")]
    lead = len(columns)
    columns += [
        Column(find_figure_title(name), note=describe_direction(name, runs[0])) for name in metrics
    ]
    above = []
    for title, figures in find_shared_figures([run.results for run in runs]).items():
        cells = [Cell(title), *[Cell()] * (lead - 1)]
        cells += [make_figure_cell(name, ModelFigures(title, figures)) for name in metrics]
        above.append(SheetRow(cells))
    rows = []
    for run in runs:
        values = [run.values.get(key, "–") for key in keys]
        cells = [Cell(format_typed_value(value), parse_number(value)) for value in values]
        cells = cells or [Cell(run.label)]
        cells += [Cell(run.status), Cell(format_run_time(run.seconds), run.seconds)]
        model = ModelFigures("", run.figures(), notes.get_statistics(run.results))
        cells += [make_figure_cell(name, model) for name in metrics]
        rows.append(SheetRow(cells, hint=run.label))
    return Sheet("", columns, rows, above, first=lead + len(main))


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
        if notes.get_set_role(run.results, str(sample["set"])) == FORGET
        and isinstance(sample.get("generation"), str)
    ]
    return asked[:: max(1, len(asked) // count)][:count]


def make_examples_sheet(run: RunRecord) -> Sheet:
    """A few samples with their answers, where text was stored."""
    samples = choose_answered_samples(run, MOST_EXAMPLES)
    keys = [key for key in TEXT_TITLES if any(isinstance(s.get(key), str) for s in samples)]
    rows = [
        [shorten_text(sample.get(key) or "–", MOST_LETTERS_OF_EXAMPLE) for key in keys]
        for sample in samples
    ]
    return make_text_sheet([TEXT_TITLES[key] for key in keys], rows)


def shorten_text(text: str, most: int) -> str:
    """A text that fits a cell or panel; samples.jsonl has the whole."""
    return text if len(text) <= most else f"{text[:most]} ..."


def make_settings_sheet(runs: Sequence[RunRecord]) -> Sheet:
    """Every key that is not the same in all runs, with its value in each; none of a single run."""
    known = [run.settings for run in runs if run.settings]
    rows = [
        [key, *(format_setting_value(r.settings[key]) if key in r.settings else "–" for r in runs)]
        for key in dict.fromkeys(key for settings in known for key in settings)
        if key not in KEYS_NOT_COMPARED
        and len({serialise_value(settings.get(key)) for settings in known}) > 1
    ]
    return make_text_sheet(["key", *(run.short for run in runs)], rows)


def make_environment_sheets(runs: Sequence[RunRecord]) -> list[Sheet]:
    """Every environment that runs were made in; its title says whose, where there are several."""
    labels_by_environment: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in runs:
        entries = flatten_settings({k: v for k, v in run.environment.items() if k != "seed"})
        texts = tuple((key, format_setting_value(value)) for key, value in entries)
        if texts:
            labels_by_environment.setdefault(texts, []).append(run.label)
    several = len(labels_by_environment) > 1
    return [
        make_text_sheet(["what", "value"], texts, "; ".join(labels) if several else "")
        for texts, labels in labels_by_environment.items()
    ]
