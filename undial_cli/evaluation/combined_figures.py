"""Figures made of others, as a suite says (eval.combine): means of expressions over figures.

Knows no list of metrics. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from undial_cli.config.suites import CombinedFigureConfig, EvalConfig
from undial_cli.errors import UserError, bad_value
from undial_cli.evaluation import metrics
from undial_cli.evaluation.composite_scores import note_weak_parts
from undial_cli.evaluation.evidence import MissingFigure
from undial_cli.evaluation.expressions import Expression, NoNumber, parse_expression
from undial_cli.evaluation.joint_metrics import ComparedModels, JointFunction


def parse_parts(name: str, options: CombinedFigureConfig) -> list[Expression]:
    """What a combined figure is a mean of; raises UserError."""
    return [parse_expression(text, f"eval.combine.{name}.figures") for text in options.figures]


def make_combined_function(
    name: str, options: CombinedFigureConfig, parts: list[Expression]
) -> JointFunction:
    """What computes a combined figure."""

    def compute(models: ComparedModels) -> float:
        if options.mean == "pooled":
            return float(np.mean(collect_pooled_values(models, name, parts)))
        values = [(part.text, compute_part(models, part)) for part in parts]
        if options.mean == "harmonic":
            note_weak_parts(models, name, dict(values))
            return metrics.harmonic_mean([value for _, value in values])
        # A part that stands there twice counts twice.
        return float(np.mean([value for _, value in values]))

    return compute


def compute_part(models: ComparedModels, part: Expression) -> float:
    """The value of a part; raises MissingFigure where a figure of it is missing."""
    ours = models.ours
    for figure in part.names:
        if figure not in ours.metrics:
            raise MissingFigure(f"{figure}: {ours.missing.get(figure, 'it is not evaluated')}")
    try:
        return part.compute({figure: ours.figure(figure) for figure in part.names})
    except NoNumber as error:
        raise MissingFigure(f"{part.text}: {error}") from error


def collect_pooled_values(
    models: ComparedModels, name: str, parts: Sequence[Expression]
) -> list[float]:
    """The per-sample values behind figures of single sets; of sets that are missing, none."""
    collected, gone = list[float](), list[str]()
    for part in parts:
        set_name, metric = find_figure_set(models.config, part.text.strip())
        values: Any = models.ours.values(set_name, metric)
        collected.extend(values)
        if not len(values):
            reason = models.ours.missing.get(set_name, "it has no samples")
            gone.append(f"{part.text} ({reason})")
    if not collected:
        raise MissingFigure("; ".join(gone))
    if gone:
        models.ours.notes[name] = f"without {'; '.join(gone)}"
    return collected


def find_figure_set(config: EvalConfig, figure: str) -> tuple[str, str]:
    """The set and the metric of a figure of one set; ("", "") of any other."""
    for set_name, options in config.sets.items():
        for metric in options.metrics:
            if figure == f"{set_name}_{metric}":
                return set_name, metric
    return "", ""


def check_combined_figures(config: EvalConfig, taken: list[str]) -> None:
    """Raise UserError for a combined figure that cannot be made, or told from another.

    Args:
        taken: names of figures that are something else.
    """
    for name, options in config.combine.items():
        key = f"eval.combine.{name}"
        if name in taken or find_figure_set(config, name) != ("", ""):
            raise UserError(f"{key}: there is a figure of this name already; rename this one")
        if not options.figures:
            raise bad_value(f"{key}.figures", options.figures, "a list of at least one figure")
        for part in parse_parts(name, options):
            single = find_figure_set(config, part.text.strip()) != ("", "")
            if options.mean == "pooled" and not single:
                known = [f"{s}_{m}" for s, o in config.sets.items() for m in o.metrics]
                raise bad_value(f"{key}.figures", part.text, known)
