"""What is shown of runs: figures next to each other, intervals, settings, environments, notes.

The screen, the page and the Markdown files show the same. Knows collected runs, no markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from undial_cli.evaluation.config import FORGET
from undial_cli.evaluation.figures import FIRST_SHOWN
from undial_cli.reporting import names, precision
from undial_cli.reporting.collect import RunRecord, flat, part, requests_of
from undial_cli.reporting.differences import NOT_TOLD, as_text, typed
from undial_cli.reporting.precision import Results, Statistics
from undial_cli.reporting.samples import TEXTS
from undial_cli.reporting.sheet import Cell, Column, Row, Sheet, text_sheet

MOST_MAIN = 7
EXAMPLES, LONGEST = 5, 400
# Pairs of a forget and a retain score, the most telling first.
PAIRS = (
    ("forget_rouge", "retain_rouge"),
    ("forget_quality", "model_utility"),
    ("forget_knowmem_rouge", "retain_knowmem_rouge"),
    ("forget_el_3", "mauve"),
    ("forget_el_10", "retain_rouge"),
    ("forget_probability", "retain_probability"),
    ("forget_verbmem_rouge", "retain_knowmem_rouge"),
    ("forget_probability", "model_utility"),
)
HEADLINES = ("model_utility", "forget_quality", "privleak")
NO_RETAIN = (
    "No retain model: whether the model now behaves as if it had never seen the forget set cannot "
    "be concluded; a low score may also mean that it was damaged."
)
SHARED = {"target": "target", "reference": "retain model"}


@dataclass
class Model:
    """A model's figures, and n and intervals of them, by metric."""

    title: str
    figures: dict[str, Any]
    statistics: dict[str, Statistics] = field(default_factory=dict)


def models_of(command: str, results: Results) -> list[Model]:
    """The models whose figures stand beside each other, in the order in which they came about."""
    alone = command in ("evaluate", "finetune")
    after, target, reference = (part(results, n) for n in ("metrics", "target", "reference"))
    start = Model(
        "target" if alone else "before", target, precision.statistics_of(results, "target")
    )
    served = requests_of(results)
    if served:
        start.title = "start"
        models = [start, *(Model(f"after {n}", figures) for n, figures in enumerate(served, 1))]
        models[-1].statistics = precision.statistics_of(results)
    else:
        models = [start] if target or not alone else []
        title = "model" if alone else "after"
        models.append(Model(title, after, precision.statistics_of(results)))
    if reference:
        statistics = precision.statistics_of(results, "reference")
        models.append(Model("retain model", reference, statistics))
    return models


def shared_figures(of_runs: Sequence[Results]) -> dict[str, dict[str, Any]]:
    """The target's and the retain model's figures, where all results that have them agree."""
    shared = {}
    for name, title in SHARED.items():
        known = [figures for results in of_runs if (figures := part(results, name))]
        if known and all(other == known[0] for other in known):
            shared[title] = known[0]
    return shared


def pairs_of(metrics: set[str]) -> list[tuple[str, str]]:
    """The pairs of a forget and a retain score of which both are there."""
    return [pair for pair in PAIRS if set(pair) <= metrics]


