"""How far the figures of an evaluation carry: n, intervals, paired differences.

Reads resampled figures and makes what results.json holds of them. Knows no model and no file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from undial_cli.config.suites import EvalConfig
from undial_cli.evaluation import metrics
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.resampling import RESAMPLES, ResampledFigure, resample_figures

CONFIDENCE_LEVEL = 0.95
NORMAL_QUANTILE = 1.959964  # of a normal distribution's middle 95 %


def compute_statistics(
    ours: Evaluation, others: dict[str, Evaluation | None], config: EvalConfig
) -> dict[str, Any]:
    """All that results.json says of how far its figures carry.

    Args:
        others: the `target`'s and the `reference`'s (retain model's) evaluation, where known.

    Returns:
        `statistics` of our figures and `NAME_statistics` of the others', by metric;
        `differences`: by NAME and metric, our figure less theirs.
    """
    compared = others.get("reference"), config, others.get("target")
    our_resamples = resample_figures(ours, *compared)
    results: dict[str, Any] = {
        "statistics": describe_figures(ours, our_resamples),
        "differences": {},
    }
    for name, other in others.items():
        statistics, differences = {}, {}
        if other is not None:
            resamples = resample_figures(other, *compared)
            statistics = describe_figures(other, resamples)
            differences = compare_evaluations(ours, other, our_resamples, resamples)
        results[f"{name}_statistics"], results["differences"][name] = statistics, differences
    return results


def describe_figures(
    evaluation: Evaluation, resampled: dict[str, ResampledFigure]
) -> dict[str, dict[str, Any]]:
    """n and interval of every figure whose samples are known, by its name.

    forget_quality is a p-value: it has the distance D between the two distributions and D's
    interval too; its own is what that comes to.
    """
    entries = {name: describe_resamples(figure) for name, figure in resampled.items()}
    if "forget_quality" in entries:
        figure = resampled["forget_quality"]
        sizes, bounds = [len(drawn.values) for drawn in figure.sets], compute_interval(figure)
        p_bounds = None
        if bounds and evaluation.metrics["forget_quality"] is not None:
            # The larger the distance, the smaller p: the bounds change places.
            p_bounds = [compute_p_value_at(d, *sizes) for d in reversed(bounds)]
        entries["forget_quality"] |= {
            "interval": p_bounds,
            "n_retain": sizes[1],
            "D": metrics.ks_distance(*(drawn.values for drawn in figure.sets)),
            "D_interval": bounds,
        }
    others = [name for name in evaluation.statistics if name not in entries]
    return entries | {name: add_normal_interval(evaluation, name) for name in others}


def compare_evaluations(
    ours: Evaluation,
    other: Evaluation,
    our_resamples: dict[str, ResampledFigure],
    other_resamples: dict[str, ResampledFigure],
) -> dict[str, dict[str, Any]]:
    """Our figures less another model's, with paired intervals where both have the same samples."""
    differences: dict[str, dict[str, Any]] = {}
    for name, figure in ours.metrics.items():
        theirs = other.metrics.get(name)
        # forget_quality is a comparison with the retain model already.
        if figure is None or theirs is None or name == "forget_quality":
            continue
        differences[name] = {"difference": figure - theirs, "interval": None}
        one, two = our_resamples.get(name), other_resamples.get(name)
        if one is not None and two is not None and one.is_paired_with(two):
            difference = ResampledFigure(one.values - two.values, one.sets)
            differences[name] |= describe_resamples(difference)
    return differences


def describe_resamples(resampled: ResampledFigure) -> dict[str, Any]:
    """n, interval and how it was made."""
    sets = resampled.sets
    kinds = sorted({"subjects" if drawn.by_subject else "rows" for drawn in sets})
    subjects = [drawn.units for drawn in sets if drawn.by_subject]
    return {
        "n": min(len(drawn.values) for drawn in sets),
        **({"subjects": min(subjects)} if subjects else {}),
        "interval": compute_interval(resampled),
        "level": CONFIDENCE_LEVEL,
        "method": f"bootstrap, {RESAMPLES} resamples of {' and '.join(kinds)}",
    }


def compute_interval(resampled: ResampledFigure) -> list[float] | None:
    """The middle share LEVEL of the resamples; None where a set has but one row or subject."""
    values = resampled.values[np.isfinite(resampled.values)]
    if min(drawn.units for drawn in resampled.sets) < 2 or len(values) < RESAMPLES / 2:
        return None
    low, high = np.quantile(values, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
    return [float(low), float(high)]


def compute_p_value_at(known_distance: float, n: int, m: int) -> float:
    """The p-value of the KS test between n and m samples at a distance: of two even rows."""
    one, other = ((np.arange(size) + 0.5) / size for size in (n, m))
    # A hair less, or rounding would count the steps that just touch as crossed.
    return metrics.forget_quality(one, other + known_distance - 1e-9)


def add_normal_interval(ours: Evaluation, name: str) -> dict[str, Any]:
    """What another library says of its figure; from a standard error an interval is made."""
    given, figure = ours.statistics[name], ours.metrics.get(name)
    error = given.get("stderr")
    if error is None or figure is None or "interval" in given:
        return given
    reach = NORMAL_QUANTILE * error
    return {
        **given, "interval": [figure - reach, figure + reach], "level": CONFIDENCE_LEVEL,
        "method": "normal, from the standard error",
    }  # fmt: skip
