"""The metrics of a suite: its names checked, its joint and combined figures added to an evaluation.

Knows the catalog and evaluations, no engine and no model. Imports no torch.
"""

from __future__ import annotations

import re

from undial_cli.config.suites import MULTIPLE_CHOICE, EvalConfig
from undial_cli.errors import UserError, bad_value
from undial_cli.evaluation import combined_figures
from undial_cli.evaluation.catalog import (
    METRICS,
    Metric,
    find_set_metric,
    list_joint_metrics,
    list_set_metrics,
)
from undial_cli.evaluation.evidence import Evaluation, MissingFigure, NoRetainModel
from undial_cli.evaluation.joint_metrics import ComparedModels


def check_metric_names(config: EvalConfig) -> None:
    """Raise UserError for the first metric of a suite or of one of its sets that does not exist."""
    for set_name, options in config.sets.items():
        if options.prompt is not None and "{question}" not in options.prompt:
            raise bad_value(
                f"eval.sets.{set_name}.prompt", options.prompt, "a text that holds {question}"
            )
        check_answer_pattern(f"eval.sets.{set_name}.answer_pattern", options.answer_pattern)
        for name in options.metrics:
            metric = find_set_metric(name)
            if metric is None:
                raise bad_value(f"eval.sets.{set_name}.metrics", name, list_set_metrics())
            if "choices" in metric.needs and options.kind != MULTIPLE_CHOICE:
                raise UserError(
                    f"eval.sets.{set_name}.metrics={name}: needs a set of kind={MULTIPLE_CHOICE}, "
                    f"and this one is of kind={options.kind}"
                )
    for name in config.metrics:
        if name not in list_joint_metrics():
            raise bad_value("eval.metrics", name, list_joint_metrics())
    for name, sets in config.joint_sets.items():
        if name not in config.metrics:
            raise bad_value("eval.joint_sets", name, config.metrics or "a name of eval.metrics")
        for role, set_name in sets.items() if isinstance(sets, dict) else [("", sets)]:
            if role not in METRICS[name].roles:
                raise bad_value(f"eval.joint_sets.{name}", role, METRICS[name].roles)
            if set_name not in config.sets:
                raise bad_value(f"eval.joint_sets.{name}.{role}", set_name, list(config.sets))
    combined_figures.check_combined_figures(config, list_joint_metrics())


def check_answer_pattern(key: str, pattern: str | None) -> None:
    """Raise UserError for a pattern that cannot find an answer."""
    if pattern is None:
        return
    allowed = "a regular expression with one pair of parentheses"
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise bad_value(key, pattern, f"{allowed} ({error})") from error
    if groups != 1:
        raise bad_value(key, pattern, allowed)


def list_suite_metrics(config: EvalConfig) -> list[Metric]:
    """The joint metrics of a suite, and behind them the figures that it combines."""
    chosen = [METRICS[name] for name in config.metrics]
    relative = {metric.name for metric in METRICS.values() if metric.relative}
    for name, options in config.combine.items():
        parts = combined_figures.parse_parts(name, options)
        if relative.intersection(figure for part in parts for figure in part.names):
            relative.add(name)
        function = combined_figures.make_combined_function(name, options, parts)
        chosen.append(Metric(name, name, joint=function, relative=name in relative))
    return chosen


def add_joint_metrics(
    ours: Evaluation,
    theirs: Evaluation | None,
    config: EvalConfig,
    relative: bool,
    no_retain: str = "",
    target: Evaluation | None = None,
) -> None:
    """Add the joint metrics to an evaluation: the relative ones, or the others.

    Args:
        theirs: the retain model's evaluation, where there is one.
        no_retain: why there is none.
        target: that of the model before unlearning, where it is known.
    """
    models = ComparedModels(ours, theirs, config, target)

    def compute() -> float:
        reading = models.reading(metric.name)
        for set_name in map(reading.require_set, metric.roles):
            if set_name in ours.missing:
                raise MissingFigure(f"the set '{set_name}' is missing")
            if not any(sample["set"] == set_name for sample in ours.samples):
                raise MissingFigure(f"this suite has no set '{set_name}'")
        assert metric.joint is not None
        try:
            return metric.joint(reading)
        except NoRetainModel as error:
            reason = no_retain or "no retain model is known: set eval.retain_model"
            raise MissingFigure(reason) from error

    for metric in list_suite_metrics(config):
        if metric.relative == relative:
            ours.record(metric.name, compute)
