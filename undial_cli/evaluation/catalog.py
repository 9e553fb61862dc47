"""The metrics of one set that a suite can name: what each needs, and how it is computed.

A metric gives a value per sample and an aggregate; those that join sets are in joint.py. To add
one, write the function and name it in METRICS. A value that is not finite is no figure: it is
counted, and its aggregate is null, with the reason in `missing`. Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from undial_cli.evaluation import metrics, words
from undial_cli.evaluation.config import FORGET, EvalSetConfig

if TYPE_CHECKING:
    from undial_cli.evaluation.scoring import Score


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
