"""The metrics that a suite can name: what each needs, and how it comes from what was found.

A metric of one set gives a value per sample and an aggregate; a joint metric reads the per-sample
values of several sets, and a relative one those of the retain model too. To add one, write the
function and name it in METRICS or JOINT. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from undial_cli.errors import bad_value
from undial_cli.evaluation import metrics

if TYPE_CHECKING:
    from undial_cli.evaluation.config import EvalConfig, EvalSetConfig
    from undial_cli.evaluation.scoring import Score

FORGET, HOLDOUT = "forget", "holdout"
UTILITY_PARTS = ("probability", "rouge", "truth_ratio")


# A smaller denominator makes of a difference of 0.01 in AUC more than 20 points of privleak.
LEAST_SHARE = 0.05


class Missing(Exception):
    """A metric that cannot be computed, and why."""


class NoRetainModel(Missing):
    """A metric that needs a retain model where there is none."""


@dataclass
class Evaluation:
    """What a suite found: aggregates by name, one object per sample, what is missing and why.

    `incomplete`: something is missing that another try may find (a helper model, a library).
    `statistics`: standard error and the like of metrics; `notes`: what a metric's figure does not
    say.
    """

    metrics: dict[str, float]
    samples: list[dict[str, Any]]
    missing: dict[str, str] = field(default_factory=dict)
    incomplete: bool = False
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def values(self, set_name: str, key: str) -> list[Any]:
        """A per-sample value of all samples of a set that have it."""
        return [s[key] for s in self.samples if s["set"] == set_name and s.get(key) is not None]


@dataclass
class Evidence:
    """What the engines found of one row: scores of its answers, its generation, other figures.

    `reference`: what a generation is compared with; `scored`: the text of the scored answer.
    """

    options: EvalSetConfig
    reference: str
    scored: str
    answers: Mapping[str, list[Score]]
    generation: str | None = None
    figures: dict[str, float | None] = field(default_factory=dict)

    @property
    def answer(self) -> Score | None:
        """The answer's score, if it has a target token."""
        scores = self.answers.get("answer") or []
        return scores[0] if scores and scores[0].tokens else None

    def alternatives(self) -> tuple[float, list[float]] | None:
        """Mean CE of the paraphrase and of the perturbed answers, where all have target tokens."""
        true, false = self.answers.get("paraphrase") or [], self.answers.get("perturbed") or []
        if not (true and false) or not all(s.tokens for s in [*true, *false]):
            return None
        return true[0].ce, [s.ce for s in false]

    def answer_log_probs(self) -> list[float]:
        """Log-probabilities of the answer's tokens, end token left out."""
        score = self.answer
        return [-ce for ce in score.token_ce[: len(score.matches)]] if score else []


def mean(values: list[float], set_name: str) -> float:
    """The plain mean."""
    return float(np.mean(values))


@dataclass(frozen=True)
class Metric:
    """A metric of one set.

    Attributes:
        sample: the value of one sample, None where it does not apply.
        needs: what the engines must find: `answer`, `alternatives` (paraphrased and perturbed
            answers), `generation`, `distribution`, `gradient`, `continuations`, or the key of a
            helper model.
        aggregate: of the values of a set, given its name.
        stored: name of the per-sample value in samples.jsonl, where it is not the metric's own.
    """

    sample: Callable[[Evidence], float | None]
    needs: tuple[str, ...] = ("answer",)
    aggregate: Callable[[list[float], str], float] = mean
    stored: str = ""


def probability(found: Evidence) -> float | None:
    """Of the answer; against the perturbed ones where the set says so."""
    if found.answer is None:
        return None
    if not found.options.normalise_probability:
        return float(metrics.probability(found.answer.ce))
    other = found.alternatives()
    if other is None:
        return None
    return float(metrics.normalised_probability([found.answer.ce], [other[1]])[0])


def rouge(found: Evidence) -> float | None:
    """ROUGE-L of the generation: recall, stemmed, or F1, not stemmed."""
    if found.generation is None:
        return None
    f1 = found.options.rouge == "f1"
    return (metrics.rouge_l_f1 if f1 else metrics.rouge_l_recall)(found.generation, found.reference)


def log_truth_ratio(found: Evidence) -> float | None:
    """Logarithm of the truth ratio."""
    other = found.alternatives()
    return None if other is None else float(metrics.log_truth_ratio([other[0]], [other[1]])[0])


