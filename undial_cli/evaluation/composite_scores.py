"""The field's composite scores, of the figures that a suite has: memorisation, privacy, utility.

OpenUnlearning, arXiv 2506.12618. A harmonic mean is as low as its least part, which is named where
it is next to nothing. Knows no list of metrics. Imports no torch.
"""

from __future__ import annotations

import numpy as np

from undial_cli.config.suites import FORGET
from undial_cli.evaluation import metrics
from undial_cli.evaluation.evidence import MissingFigure, NullFigure
from undial_cli.evaluation.joint_metrics import (
    ComparedModels,
    compute_model_utility,
    make_attack_auc,
)

MEMORIZATION_PARTS = (
    "extraction_strength", "exact_memorization", "paraphrase_probability", "truth_ratio_prob_mean",
)  # fmt: skip
PRIVACY_PARTS = ("mia_loss", "mia_zlib", "mia_min_k", "mia_min_k_plus_plus")
AGGREGATE_PARTS = ("memorization_score", "privacy_score", "utility_score")
# A part below this is named beside the mean that it pulls down.
WEAK_PART = 0.1


def compute_memorization_score(models: ComparedModels) -> float:
    """How little of the forget set is left, by four figures of it."""
    name = models.require_set(FORGET)
    figures = {key: compute_set_mean(models, name, key) for key in MEMORIZATION_PARTS}
    note_weak_parts(models, "memorization_score", {f"1 - {k}": 1 - v for k, v in figures.items()})
    return metrics.memorization_score(*figures.values())


def compute_set_mean(models: ComparedModels, set_name: str, key: str) -> float:
    """The mean of a per-sample value of a set."""
    if f"{set_name}_{key}" in models.ours.metrics:
        return models.ours.figure(f"{set_name}_{key}")
    values = models.ours.values(set_name, key)
    if not len(values):
        raise MissingFigure(f"the {set_name} set has no {key}")
    return float(np.mean(values))


def compute_privacy_score(models: ComparedModels) -> float:
    """How like the retain model's the AUCs of four membership attacks are."""
    retain = models.alone(models.require_retain())
    parts = {}
    for name in PRIVACY_PARTS:
        compute = make_attack_auc(name)
        auc = models.ours.figure(name) if name in models.ours.metrics else compute(models)
        retain_auc = find_retain_auc(retain, name)
        if retain_auc == 0:
            raise NullFigure(f"it is relative to the retain model's {name}, which is 0")
        parts[name] = metrics.attack_similarity(auc, retain_auc)
    note_weak_parts(models, "privacy_score", parts)
    return metrics.privacy_score(list(parts.values()))


def find_retain_auc(retain: ComparedModels, name: str) -> float:
    """The retain model's AUC of an attack: of its scores, or as published results hold it."""
    try:
        return make_attack_auc(name)(retain)
    except NullFigure:
        raise
    except MissingFigure:
        auc = retain.ours.metrics.get(name)
    if auc is None:
        raise MissingFigure(f"the retain model's results hold no scores of {name}")
    return auc


def compute_utility_score(models: ComparedModels) -> float:
    """Model utility and fluency, as a share of the target's, 1 at most."""
    if models.target is None:
        raise MissingFigure("it is relative to the target, whose evaluation is not known")
    theirs = measure_utility(models.alone(models.target))
    if theirs == 0:
        raise NullFigure("it is relative to the target's, which is 0")
    return min(1.0, measure_utility(models) / theirs)


def measure_utility(models: ComparedModels) -> float:
    """Harmonic mean of model utility and, where eval.gibberish_model is set, fluency."""
    utility = compute_model_utility(models)
    if models.config.gibberish_model is None:
        models.ours.notes["utility_score"] = "without fluency: eval.gibberish_model is not set"
        return metrics.utility_score(utility)
    fluency = compute_set_mean(models, models.require_set(FORGET), "gibberish")
    note_weak_parts(models, "utility_score", {"model_utility": utility, "gibberish": fluency})
    return metrics.utility_score(utility, fluency)


def compute_aggregate_score(models: ComparedModels) -> float:
    """Harmonic mean of the three scores, which the suite has to name before it."""
    ours, parts = models.ours, {}
    for name in AGGREGATE_PARTS:
        if name not in ours.metrics:
            raise MissingFigure(
                f"{name}: {ours.missing.get(name, 'eval.metrics does not name it')}"
            )
        parts[name] = ours.figure(name)
    note_weak_parts(models, "aggregate_score", parts)
    return metrics.aggregate_score(*parts.values())


def note_weak_parts(models: ComparedModels, name: str, parts: dict[str, float]) -> None:
    """Say which parts pull a harmonic mean to 0."""
    weak = [f"{part} {value:.3f}" for part, value in parts.items() if value < WEAK_PART]
    if weak:
        models.ours.notes[name] = f"pulled down by {', '.join(weak)}"
