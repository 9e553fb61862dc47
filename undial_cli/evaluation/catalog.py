"""The metrics that a suite can name: what each needs, and how it comes from what was found.

A metric of one set gives a value per sample and an aggregate; a joint metric reads the per-sample
values of several sets, and a relative one those of the retain model too. To add one, write the
function and name it in METRICS or JOINT. A value that is not finite is no figure: it is counted,
and its aggregate is null, with the reason in `missing`. Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from undial_cli.errors import bad_value
from undial_cli.evaluation import metrics, words
from undial_cli.evaluation.config import FORGET, HOLDOUT, EvalConfig, EvalSetConfig, set_for

if TYPE_CHECKING:
    from undial_cli.evaluation.scoring import Score

# Fewer samples cannot carry a test between two distributions.
FEWEST = 10
UTILITY_PARTS = ("probability", "rouge", "truth_ratio")


class Missing(Exception):
    """A metric that cannot be computed, and why."""


class NoRetainModel(Missing):
    """A metric that needs a retain model where there is none."""


class NoFigure(Missing):
    """A metric that is null: its samples are there, and give no number that could be trusted."""


@dataclass
class Evaluation:
    """What a suite found: aggregates by name, one object per sample, what is missing and why.

    A value that is not finite is null (None), in a sample as in an aggregate.

    `incomplete`: something is missing that another try may find (a helper model, a library).
    `statistics`: n, interval and the like of metrics; `notes`: what a metric's figure does not
    say; `rows`: per set, how many rows were read, scored, cut.
    """

    metrics: dict[str, float | None]
    samples: list[dict[str, Any]]
    missing: dict[str, str] = field(default_factory=dict)
    incomplete: bool = False
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    rows: dict[str, dict[str, int]] = field(default_factory=dict)

    def samples_with(self, set_name: str, key: str) -> list[dict[str, Any]]:
        """The samples of a set that a per-sample value applies to.

        Raises:
            NoFigure: some of the values are not finite.
        """
        samples = [s for s in self.samples if s["set"] == set_name and key in s]
        broken = sum(s[key] is None for s in samples)
        if broken:
            raise NoFigure(f"{broken} of {len(samples)} samples have no finite {key}")
        return samples

    def values(self, set_name: str, key: str) -> list[Any]:
        """A per-sample value of all samples of a set that it applies to; raises NoFigure."""
        return [sample[key] for sample in self.samples_with(set_name, key)]


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
    def broken(self) -> bool:
        """Whether the model's loss on the answer is not finite: then no other figure is one."""
        return self.answer is not None and not math.isfinite(self.answer.ce)

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


def finite(value: Any) -> Any:
    """The same with NaN and infinities, at any depth, as None: JSON has no number for them."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def same(values: NDArray[np.float64], role: str) -> NDArray[np.float64]:
    """Values as they are."""
    return values


@dataclass(frozen=True)
class Metric:
    """A metric of one set.

    Attributes:
        sample: the value of one sample, None where it does not apply.
        needs: what the engines must find: `answer`, `alternatives` (paraphrased and perturbed
            answers), `generation`, `distribution`, `gradient`, `continuations`, or the key of a
            helper model.
        term: what the samples add to the mean of a set, given the role of the set.
        finish: from that mean to the aggregate.
        stored: name of the per-sample value in samples.jsonl, where it is not the metric's own.
    """

    sample: Callable[[Evidence], float | None]
    needs: tuple[str, ...] = ("answer",)
    term: Callable[[NDArray[np.float64], str], NDArray[np.float64]] = same
    finish: Callable[[Any], Any] = np.asarray
    stored: str = ""

    def aggregate(self, values: list[float], role: str) -> float:
        """Of the values of a set.

        Raises:
            NoFigure: it is not finite.
        """
        with np.errstate(over="ignore"):
            found = float(self.finish(self.term(np.asarray(values), role).mean()))
        if not math.isfinite(found):
            raise NoFigure(f"it is {found}")
        return found


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
    """ROUGE-L of the generation: recall, stemmed, or F1, not stemmed; of references with words."""
    if found.generation is None or words.reading(found.reference) == words.NONE:
        return None
    f1 = found.options.rouge == "f1"
    return (metrics.rouge_l_f1 if f1 else metrics.rouge_l_recall)(found.generation, found.reference)


def log_truth_ratio(found: Evidence) -> float | None:
    """Logarithm of the truth ratio."""
    other = found.alternatives()
    return None if other is None else float(metrics.log_truth_ratio([other[0]], [other[1]])[0])


def truth_ratio(log_ratios: NDArray[np.float64], role: str) -> NDArray[np.float64]:
    """Closer to 1 is better where it is to be forgotten; the truer the better elsewhere."""
    with np.errstate(over="ignore"):
        ratios = np.exp(log_ratios)
    return (metrics.evenness if role == FORGET else metrics.truthfulness)(ratios)


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
        return function(text) if len(words.split_words(text)) >= n else None

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
        finish=np.exp,
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
        of_words(lambda text: metrics.repetition(words.split_words(text), n), n), TEXT
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
    """Harmonic mean of probability, rouge and truth_ratio over the sets of eval.utility."""
    parts = {name: ours.metrics[name] for name in utility_parts(config) if name in ours.metrics}
    gone = [name for name in utility_parts(config) if name not in parts]
    if gone:
        raise Missing(f"{gone[0]} is missing")
    if not parts:
        raise Missing("eval.utility names no set with its parts")
    broken = [name for name, figure in parts.items() if figure is None]
    if broken:
        raise NoFigure(f"{broken[0]} is null")
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
    try:
        return metrics.privleak(auc, known)
    except ValueError as error:
        raise Missing(str(error)) from error


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