def truth_ratio(values: list[float], set_name: str) -> float:
    """Closer to 1 is better on the forget set; the truer the better elsewhere."""
    with np.errstate(over="ignore"):
        ratios = np.exp(np.asarray(values))
    forget = set_name.startswith(FORGET)
    return (metrics.forget_truth_ratio if forget else metrics.retain_truth_ratio)(ratios)


def truth_ratio_prob_mean(found: Evidence) -> float | None:
    """p_true / (p_true + mean p_false)."""
    other = found.alternatives()
    return other and float(metrics.prob_mean_truth_ratio([other[0]], [other[1]])[0])


def of_matches(function: Callable[[list[bool]], float]) -> Callable[[Evidence], float | None]:
    """A metric of which answer tokens are predicted greedily."""
    return lambda found: (
        function(found.answer.matches) if found.answer and found.answer.matches else None
    )


def min_k(found: Evidence) -> float | None:
    """Loss-like: minus Min-K%."""
    log_probs = found.answer_log_probs()
    return -metrics.min_k(log_probs) if log_probs else None


def min_k_plus_plus(found: Evidence) -> float | None:
    """Loss-like: minus Min-K%++."""
    log_probs, score = found.answer_log_probs(), found.answer
    if not log_probs or score is None:
        return None
    end = len(log_probs)
    return -metrics.min_k_plus_plus(log_probs, score.mean[:end], score.variance[:end])


def figure(name: str) -> Callable[[Evidence], float | None]:
    """A value that an engine or a helper model gave under its name."""
    return lambda found: found.figures.get(name)


def of_words(function: Callable[[str], float], n: int) -> Callable[[Evidence], float | None]:
    """A metric of the words of a generation; one of fewer than n words has none."""

    def compute(found: Evidence) -> float | None:
        text = found.generation or ""
        return function(text) if len(metrics.split_words(text)) >= n else None

    return compute


TEXT = ("generation",)
METRICS: dict[str, Metric] = {
    "probability": Metric(probability),
    "rouge": Metric(rouge, TEXT),
    "truth_ratio": Metric(
        log_truth_ratio, ("answer", "alternatives"), truth_ratio, stored="log_truth_ratio"
    ),
    "truth_ratio_prob_mean": Metric(truth_ratio_prob_mean, ("answer", "alternatives")),
    "exact_memorization": Metric(of_matches(lambda matches: float(np.mean(matches)))),
    "extraction_strength": Metric(of_matches(metrics.extraction_strength)),
    "ma": Metric(figure("ma"), ("continuations",)),
    "mia_loss": Metric(lambda found: found.answer and found.answer.ce),
    "mia_zlib": Metric(
        lambda found: found.answer and metrics.zlib_score(found.answer.ce, found.scored)
    ),
    "mia_min_k": Metric(min_k),
    "mia_min_k_plus_plus": Metric(min_k_plus_plus, ("answer", "distribution")),
    "mia_gradnorm": Metric(figure("mia_gradnorm"), ("answer", "gradient")),
    "perplexity": Metric(
        figure("oracle_ce"),
        ("generation", "oracle_model"),
        lambda values, set_name: float(np.exp(np.mean(values))),
        stored="oracle_ce",
    ),
    "similarity": Metric(figure("similarity"), ("generation", "similarity_model")),
    "coherence": Metric(figure("coherence"), ("generation", "coherence_model")),
    "mauve": Metric(figure("mauve"), ("generation", "mauve_model")),
    "gibberish": Metric(figure("gibberish"), ("generation", "gibberish_model")),
}
# Metrics with a number in their name: el_10 is el of n = 10.
NUMBERED: dict[str, Callable[[int], Metric]] = {
    "el": lambda n: Metric(figure(f"el_{n}"), ("continuations",)),
    "rep": lambda n: Metric(
        of_words(lambda text: metrics.repetition(metrics.split_words(text), n), n), TEXT
    ),
    "distinct": lambda n: Metric(of_words(lambda text: metrics.distinct(text, n), n), TEXT),
}


def find(name: str) -> Metric | None:
    """The metric of one set that a name stands for."""
    number = re.fullmatch(r"([a-z]+)_([1-9]\d*)", name)
    if number and number[1] in NUMBERED:
        return NUMBERED[number[1]](int(number[2]))
    return METRICS.get(name)


@dataclass(frozen=True)
class Joint:
    """A metric that joins sets.

    Attributes:
        compute: from the evaluation, the retain model's (None where there is none) and the suite;
            raises Missing.
        sets, reads: the sets, and the metrics of one set whose per-sample values it needs there.
        relative: whether it needs the retain model.
    """

    compute: Callable[[Evaluation, Evaluation | None, EvalConfig], float]
    sets: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    relative: bool = False


