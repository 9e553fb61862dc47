"""The metrics that join sets, and which metrics a suite asks of each set.

A joint metric reads the per-sample values of several sets, and a relative one those of the retain
model too. Sets are told by their roles. To add one, write the function and name it in JOINT.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from undial_cli.errors import bad_value
from undial_cli.evaluation import metrics
from undial_cli.evaluation.catalog import (
    METRICS,
    NUMBERED,
    Evaluation,
    Metric,
    Missing,
    NoFigure,
    NoRetainModel,
    find,
)
from undial_cli.evaluation.config import FORGET, HOLDOUT, EvalConfig, set_for

# Fewer samples cannot carry a test between two distributions.
FEWEST = 10
# A smaller denominator makes of a difference of 0.01 in AUC more than 20 points of privleak.
LEAST_SHARE = 0.05
UTILITY_PARTS = ("probability", "rouge", "truth_ratio")


@dataclass(frozen=True)
class Joint:
    """A metric that joins sets.

    Attributes:
        compute: from the evaluation, the retain model's (None where there is none) and the suite;
            raises Missing.
        roles, reads: the roles of the sets, and the metrics of one set whose per-sample values it
            needs there.
        relative: whether it needs the retain model.
    """

    compute: Callable[[Evaluation, Evaluation | None, EvalConfig], float]
    roles: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    relative: bool = False


def set_of(config: EvalConfig, role: str) -> str:
    """The set that joint metrics read for a role.

    Raises:
        Missing: no set has it, or several and none is named after it.
    """
    name = set_for(config, role)
    if name is None:
        raise Missing(f"this suite has no set '{role}', nor one alone with role={role}")
    return name


def utility_parts(config: EvalConfig) -> list[str]:
    """The figures that model_utility averages."""
    return [
        f"{name}_{part}"
        for name in config.utility
        for part in UTILITY_PARTS
        if part in config.sets[name].metrics
    ]


def model_utility(ours: Evaluation, theirs: Evaluation | None, config: EvalConfig) -> float:
    """Harmonic mean of probability, rouge and truth_ratio over the sets of eval.utility.

    Of the parts that there are, which is said where some are missing.
    """
    names = utility_parts(config)
    if not names:
        raise Missing("eval.utility names no set with its parts")
    parts = {name: ours.metrics[name] for name in names if name in ours.metrics}
    gone = [name for name in names if name not in parts]
    if not parts:
        raise Missing(f"{gone[0]} and all other parts are missing")
    broken = [name for name, figure in parts.items() if figure is None]
    if broken:
        raise NoFigure(f"{broken[0]} is null")
    if gone:
        ours.notes["model_utility"] = (
            f"averages {len(parts)} of {len(names)} parts; without {', '.join(gone)}"
        )
    return metrics.model_utility({name: v for name, v in parts.items() if v is not None})


def forget_quality(ours: Evaluation, theirs: Evaluation | None, config: EvalConfig) -> float:
    """p-value of the KS test between the forget truth ratios of two models."""
    if theirs is None:
        raise NoRetainModel
    ratios = truth_ratios(ours, theirs, config)
    count = min(map(len, ratios))
    if count < FEWEST:
        raise NoFigure(f"n = {count}: fewer than {FEWEST} samples")
    return metrics.forget_quality(*ratios)


def truth_ratios(
    ours: Evaluation, theirs: Evaluation, config: EvalConfig
) -> tuple[list[float], list[float]]:
    """The logarithms of the forget truth ratios of two models."""
    name = set_of(config, FORGET)
    our_ratios = ours.values(name, "log_truth_ratio")
    try:
        their_ratios = theirs.values(name, "log_truth_ratio")
    except NoFigure as error:
        raise NoFigure(f"the retain model's results: {error}") from error
    if not our_ratios or not their_ratios:
        whose = "the forget set has" if not our_ratios else "the retain model's results have"
        raise Missing(f"{whose} no truth ratios")
    return our_ratios, their_ratios


def attack(name: str) -> Callable[[Evaluation, Evaluation | None, EvalConfig], float]:
    """AUC of a membership attack between the forget and the holdout set; 1: memorised."""

    def compute(ours: Evaluation, theirs: Evaluation | None, config: EvalConfig) -> float:
        return metrics.attack_auc(*attack_scores(ours, name, config))

    return compute


def attack_scores(
    ours: Evaluation, name: str, config: EvalConfig
) -> tuple[list[float], list[float]]:
    """The loss-like scores of the forget and of the holdout set."""
    forget, holdout = (set_of(config, role) for role in (FORGET, HOLDOUT))
    scores = ours.values(forget, name), ours.values(holdout, name)
    if not scores[0] or not scores[1]:
        raise Missing(f"the {forget if not scores[0] else holdout} set has no scores")
    return scores


def reference_attack(ours: Evaluation, theirs: Evaluation | None, config: EvalConfig) -> float:
    """The loss attack with the retain model's loss taken off."""
    if theirs is None:
        raise NoRetainModel
    return metrics.attack_auc(*reference_scores(ours, theirs, config))


