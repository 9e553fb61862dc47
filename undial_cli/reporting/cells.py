"""What is shown of runs, as Sheets: figures of their models, intervals, samples, settings.

The page and the Markdown files show the same cells. Knows collected runs, no markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from undial_cli.config.suites import FORGET, guess_role
from undial_cli.evaluation.figures import (
    MAIN_FIGURES,
    find_better_direction,
    find_figure_title,
    split_figure_name,
)
from undial_cli.reporting import notes, text
from undial_cli.reporting.collect import RunRecord, flatten_settings, get_part, list_request_figures
from undial_cli.reporting.labels import KEYS_NOT_COMPARED, format_typed_value, serialise_value
from undial_cli.reporting.samples import TEXT_TITLES, list_text_keys
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow, make_text_sheet
from undial_cli.reporting.text import parse_number

MOST_MAIN_METRICS = 7
MOST_EXAMPLES, MOST_LETTERS_OF_EXAMPLE = 5, 400
MOST_HEADLINES = 4
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
SHARED_MODELS = {"target": "target", "reference": "retain model"}
HEADLINE_METRICS = ("model_utility", "forget_quality", "privleak")
# The headlines of sequential requests, which have no figure of the forget set as a whole.
REQUEST_HEADLINES = ("request_1_rouge", "request_1_probability", "retain_rouge")


@dataclass
class ModelFigures:
    """A model's figures, and n and intervals of them, by metric."""

    title: str
    figures: dict[str, Any]
    statistics: dict[str, notes.FigureStatistics] = field(default_factory=dict)


def list_model_figures(command: str, results: notes.ReadResults) -> list[ModelFigures]:
    """The models whose figures stand next to each other, in the order in which they were made."""

    def read(title: str, part: str, statistics: str) -> ModelFigures:
        return ModelFigures(
            title, get_part(results, part), notes.get_statistics(results, statistics)
        )

    alone = command in ("evaluate", "finetune", "audit")  # no model of before and after
    start = read("target" if alone else "before", "target", "target")
    after_requests = list_request_figures(results)
    if after_requests:
        start.title = "start"
        models = [ModelFigures(f"after {n}", f) for n, f in enumerate(after_requests, 1)]
        # the statistics of results.json are those of its last state
        models[-1].statistics = notes.get_statistics(results)
    else:
        models = [read("model" if alone else "after", "metrics", "")]
    if after_requests or start.figures or not alone:
        models.insert(0, start)
    retain_model = read("retain model", "reference", "reference")
    return [*models, retain_model] if retain_model.figures else models


def find_shared_figures(of_runs: Sequence[notes.ReadResults]) -> dict[str, dict[str, Any]]:
    """The target's and the retain model's figures, where all results that have them agree."""
    shared = {}
    for name, title in SHARED_MODELS.items():
        known = [figures for results in of_runs if (figures := get_part(results, name))]
        if known and all(figures == known[0] for figures in known):
            shared[title] = known[0]
    return shared


def list_metric_names(run: RunRecord) -> list[str]:
    """The metrics of a run in their order: those of its sets, then the joint ones."""
    return list(run.figures() or run.figures("target") or run.figures("reference"))


def choose_metric_pairs(metrics: set[str]) -> list[tuple[str, str]]:
    """The pairs of a forget and a retain score of which both were measured."""
    return [pair for pair in FORGET_RETAIN_PAIRS if set(pair) <= metrics]


def subtract_figures(ours: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Figures less another model's, where both are known."""
    pairs = {n: (parse_number(value), parse_number(other.get(n))) for n, value in ours.items()}
    return {n: a - b for n, (a, b) in pairs.items() if a is not None and b is not None}


def format_marked_figure(name: str, model: ModelFigures) -> str:
    """A figure as the screen and the model card show it, marked where it is weak."""
    value = model.figures.get(name)
    if value is None:
        return "-"
    # a p-value may have many zeros
    figure = f"{value:.2e}" if name == notes.QUALITY_METRIC else f"{value:.3f}"
    return notes.mark_weak_figure(figure, name, model.statistics.get(name))


def make_figure_cell(name: str, model: ModelFigures) -> Cell:
    """A figure as a cell, marked where its statistics say that it carries nothing."""
    value = model.figures.get(name)
    figure = notes.mark_weak_figure(text.format_figure(value), name, model.statistics.get(name))
    return Cell(figure, parse_number(value))


def describe_direction(name: str, run: RunRecord) -> str:
    direction = find_better_direction(name, get_part(run.results, "roles"))
    return f"{direction} is better" if direction else ""


def make_run_sheet(run: RunRecord) -> Sheet:
    """The figures of one run, by set; last their gaps to the retain model, else to the target."""
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
        set_name = split_figure_name(name)[0].replace("_", " ")
        group = text.get_set_title(name) or set_name or "joint"
        cells = [Cell(find_figure_title(name).removeprefix(f"{group} "))]
        cells += [make_figure_cell(name, model) for model in models]
        if compared:
            cells.append(Cell(text.format_gap(gaps.get(name)), gaps.get(name)))
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
        [find_figure_title(name), *(text.format_figure(figures.get(name)) for figures in models)]
        for name in names[:MOST_HEADLINES]
    ]


