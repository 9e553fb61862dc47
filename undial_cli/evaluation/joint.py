"""The metrics that join sets: from the per-sample values of several, and of the retain model's.

Sets are told by their roles. A resample of an evaluation gives the same functions its values, so
that none is written a second time for its interval. Knows no list of metrics. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from undial_cli.config.suites import FORGET, HOLDOUT, EvalConfig, find_set_of_role
from undial_cli.evaluation import metrics
from undial_cli.evaluation.evidence import Evaluation, MissingFigure, NoRetainModel, NullFigure

# Fewer samples cannot carry a test between two distributions.
FEWEST_SAMPLES = 10
# A smaller denominator makes of a difference of 0.01 in AUC more than 20 points of privleak.
SMALLEST_RETAIN_SHARE = 0.05
UTILITY_PARTS = ("probability", "rouge", "truth_ratio")
# From an evaluation, the retain model's (None where there is none) and the suite; raises Missing.
JointFunction = Callable[[Evaluation, "Evaluation | None", EvalConfig], float]


def require_set(config: EvalConfig, role: str) -> str:
    """The set that joint metrics read for a role.

    Raises:
        Missing: no set has it, or several and none is named after it.
    """
    name = find_set_of_role(config, role)
    if name is None:
        raise MissingFigure(f"this suite has no set '{role}', nor one alone with role={role}")
    return name


def compute_model_utility(ours: Evaluation, theirs: Evaluation | None, config: EvalConfig) -> float:
    """Harmonic mean of probability, rouge and truth_ratio over the sets of eval.utility.

    Of the parts that there are, which is said where some are missing.
    """
    names = [
        f"{name}_{part}"
        for name in config.utility
        for part in UTILITY_PARTS
        if part in config.sets[name].metrics
    ]
    if not names:
        raise MissingFigure("eval.utility names no set with its parts")
    parts = {name: ours.figure(name) for name in names if name in ours.metrics}
    gone = [name for name in names if name not in parts]
    if not parts:
        raise MissingFigure(f"{gone[0]} and all other parts are missing")
    if gone:
        ours.notes["model_utility"] = (
            f"averages {len(parts)} of {len(names)} parts; without {', '.join(gone)}"
        )
    return metrics.model_utility(parts)


def compute_forget_quality(
    ours: Evaluation, theirs: Evaluation | None, config: EvalConfig
) -> float:
    """p-value of the KS test between the forget truth ratios of two models."""
    ratios = collect_truth_ratios(ours, theirs, config)
    count = min(map(len, ratios))
    if count < FEWEST_SAMPLES:
        raise NullFigure(f"n = {count}: fewer than {FEWEST_SAMPLES} samples")
    return metrics.forget_quality(*ratios)


def compute_forget_distance(
    ours: Evaluation, theirs: Evaluation | None, config: EvalConfig
) -> float:
    """The distance D behind forget_quality, without its test."""
    return metrics.ks_distance(*collect_truth_ratios(ours, theirs, config))


def collect_truth_ratios(
    ours: Evaluation, theirs: Evaluation | None, config: EvalConfig
) -> tuple[Any, Any]:
    """The logarithms of the forget truth ratios of two models."""
    name = require_set(config, FORGET)
    if theirs is None:
        raise NoRetainModel
    our_ratios = ours.values(name, "log_truth_ratio")
    try:
        their_ratios = theirs.values(name, "log_truth_ratio")
    except NullFigure as error:
        raise NullFigure(f"the retain model's results: {error}") from error
    if not len(our_ratios) or not len(their_ratios):
        whose = "the retain model's results have" if len(our_ratios) else "the forget set has"
        raise MissingFigure(f"{whose} no truth ratios")
    return our_ratios, their_ratios


def make_attack_auc(name: str) -> JointFunction:
    """AUC of a membership attack between the forget and the holdout set; 1: memorised."""

    def compute(ours: Evaluation, theirs: Evaluation | None, config: EvalConfig) -> float:
        forget, holdout = (require_set(config, role) for role in (FORGET, HOLDOUT))
        scores = ours.values(forget, name), ours.values(holdout, name)
        if not len(scores[0]) or not len(scores[1]):
            raise MissingFigure(f"the {holdout if len(scores[0]) else forget} set has no scores")
        return metrics.attack_auc(*scores)

    return compute


def compute_reference_attack(
    ours: Evaluation, theirs: Evaluation | None, config: EvalConfig
) -> float:
    """The loss attack with the retain model's loss on the same answers taken off."""
    if theirs is None:
        raise NoRetainModel
    scores = []
    for name in (require_set(config, role) for role in (FORGET, HOLDOUT)):
        losses = [np.asarray(e.values(name, "mia_loss")) for e in (ours, theirs)]
        tokens = [e.values(name, "answer_tokens") for e in (ours, theirs)]
        if not len(losses[1]) or len(losses[0]) != len(losses[1]) or not np.array_equal(*tokens):
            raise MissingFigure(f"the retain model's results hold no losses of this {name} set")
        scores.append(losses[0] - losses[1])
    return metrics.attack_auc(*scores)


def compute_privleak(ours: Evaluation, theirs: Evaluation | None, config: EvalConfig) -> float:
    """Distance of the Min-K% attack's AUC from the retain model's, in percent of the latter."""
    auc, known = compute_min_k_aucs(ours, theirs, config)
    if 1 - known < SMALLEST_RETAIN_SHARE:
        raise MissingFigure(
            f"{'undefined' if known == 1 else 'unstable'}: it is relative to {1 - known:.3f}, 1 - "
            f"the retain model's attack AUC; the AUC here is {auc:.3f}"
        )
    return metrics.privleak(auc, known)


def compute_unchecked_privleak(
    ours: Evaluation, theirs: Evaluation | None, config: EvalConfig
) -> float:
    """`privleak` of a resample, which may be as unstable as it comes out; NaN where undefined."""
    auc, known = compute_min_k_aucs(ours, theirs, config)
    return (known - auc) / (1 - known) * 100 if known != 1 else math.nan


def compute_min_k_aucs(
    ours: Evaluation, theirs: Evaluation | None, config: EvalConfig
) -> tuple[float, float]:
    """AUC of the Min-K% attack, and the retain model's: of its scores, its results, published."""
    of_min_k = make_attack_auc("mia_min_k")
    auc = of_min_k(ours, None, config)
    if theirs is None:
        if config.retrain_auc is None:
            raise NoRetainModel
        return auc, 1 - config.retrain_auc
    try:
        return auc, of_min_k(theirs, None, config)
    except NullFigure:
        raise
    except MissingFigure:
        known = theirs.metrics.get("mia_min_k")
    if known is None:
        raise MissingFigure("the retain model's results hold no Min-K% scores")
    return auc, known