def reference_scores(
    ours: Evaluation, theirs: Evaluation, config: EvalConfig
) -> tuple[list[float], list[float]]:
    """Our loss less the retain model's, of the forget and of the holdout set."""
    scores = []
    for name in (set_of(config, role) for role in (FORGET, HOLDOUT)):
        losses = [e.values(name, "mia_loss") for e in (ours, theirs)]
        lengths = [
            [s["answer_tokens"] for s in e.samples_with(name, "mia_loss")] for e in (ours, theirs)
        ]
        if not losses[1] or lengths[0] != lengths[1]:
            raise Missing(f"the retain model's results hold no losses of this {name} set")
        scores.append([our - their for our, their in zip(*losses, strict=True)])
    return scores[0], scores[1]


def privleak(ours: Evaluation, theirs: Evaluation | None, config: EvalConfig) -> float:
    """Distance of the Min-K% attack's AUC from the retain model's, in percent of the latter."""
    auc = attack("mia_min_k")(ours, None, config)
    known = known_auc(theirs, config)
    if 1 - known < LEAST_SHARE:
        raise Missing(
            f"{'undefined' if known == 1 else 'unstable'}: it is relative to {1 - known:.3f}, 1 - "
            f"the retain model's attack AUC; the AUC here is {auc:.3f}"
        )
    return metrics.privleak(auc, known)


def known_auc(theirs: Evaluation | None, config: EvalConfig) -> float:
    """The retain model's AUC of the Min-K% attack: of its scores, its results, or published."""
    if theirs is None:
        if config.retrain_auc is None:
            raise NoRetainModel
        return 1 - config.retrain_auc
    try:
        return attack("mia_min_k")(theirs, None, config)
    except NoFigure:
        raise
    except Missing:
        known = theirs.metrics.get("mia_min_k")
    if known is None:
        raise Missing("the retain model's results hold no Min-K% scores")
    return known


BOTH = (FORGET, HOLDOUT)
JOINT: dict[str, Joint] = {
    "model_utility": Joint(model_utility),
    "forget_quality": Joint(forget_quality, (FORGET,), ("truth_ratio",), relative=True),
    **{name: Joint(attack(name), BOTH, (name,)) for name in METRICS if name.startswith("mia_")},
    "mia_reference": Joint(reference_attack, BOTH, ("mia_loss",), relative=True),
    "privleak": Joint(privleak, BOTH, ("mia_min_k",), relative=True),
}


def check_name(key: str, name: str, joint: bool) -> None:
    """Raise UserError for a metric that does not exist."""
    known = [*JOINT] if joint else [*METRICS, *(f"{word}_N" for word in NUMBERED)]
    if not (name in JOINT if joint else find(name)):
        raise bad_value(key, name, known)


def metrics_of(config: EvalConfig, set_name: str, there: Collection[str]) -> dict[str, Metric]:
    """The metrics that a set is evaluated with, those that joint ones read included.

    Args:
        there: the sets that have rows; a joint metric of another one reads nothing.
    """
    names = list(config.sets[set_name].metrics)
    for joint in map(JOINT.__getitem__, config.metrics):
        sets = [set_for(config, role) for role in joint.roles]
        if set_name in sets and set(sets) <= set(there):
            names += joint.reads
    return {name: metric for name in dict.fromkeys(names) if (metric := find(name))}


def needs_of(config: EvalConfig, set_name: str, there: Collection[str]) -> set[str]:
    """What the engines must find for a set.

    Answers are scored wherever anything is: a loss that is not finite tells that no other figure
    of a sample is one (the greedy tokens of NaN match nothing, and would pass for forgetting).
    """
    chosen = metrics_of(config, set_name, there).values()
    needs = {need for metric in chosen for need in metric.needs}
    return needs | {"answer"} if needs else needs


def join(
    ours: Evaluation,
    theirs: Evaluation | None,
    config: EvalConfig,
    relative: bool,
    no_retain: str = "",
) -> None:
    """Add the joint metrics to an evaluation: the relative ones, or the others.

    Args:
        theirs: the retain model's evaluation, where there is one.
        no_retain: why there is none.
    """
    for name in config.metrics:
        joint = JOINT[name]
        if joint.relative != relative:
            continue
        try:
            for set_name in (set_of(config, role) for role in joint.roles):
                if set_name in ours.missing:
                    raise Missing(f"the set '{set_name}' is missing")
                if not any(sample["set"] == set_name for sample in ours.samples):
                    raise Missing(f"this suite has no set '{set_name}'")
            ours.metrics[name] = joint.compute(ours, theirs, config)
        except NoRetainModel:
            ours.missing[name] = no_retain or "no retain model is known: set eval.retain_model"
        except NoFigure as reason:
            ours.metrics[name], ours.missing[name] = None, str(reason)
        except Missing as reason:
            ours.missing[name] = str(reason)