def model_utility(ours: Evaluation, theirs: Evaluation | None, config: EvalConfig) -> float:
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
        raise Missing("eval.utility names no set with its parts")
    gone = [name for name in names if ours.metrics.get(name) is None]
    if len(gone) == len(names):
        raise Missing(f"{gone[0]} and all other parts are missing")
    if gone:
        ours.notes["model_utility"] = (
            f"averages {len(names) - len(gone)} of {len(names)} parts; without {', '.join(gone)}"
        )
    return metrics.model_utility({name: ours.metrics[name] for name in names if name not in gone})


def forget_quality(ours: Evaluation, theirs: Evaluation | None, config: EvalConfig) -> float:
    """p-value of the KS test between the forget truth ratios of two models."""
    if theirs is None:
        raise NoRetainModel
    values = [e.values(FORGET, "log_truth_ratio") for e in (ours, theirs)]
    if not values[0] or not values[1]:
        whose = "the forget set has" if not values[0] else "the retain model's results have"
        raise Missing(f"{whose} no truth ratios")
    return metrics.forget_quality(*values)


def attack(name: str) -> Callable[[Evaluation, Evaluation | None, EvalConfig], float]:
    """AUC of a membership attack between the forget and the holdout set; 1: memorised."""

    def compute(ours: Evaluation, theirs: Evaluation | None, config: EvalConfig) -> float:
        values = [ours.values(set_name, name) for set_name in (FORGET, HOLDOUT)]
        if not values[0] or not values[1]:
            raise Missing(f"the {FORGET if not values[0] else HOLDOUT} set has no scores")
        return metrics.attack_auc(*values)

    return compute


def reference_attack(ours: Evaluation, theirs: Evaluation | None, config: EvalConfig) -> float:
    """The loss attack with the retain model's loss taken off."""
    if theirs is None:
        raise NoRetainModel
    scores = []
    for name in (FORGET, HOLDOUT):
        pairs = [e.values(name, "mia_loss") for e in (ours, theirs)]
        rows = [e.values(name, "answer_tokens") for e in (ours, theirs)]
        if not pairs[1] or len(pairs[0]) != len(pairs[1]) or rows[0] != rows[1]:
            raise Missing(f"the retain model's results hold no losses of this {name} set")
        scores.append([mine - other for mine, other in zip(*pairs, strict=True)])
    return metrics.attack_auc(*scores)


def privleak(ours: Evaluation, theirs: Evaluation | None, config: EvalConfig) -> float:
    """Distance of the Min-K% attack's AUC from the retain model's, in percent of the latter."""
    auc = attack("mia_min_k")(ours, None, config)
    if theirs is None and config.retrain_auc is None:
        raise NoRetainModel
    if theirs is None:
        known = 1 - float(config.retrain_auc or 0)
    elif theirs.values(FORGET, "mia_min_k") and theirs.values(HOLDOUT, "mia_min_k"):
        known = attack("mia_min_k")(theirs, None, config)
    else:
        known = theirs.metrics.get("mia_min_k")
    if known is None:
        raise Missing("the retain model's results hold no Min-K% scores")
    if 1 - known < LEAST_SHARE:
        raise Missing(
            f"{'undefined' if known == 1 else 'unstable'}: it is relative to {1 - known:.3f}, 1 - "
            f"the retain model's attack AUC; the AUC here is {auc:.3f}"
        )
    return metrics.privleak(auc, known)


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
        if set_name in joint.sets and set(joint.sets) <= set(there):
            names += joint.reads
    return {name: metric for name in dict.fromkeys(names) if (metric := find(name))}


def needs_of(config: EvalConfig, set_name: str, there: Collection[str]) -> set[str]:
    """What the engines must find for a set."""
    chosen = metrics_of(config, set_name, there).values()
    return {need for metric in chosen for need in metric.needs}


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
            for set_name in joint.sets:
                if set_name in ours.missing:
                    raise Missing(f"the set '{set_name}' is missing")
                if not any(sample["set"] == set_name for sample in ours.samples):
                    raise Missing(f"this suite has no set '{set_name}'")
            ours.metrics[name] = joint.compute(ours, theirs, config)
        except NoRetainModel:
            ours.missing[name] = no_retain or "no retain model is known: set eval.retain_model"
        except Missing as reason:
            ours.missing[name] = str(reason)
