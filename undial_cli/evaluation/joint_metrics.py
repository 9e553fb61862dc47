"""The metrics that join sets: from the per-sample values of several, and of the retain model's.

Sets are told by their roles. A resample of an evaluation gives the same functions its values, so
that none is written a second time for its interval. Knows no list of metrics. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass
class ComparedModels:
    """What a joint metric is of: our evaluation, the retain model's if there is one, the suite.

    `target`: that of the model before unlearning, where it is known; `metric`: the joint metric
    that is computed, which may read sets of its own (eval.joint_sets).
    """

    ours: Evaluation
    theirs: Evaluation | None
    config: EvalConfig
    target: Evaluation | None = None
    metric: str = ""

    def reading(self, metric: str) -> ComparedModels:
        """The same for another joint metric."""
        return dataclasses.replace(self, metric=metric)

    def alone(self, model: Evaluation) -> ComparedModels:
        """One of the models by itself."""
        return ComparedModels(model, None, self.config, metric=self.metric)

    def require_set(self, role: str) -> str:
        """The set that joint metrics read for a role.

        Raises:
            MissingFigure: no set has it, or several and none is named after it.
        """
        name = find_set_of_role(self.config, role, self.metric)
        if name is None:
            raise MissingFigure(f"this suite has no set '{role}', nor one alone with role={role}")
        return name

    def require_retain(self) -> Evaluation:
        """The retain model's evaluation; raises NoRetainModel."""
        if self.theirs is None:
            raise NoRetainModel
        return self.theirs


# Raises MissingFigure where there is no figure.
JointFunction = Callable[[ComparedModels], float]


def compute_model_utility(models: ComparedModels) -> float:
    """Harmonic mean of probability, rouge, truth_ratio and accuracy over the sets of eval.utility.

    Of the parts that there are, which is said where some are missing.
    """
    ours, config = models.ours, models.config
    names = [
        f"{name}_{part}"
        for name in config.utility
        for part in (*UTILITY_PARTS, "accuracy")
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


def compute_forget_quality(models: ComparedModels) -> float:
    """p-value of the KS test between the forget truth ratios of two models."""
    ratios = collect_truth_ratios(models)
    count = min(map(len, ratios))
    if count < FEWEST_SAMPLES:  # so few hardly tell any two models apart
        raise NullFigure(f"n = {count}: fewer than {FEWEST_SAMPLES} samples")
    return metrics.forget_quality(*ratios)


def compute_forget_distance(models: ComparedModels) -> float:
    """The distance D behind forget_quality, without its test."""
    return metrics.ks_distance(*collect_truth_ratios(models))


def collect_truth_ratios(models: ComparedModels) -> tuple[Any, Any]:
    """The logarithms of the forget truth ratios of two models."""
    name, retain = models.require_set(FORGET), models.require_retain()
    ours = models.ours.values(name, "log_truth_ratio")
    try:
        theirs = retain.values(name, "log_truth_ratio")
    except NullFigure as error:
        raise NullFigure(f"the retain model's results: {error}") from error
    if not len(ours) or not len(theirs):
        whose = "the retain model's results have" if len(ours) else "the forget set has"
        raise MissingFigure(f"{whose} no truth ratios")
    return ours, theirs


def make_attack_auc(name: str) -> JointFunction:
    """AUC of a membership attack between the forget and the holdout set; 1: memorised."""

    def compute(models: ComparedModels) -> float:
        forget, holdout = (models.require_set(role) for role in (FORGET, HOLDOUT))
        scores = models.ours.values(forget, name), models.ours.values(holdout, name)
        if not len(scores[0]) or not len(scores[1]):
            raise MissingFigure(f"the {holdout if len(scores[0]) else forget} set has no scores")
        return metrics.attack_auc(*scores)

    return compute


def compute_reference_attack(models: ComparedModels) -> float:
    """The loss attack with the retain model's loss on the same answers taken off."""
    both, scores = (models.ours, models.require_retain()), []
    for name in map(models.require_set, (FORGET, HOLDOUT)):
        ours, theirs = (np.asarray(model.values(name, "mia_loss")) for model in both)
        tokens = [model.values(name, "answer_tokens") for model in both]
        if not len(theirs) or len(ours) != len(theirs) or not np.array_equal(*tokens):
            raise MissingFigure(f"the retain model's results hold no losses of this {name} set")
        scores.append(ours - theirs)
    return metrics.attack_auc(*scores)


def compute_privleak(models: ComparedModels) -> float:
    """Distance of the Min-K% attack's AUC from the retain model's, in percent of the latter."""
    auc, retain_auc = compute_min_k_aucs(models)
    if 1 - retain_auc < SMALLEST_RETAIN_SHARE:
        kind = "undefined" if retain_auc == 1 else "unstable"
        raise MissingFigure(
            f"{kind}: it is relative to {1 - retain_auc:.3f}, 1 - the retain model's attack AUC; "
            f"the AUC here is {auc:.3f}"
        )
    return metrics.privleak(auc, retain_auc)


def compute_unchecked_privleak(models: ComparedModels) -> float:
    """`privleak` of a resample, which may be as unstable as it comes out; NaN where undefined."""
    auc, retain_auc = compute_min_k_aucs(models)
    return metrics.privleak(auc, retain_auc) if retain_auc != 1 else math.nan


def compute_min_k_aucs(models: ComparedModels) -> tuple[float, float]:
    """AUC of the Min-K% attack, and the retain model's: of its scores, its results, published."""
    compute, config, theirs = make_attack_auc("mia_min_k"), models.config, models.theirs
    auc = compute(models)
    if theirs is None:
        if config.retrain_auc is None:
            raise NoRetainModel
        return auc, 1 - config.retrain_auc
    try:
        return auc, compute(models.alone(theirs))
    except NullFigure:
        raise
    except MissingFigure:  # published results may hold the AUC without its scores
        retain_auc = theirs.metrics.get("mia_min_k")
    if retain_auc is None:
        raise MissingFigure("the retain model's results hold no Min-K% scores")
    return auc, retain_auc