def make_comparison_sheet(runs: Sequence[RunRecord], keys: Sequence[str]) -> Sheet:
    """A row per run: its keys (or label), status and time, then the metrics, main ones first."""
    measured = list(dict.fromkeys(name for run in runs for name in list_metric_names(run)))
    main = [name for name in MAIN_FIGURES if name in measured] or measured
    main = main[:MOST_MAIN_METRICS]
    metrics = list(dict.fromkeys([*main, *measured]))
    columns = [
        Column(text.name_setting(key), parse_number(runs[0].values.get(key)) is not None)
        for key in keys
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
        cells += [Cell(run.status), Cell(text.format_run_time(run.seconds), run.seconds)]
        model = ModelFigures("", run.figures(), notes.get_statistics(run.results))
        cells += [make_figure_cell(name, model) for name in metrics]
        rows.append(SheetRow(cells, hint=run.label))
    return Sheet("", columns, rows, above, first=lead + len(main))


def make_unfinished_sheet(runs: Sequence[RunRecord]) -> Sheet:
    unfinished = [run for run in runs if run.status != "done"]
    rows = [(run.label, run.status, run.reason or "no reason is noted") for run in unfinished]
    return make_text_sheet(["run", "status", "reason"], rows)


def choose_answered_samples(run: RunRecord, count: int) -> list[dict[str, Any]]:
    """A few samples of the forget set with their answers, spread over it."""
    roles = get_part(run.results, "roles")
    asked = [
        sample
        for sample in run.samples
        # results of before do not say what a set was for
        if (roles.get(str(sample["set"])) or guess_role(str(sample["set"]))) == FORGET
        and isinstance(sample.get("generation"), str)
    ]
    return asked[:: max(1, len(asked) // count)][:count]


def make_examples_sheet(run: RunRecord) -> Sheet:
    """A few samples with their answers, where text was stored."""
    samples = choose_answered_samples(run, MOST_EXAMPLES)
    keys = list_text_keys(samples)
    rows = [
        [shorten_text(sample.get(key) or "–", MOST_LETTERS_OF_EXAMPLE) for key in keys]
        for sample in samples
    ]
    return make_text_sheet([TEXT_TITLES[key] for key in keys], rows)


def shorten_text(whole: str, most: int) -> str:
    """A text that fits a cell or panel; samples.jsonl has the whole."""
    return whole if len(whole) <= most else f"{whole[:most]} ..."


def make_settings_sheet(runs: Sequence[RunRecord]) -> Sheet:
    """Every key that is not the same in all runs, with its value in each; none of a single run."""
    known = [run.settings for run in runs if run.settings]
    rows = []
    for key in dict.fromkeys(key for settings in known for key in settings):
        values = {serialise_value(settings.get(key)) for settings in known}
        if key not in KEYS_NOT_COMPARED and len(values) > 1:
            shown = text.format_setting_value
            cells = (shown(r.settings[key]) if key in r.settings else "–" for r in runs)
            rows.append([key, *cells])
    return make_text_sheet(["key", *(run.short for run in runs)], rows)


def make_environment_sheets(runs: Sequence[RunRecord]) -> list[Sheet]:
    """Every environment that runs were made in; its title says whose, where there are several."""
    labels_by_environment: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for run in runs:
        entries = flatten_settings({k: v for k, v in run.environment.items() if k != "seed"})
        texts = tuple((key, text.format_setting_value(value)) for key, value in entries)
        if texts:
            labels_by_environment.setdefault(texts, []).append(run.label)
    several = len(labels_by_environment) > 1
    return [
        make_text_sheet(["what", "value"], texts, "; ".join(labels) if several else "")
        for texts, labels in labels_by_environment.items()
    ]