def gaps_of(ours: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """Figures less another model's, where both are there."""
    pairs = {n: (names.number(value), names.number(other.get(n))) for n, value in ours.items()}
    return {n: a - b for n, (a, b) in pairs.items() if a is not None and b is not None}


def figure_cell(name: str, model: Model) -> Cell:
    """A figure as a cell, marked where its statistics say that it carries nothing."""
    value = model.figures.get(name)
    text = precision.marked(names.figure(value), name, model.statistics.get(name))
    return Cell(text, names.number(value))


def metric_names(run: RunRecord) -> list[str]:
    """The metrics of a run in their order: those of its sets, then the joint ones."""
    return list(run.figures() or run.figures("target") or run.figures("reference"))


def of_one(run: RunRecord) -> Sheet:
    """The figures of one run, by set.

    The last column is the model's figure minus the retain model's, or, without a retain model,
    minus the target's.
    """
    models = models_of(run.command, run.results)
    columns = [Column("metric", numeric=False), *(Column(model.title) for model in models)]
    reference = run.figures("reference")
    compared = reference or run.figures("target")
    gaps, roles = gaps_of(run.figures(), compared), part(run.results, "roles")
    if compared:
        ours, other = models[-2:] if reference else (models[-1], models[0])
        columns.append(Column(f"{ours.title} − {other.title}"))
    rows = []
    for name in metric_names(run):
        group = names.group_of(name) or "joint"
        cells = [figure_cell(name, model) for model in models]
        if compared:
            cells.append(Cell(names.signed(gaps.get(name)), gaps.get(name)))
        title = Cell(names.metric(name).removeprefix(f"{group} "))
        way = names.better(name, roles)
        rows.append(Row([title, *cells], group, f"{way} is better" if way else "", name))
    order = list(dict.fromkeys(row.group for row in rows))
    return Sheet("", columns, sorted(rows, key=lambda row: order.index(row.group)))


def precisions(run: RunRecord) -> Sheet:
    """How far the figures of one run carry: n, intervals, and paired differences."""
    models = [model for model in models_of(run.command, run.results) if model.statistics]
    differences = part(run.results, "differences")
    compared = {
        title: part(differences, name)
        for name, title in (("target", "before"), ("reference", "retain model"))
        if part(differences, name)
    }
    titles = ["n", *(f"95 % interval, {model.title}" for model in models)]
    titles += [f"less {title}" for title in compared]
    rows = []
    for name in metric_names(run):
        known = [model.statistics.get(name) for model in models]
        if any(known):
            texts = [names.metric(name), precision.size(next(filter(None, known)))]
            texts += [precision.intervals(statistic) for statistic in known]
            texts += [precision.signed(figures.get(name)) for figures in compared.values()]
            rows.append(Row([Cell(text) for text in texts], hint=name))
    return Sheet("", [Column("metric", numeric=False), *map(Column, titles)], rows)


def headlines(run: RunRecord) -> list[list[str]]:
    """The main figures of one run, for its head: name, before, after, retain model."""
    after = run.figures()
    requested = ("request_1_rouge", "request_1_probability", "retain_rouge")
    pair = next(iter(pairs_of(set(after))), requested)
    models = [run.figures("target"), after, run.figures("reference")]
    return [
        [names.metric(name), *(names.figure(figures.get(name)) for figures in models)]
        for name in dict.fromkeys([*pair, *HEADLINES])
        if names.number(after.get(name)) is not None
    ][:4]


def of_many(runs: Sequence[RunRecord], keys: Sequence[str]) -> Sheet:
    """A row per run: its keys (or its label), status and time, then the metrics, main ones first.

    Above them the target and the retain model, where all runs share them.
    """
    known = list(dict.fromkeys(name for run in runs for name in metric_names(run)))
    first = [name for name in FIRST_SHOWN if name in known][:MOST_MAIN] or known[:MOST_MAIN]
    metrics = list(dict.fromkeys([*first, *known]))
    columns = [
        Column(names.setting(key), names.number(runs[0].values.get(key)) is not None)
        for key in keys
    ] or [Column("run", numeric=False)]
    columns += [Column("status", numeric=False), Column("time")]
    lead = len(columns)
    roles = part(runs[0].results, "roles")
    ways = [names.better(name, roles) for name in metrics]
    columns += [
        Column(names.metric(name), note=f"{way} is better" if way else "")
        for name, way in zip(metrics, ways, strict=True)
    ]
    above = []
    for title, figures in shared_figures([run.results for run in runs]).items():
        cells = [figure_cell(name, Model(title, figures)) for name in metrics]
        above.append(Row([Cell(title), *[Cell()] * (lead - 1), *cells]))
    rows = []
    for run in runs:
        cells = [
            Cell(typed(run.values.get(key, "–")), names.number(run.values.get(key))) for key in keys
        ] or [Cell(run.label)]
        cells += [Cell(run.status), Cell(names.seconds(run.seconds), run.seconds)]
        model = Model("", run.figures(), precision.statistics_of(run.results))
        rows.append(Row(cells + [figure_cell(n, model) for n in metrics], hint=run.label))
    return Sheet("", columns, rows, above, first=lead + len(first))


def unfinished(runs: Sequence[RunRecord]) -> Sheet:
    """Every run that is not done, with its status and reason."""
    rows = [
        (run.label, run.status, run.reason or "no reason is noted")
        for run in runs
        if run.status != "done"
    ]
    return text_sheet(["run", "status", "reason"], rows)


def questions(run: RunRecord, count: int) -> list[dict[str, Any]]:
    """A few samples of the forget set with their answers, spread over it."""
    asked = [
        sample
        for sample in run.samples
        if precision.role_of(run.results, str(sample["set"])) == FORGET
        and isinstance(sample.get("generation"), str)
    ]
    return asked[:: max(1, len(asked) // count)][:count]


def examples(run: RunRecord) -> Sheet:
    """A few samples with their answers, where text was stored."""
    chosen = questions(run, EXAMPLES)
    used = [key for key in TEXTS if any(isinstance(s.get(key), str) for s in chosen)]
    rows = [[shortened(sample.get(key) or "–", LONGEST) for key in used] for sample in chosen]
    return text_sheet([TEXTS[key] for key in used], rows)


def shortened(text: str, most: int) -> str:
    """A text that fits a cell or panel; samples.jsonl has the whole."""
    return text if len(text) <= most else f"{text[:most]} ..."


def notes(runs: Sequence[RunRecord]) -> list[str]:
    """What a reader must know: missing metrics and why, no retain model, files not read."""
    labels: dict[str, list[str]] = {}
    for run in runs:
        lines = [names.sentence(precision.damage(run.results))]
        lines += [f"Missing: {line}" for line in precision.missing(run.results)]
        lines += precision.remarks(run.results)
        if any(precision.is_weak(n, s) for n, s in precision.statistics_of(run.results).items()):
            lines.append(precision.LEGEND)
        if run.figures() and not run.figures("reference") and run.command != "finetune":
            lines.append(NO_RETAIN)
        for line in filter(None, [*lines, *run.problems]):
            labels.setdefault(line, []).append(run.label)
    return [
        line if len(of) == len(runs) else f"{line} ({'; '.join(of)})" for line, of in labels.items()
    ]


def different_settings(runs: Sequence[RunRecord]) -> Sheet:
    """Every key that is not the same in all runs, with its value in each."""
    rows = [
        [key, *(names.short(run.settings[key]) if key in run.settings else "–" for run in runs)]
        for key in dict.fromkeys(key for run in runs for key in run.settings)
        if key not in NOT_TOLD
        and len({as_text(run.settings.get(key)) for run in runs if run.settings}) > 1
    ]
    return text_sheet(["key", *(run.short for run in runs)], rows if len(runs) > 1 else [])


def environments(runs: Sequence[RunRecord]) -> list[Sheet]:
    """Every environment that runs were made in; its title says whose, where there are several."""
    labels: dict[str, list[str]] = {}
    contents: dict[str, dict[str, Any]] = {}
    for run in runs:
        shared = {name: value for name, value in run.environment.items() if name != "seed"}
        if shared:
            contents[as_text(shared)] = shared
            labels.setdefault(as_text(shared), []).append(run.label)
    title = "; ".join if len(labels) > 1 else lambda _: ""
    return [
        text_sheet(
            ["what", "value"], [(k, names.short(v)) for k, v in flat(contents[key])], title(of)
        )
        for key, of in labels.items()
    ]
