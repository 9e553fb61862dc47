"""The figures of the models of a run: target, checkpoint, retain model, and which stand first.

Reads results.json, as cells.py, plot_choice.py and summary.py show it. Knows no table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from undial_cli.reporting.collect import RunRecord, get_part, list_request_figures
from undial_cli.reporting.notes import (
    QUALITY_METRIC,
    FigureStatistics,
    ReadResults,
    get_statistics,
    mark_weak_figure,
)
from undial_cli.reporting.text import parse_number

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


@dataclass
class ModelFigures:
    """A model's figures, and n and intervals of them, by metric."""

    title: str
    figures: dict[str, Any]
    statistics: dict[str, FigureStatistics] = field(default_factory=dict)


def list_model_figures(command: str, results: ReadResults) -> list[ModelFigures]:
    """The models whose figures stand next to each other, in the order in which they were made."""

    def read(title: str, part: str, statistics: str) -> ModelFigures:
        return ModelFigures(title, get_part(results, part), get_statistics(results, statistics))

    alone = command in ("evaluate", "finetune")  # no model of before and after
    start = read("target" if alone else "before", "target", "target")
    after_requests = list_request_figures(results)
    if after_requests:
        start.title = "start"
        models = [ModelFigures(f"after {n}", f) for n, f in enumerate(after_requests, 1)]
        # the statistics of results.json are those of its last state
        models[-1].statistics = get_statistics(results)
    else:
        models = [read("model" if alone else "after", "metrics", "")]
    if after_requests or start.figures or not alone:
        models.insert(0, start)
    retain_model = read("retain model", "reference", "reference")
    return [*models, retain_model] if retain_model.figures else models


def find_shared_figures(of_runs: Sequence[ReadResults]) -> dict[str, dict[str, Any]]:
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
    text = f"{value:.2e}" if name == QUALITY_METRIC else f"{value:.3f}"
    return mark_weak_figure(text, name, model.statistics.get(name))
