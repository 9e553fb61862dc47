"""Figures made of others, as a suite says (eval.combine): means of x, 1 - x, 1 - 2|x - 1/2|.

Knows no list of metrics. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from undial_cli.config.suites import CombinedFigureConfig, EvalConfig
from undial_cli.errors import UserError, bad_value
from undial_cli.evaluation import metrics
from undial_cli.evaluation.composite_scores import note_weak_parts
from undial_cli.evaluation.evidence import MissingFigure
from undial_cli.evaluation.joint_metrics import ComparedModels, JointFunction

NAME = r"([A-Za-z_]\w*)"
FORMS: dict[str, Callable[[Any], Any]] = {
    NAME: lambda x: x,
    rf"1 *- *{NAME}": lambda x: 1 - x,
    # How near an AUC is to that of guessing.
    rf"1 *- *2 *\| *{NAME} *- *1/2 *\|": lambda x: 1 - 2 * abs(x - 0.5),
}
FORMS_SAID = "the name of a figure x, 1 - x or 1 - 2|x - 1/2|"


def parse_part(text: str) -> tuple[str, Callable[[Any], Any]] | None:
    """The figure that a part of a combined one is of, and what is made of it."""
    for pattern, form in FORMS.items():
        match = re.fullmatch(pattern, text.strip())
        if match:
            return match[1], form
    return None


def list_part_names(options: CombinedFigureConfig) -> list[str]:
    """The figures that a combined one is made of."""
    return [part[0] for text in options.figures if (part := parse_part(text))]


def make_combined_function(name: str, options: CombinedFigureConfig) -> JointFunction:
    """What computes a combined figure."""

    def compute(models: ComparedModels) -> float:
        if options.mean == "pooled":
            return float(np.mean(np.concatenate(collect_pooled_values(models, name, options))))
        ours, parts = models.ours, list[tuple[str, float]]()
        for text in options.figures:
            figure, form = parse_part(text) or (text, float)
            if figure not in ours.metrics:
                reason = ours.missing.get(figure, "it is not evaluated")
                raise MissingFigure(f"{figure}: {reason}")
            parts.append((text, form(ours.figure(figure))))
        values = [value for _, value in parts]
        if options.mean == "harmonic":
            note_weak_parts(models, name, dict(parts))
            return metrics.harmonic_mean(values)
        return float(np.mean(values))  # a figure that is named twice counts twice

    return compute


def collect_pooled_values(
    models: ComparedModels, name: str, options: CombinedFigureConfig
) -> list[Any]:
    """The per-sample values behind figures of single sets; of sets that are missing, none."""
    collected, gone = list[Any](), list[str]()
    for text in options.figures:
        figure, form = parse_part(text) or (text, float)
        set_name, metric = find_figure_set(models.config, figure)
        values = np.asarray(models.ours.values(set_name, metric), dtype=np.float64)
        if len(values):
            collected.append(form(values))
        else:
            gone.append(f"{figure} ({models.ours.missing.get(set_name, 'it has no samples')})")
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
        for text in options.figures:
            part = parse_part(text)
            if part is None:
                raise bad_value(f"{key}.figures", text, FORMS_SAID)
            if options.mean == "pooled" and find_figure_set(config, part[0]) == ("", ""):
                single = [f"{s}_{m}" for s, o in config.sets.items() for m in o.metrics]
                raise bad_value(f"{key}.figures", text, single)
