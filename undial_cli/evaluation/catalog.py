"""The metrics that a suite can name, an entry each: what it needs, how it is computed, its title.

To add one, write its function and its entry here, or in a file of your own (user_metrics.py). It is
then a choice of every suite, and has its column, axis and direction wherever figures are shown
(figures.py). Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from undial_cli.config.suites import FORGET, HOLDOUT
from undial_cli.evaluation import (
    answer_matching,
    composite_scores,
    joint_metrics,
    metrics,
    words,
)
from undial_cli.evaluation.evidence import Evidence
from undial_cli.evaluation.joint_metrics import JointFunction

# Which way is better on a set that is to be forgotten, and on any other.
HIGHER, LOWER, NEITHER = ("higher", "higher"), ("lower", "lower"), ("", "")
KNOWLEDGE = ("lower", "higher")
SampleFunction = Callable[[Evidence], "float | None"]


def keep_values(values: NDArray[np.float64], role: str) -> NDArray[np.float64]:
    """Values as they are."""
    return values


@dataclass(frozen=True)
class Metric:
    """A metric of one set, or of several (joint), or, as an attack, both.

    Attributes:
        name: in the `metrics` of a suite and, behind that of the set, in results.json.
        title: in words.
        better: `higher`, `lower` or "" (neither): on a set to be forgotten, and on any other.
        sample: the value of one sample, None where it does not apply; None: not of one set.
        needs: what the engines must find: `answer`, `alternatives` (paraphrased and perturbed
            answers), `choices` (a set of kind=choice), `generation`, `distribution`, `gradient`,
            `continuations`, or the key of a helper model.
        term: what the samples add to the mean of a set, given the role of the set.
        finish: from that mean to the aggregate.
        stored: name of the per-sample value in samples.jsonl, where it is not the metric's own.
        joint: the figure of several sets (joint_metrics.py); None: of one set only.
        roles, reads: of those sets, and the metrics of one set whose values it needs there.
        relative: whether it needs the retain model, or the target.
        spread: what is resampled, where that is not the joint figure itself.
        logarithmic: whether its axis is.
    """

    name: str
    title: str
    better: tuple[str, str] = HIGHER
    sample: SampleFunction | None = None
    needs: tuple[str, ...] = ("answer",)
    # Apart from `finish`, so that the bootstrap weighs the terms of all resamples in one product.
    term: Callable[[NDArray[np.float64], str], NDArray[np.float64]] = keep_values
    finish: Callable[[Any], Any] = np.asarray
    stored: str = ""
    joint: JointFunction | None = None
    roles: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    relative: bool = False
    spread: JointFunction | None = None
    logarithmic: bool = False

    @property
    def key(self) -> str:
        """The name of its per-sample value."""
        return self.stored or self.name

    def aggregate(self, values: ArrayLike, role: str) -> float:
        """Of the values of a set."""
        with np.errstate(over="ignore"):
            return float(self.finish(self.term(np.asarray(values), role).mean()))


def compute_sample_probability(evidence: Evidence) -> float | None:
    """Of the answer; against the perturbed ones where the set says so."""
    answer, alternatives = evidence.answer, evidence.alternatives()
    if answer is None:
        return None
    if not evidence.options.normalise_probability:
        return float(metrics.probability(answer.ce))
    return alternatives and float(metrics.normalised_probability([answer.ce], [alternatives[1]])[0])


def compute_sample_rouge(evidence: Evidence) -> float | None:
    """ROUGE-L of the generation, as the set has it; of references with words."""
    worded = [text for text in evidence.references if words.choose_reading(text) != words.NO_WORDS]
    return compare_generation(evidence, ROUGE_FUNCTIONS[evidence.options.rouge], worded)


def compare_alternatives(function: Callable[..., NDArray[np.float64]]) -> SampleFunction:
    """A metric of the CEs of the paraphrase and of the perturbed answers."""

    def compute(evidence: Evidence) -> float | None:
        alternatives = evidence.alternatives()
        return alternatives and float(function([alternatives[0]], [alternatives[1]])[0])

    return compute


def compute_paraphrase_probability(evidence: Evidence) -> float | None:
    """Of the paraphrased answer."""
    alternatives = evidence.alternatives()
    return alternatives and float(metrics.probability(alternatives[0]))


def compute_sample_accuracy(evidence: Evidence) -> float | None:
    """Whether the right choice is the likeliest; the first of equals is taken."""
    choices = evidence.choices()
    if choices is None:
        return None
    likelihoods, right = choices
    if not np.isfinite(likelihoods).all():
        return math.nan
    return float(metrics.choose_likeliest(likelihoods) == right)


def compute_truth_terms(log_ratios: NDArray[np.float64], role: str) -> NDArray[np.float64]:
    """Closer to 1 is better where it is to be forgotten; the truer the better elsewhere."""
    with np.errstate(over="ignore"):
        ratios = np.exp(log_ratios)
    return (metrics.evenness if role == FORGET else metrics.truthfulness)(ratios)


def compare_generation(
    evidence: Evidence, function: Callable[[str, str], float], references: Sequence[str]
) -> float | None:
    """The generation against the reference that it comes nearest to."""
    text = evidence.compared
    scores = [function(text, reference) for reference in references] if text is not None else []
    return max(scores, default=None)


def compute_exact_match(evidence: Evidence) -> float | None:
    """Whether the generation is the reference, as the set compares them."""
    return compare_generation(
        evidence, MATCH_FUNCTIONS[evidence.options.match], evidence.references
    )


def compute_word_f1(evidence: Evidence) -> float | None:
    """F1 of the words of generation and reference."""
    return compare_generation(evidence, answer_matching.word_f1, evidence.references)


def score_matches(function: Callable[[list[bool]], float]) -> SampleFunction:
    """A metric of which answer tokens are predicted greedily."""

    def compute(evidence: Evidence) -> float | None:
        matches = evidence.answer.matches if evidence.answer else []
        return function(matches) if matches else None

    return compute


def compute_sample_min_k(evidence: Evidence) -> float | None:
    """Loss-like: minus Min-K%."""
    log_probs = evidence.answer_log_probs()
    return -metrics.min_k(log_probs) if log_probs else None


def compute_sample_min_k_plus_plus(evidence: Evidence) -> float | None:
    """Loss-like: minus Min-K%++."""
    log_probs, score = evidence.answer_log_probs(), evidence.answer
    if not log_probs or score is None:
        return None
    end = len(log_probs)
    return -metrics.min_k_plus_plus(log_probs, score.mean[:end], score.variance[:end])


def read_engine_figure(name: str) -> SampleFunction:
    """A value that an engine or a helper model gave under its name."""
    return lambda evidence: evidence.figures.get(name)


def score_words(function: Callable[[str], float], n: int) -> SampleFunction:
    """A metric of the words of a generation; one of fewer than n words has none."""

    def compute(evidence: Evidence) -> float | None:
        text = evidence.generation or ""
        return function(text) if len(words.split_words(text)) >= n else None

    return compute


def make_attack_metric(name: str, title: str, sample: SampleFunction, *needs: str) -> Metric:
    """A membership attack: its loss-like scores of a set, and its AUC between two."""
    return Metric(
        name, f"{title} attack (AUC)", NEITHER, sample, ("answer", *needs),
        joint=joint_metrics.make_attack_auc(name), roles=ATTACKED_ROLES, reads=(name,),
    )  # fmt: skip


def make_helper_metric(name: str, title: str, better: tuple[str, str] = HIGHER) -> Metric:
    """A figure of generations that the helper model of this name gives."""
    return Metric(name, title, better, read_engine_figure(name), ("generation", f"{name}_model"))


ROUGE_FUNCTIONS = {
    "recall": metrics.rouge_l_recall,
    "f1": metrics.rouge_l_f1,
    "union_recall": metrics.rouge_l_union_recall,
}
MATCH_FUNCTIONS = {
    "verbatim": answer_matching.exact_match,
    "words": answer_matching.exact_word_match,
}
ATTACKED_ROLES = (FORGET, HOLDOUT)
NEEDS_GENERATION = ("generation",)
NEEDS_ALTERNATIVES = ("answer", "alternatives")
ENTRIES = (
    Metric("probability", "answer probability", KNOWLEDGE, compute_sample_probability),
    Metric("accuracy", "accuracy", KNOWLEDGE, compute_sample_accuracy, ("answer", "choices")),
    Metric("rouge", "ROUGE-L", KNOWLEDGE, compute_sample_rouge, NEEDS_GENERATION),
    Metric("exact_match", "exact match", KNOWLEDGE, compute_exact_match, NEEDS_GENERATION),
    Metric("word_f1", "word F1", KNOWLEDGE, compute_word_f1, NEEDS_GENERATION),
    Metric(
        "answer_perplexity", "perplexity of the answer", ("higher", "lower"),
        lambda evidence: evidence.answer and evidence.answer.ce,
        finish=np.exp, stored="answer_loss", logarithmic=True,
    ),
    Metric(
        "truth_ratio", "truth ratio", NEITHER, compare_alternatives(metrics.log_truth_ratio),
        NEEDS_ALTERNATIVES, compute_truth_terms, stored="log_truth_ratio",
    ),
    Metric(
        "truth_ratio_prob_mean", "truth ratio (mean probability)", ("", "higher"),
        compare_alternatives(metrics.prob_mean_truth_ratio), NEEDS_ALTERNATIVES,
    ),
    Metric(
        "paraphrase_probability", "probability of the paraphrased answer", KNOWLEDGE,
        compute_paraphrase_probability, NEEDS_ALTERNATIVES,
    ),
    Metric(
        "exact_memorization", "exact memorisation", KNOWLEDGE,
        score_matches(lambda matches: float(np.mean(matches))),
    ),
    Metric(
        "extraction_strength", "extraction strength", KNOWLEDGE,
        score_matches(metrics.extraction_strength),
    ),
    Metric("ma", "memorisation accuracy", KNOWLEDGE, read_engine_figure("ma"), ("continuations",)),
    Metric("model_utility", "model utility", joint=joint_metrics.compute_model_utility),
    Metric(
        "forget_quality", "forget quality (KS p-value)", joint=joint_metrics.compute_forget_quality,
        roles=(FORGET,), reads=("truth_ratio",), relative=True,
        spread=joint_metrics.compute_forget_distance, logarithmic=True,
    ),
    make_attack_metric("mia_loss", "loss", lambda evidence: evidence.answer and evidence.answer.ce),
    make_attack_metric(
        "mia_zlib", "zlib",
        lambda evidence: (
            evidence.answer and metrics.zlib_score(evidence.answer.ce, evidence.scored)
        ),
    ),
    make_attack_metric("mia_min_k", "Min-K%", compute_sample_min_k),
    make_attack_metric(
        "mia_min_k_plus_plus", "Min-K%++", compute_sample_min_k_plus_plus, "distribution"
    ),
    make_attack_metric(
        "mia_gradnorm", "gradient-norm", read_engine_figure("mia_gradnorm"), "gradient"
    ),
    Metric(
        "mia_reference", "reference attack (AUC)", NEITHER,
        joint=joint_metrics.compute_reference_attack, roles=ATTACKED_ROLES, reads=("mia_loss",),
        relative=True,
    ),
    Metric(
        "privleak", "PrivLeak (%)", NEITHER, joint=joint_metrics.compute_privleak,
        roles=ATTACKED_ROLES, reads=("mia_min_k",), relative=True,
        spread=joint_metrics.compute_unchecked_privleak,
    ),
    Metric(
        "memorization_score", "memorisation score",
        joint=composite_scores.compute_memorization_score, roles=(FORGET,),
        reads=composite_scores.MEMORIZATION_PARTS,
    ),
    Metric(
        "privacy_score", "privacy score", joint=composite_scores.compute_privacy_score,
        roles=ATTACKED_ROLES, reads=composite_scores.PRIVACY_PARTS, relative=True,
    ),
    Metric(
        "utility_score", "utility score", joint=composite_scores.compute_utility_score,
        roles=(FORGET,), reads=("gibberish",), relative=True,
    ),
    Metric(
        "aggregate_score", "aggregate score", joint=composite_scores.compute_aggregate_score,
        relative=True,
    ),
    Metric(
        "perplexity", "perplexity", LOWER, read_engine_figure("oracle_ce"),
        ("generation", "oracle_model"), finish=np.exp, stored="oracle_ce", logarithmic=True,
    ),
    make_helper_metric("similarity", "similarity", KNOWLEDGE),
    make_helper_metric("coherence", "coherence"),
    make_helper_metric("mauve", "MAUVE"),
    make_helper_metric("gibberish", "gibberish"),
)  # fmt: skip
METRICS = {metric.name: metric for metric in ENTRIES}
# Metrics with a number in their name: el_10 is el of n = 10.
NUMBERED: dict[str, Callable[[int], Metric]] = {
    "el": lambda n: Metric(
        f"el_{n}", f"extraction likelihood EL_{n}", KNOWLEDGE, read_engine_figure(f"el_{n}"),
        ("continuations",),
    ),
    "rep": lambda n: Metric(
        f"rep_{n}", f"rep_{n}", LOWER,
        score_words(lambda text: metrics.repetition(words.split_words(text), n), n),
        NEEDS_GENERATION,
    ),
    "entropy": lambda n: Metric(
        f"entropy_{n}", f"entropy of {n}-grams (bits)", HIGHER,
        lambda evidence: (
            None if evidence.generation is None
            else metrics.ngram_entropy(words.split_treebank_words(evidence.generation), n)
        ),
        NEEDS_GENERATION,
    ),
    "distinct": lambda n: Metric(
        f"distinct_{n}", f"distinct_{n}", HIGHER,
        score_words(lambda text: metrics.distinct(text, n), n), NEEDS_GENERATION,
    ),
}  # fmt: skip


def list_set_metrics() -> list[str]:
    """The names of the metrics of one set, those of the user's own included."""
    return [*(m.name for m in METRICS.values() if m.sample), *(f"{word}_N" for word in NUMBERED)]


def list_joint_metrics() -> list[str]:
    """The names of the metrics that join sets."""
    return [metric.name for metric in METRICS.values() if metric.joint]


def find_set_metric(name: str) -> Metric | None:
    """The metric of one set that a name stands for."""
    number = re.fullmatch(r"([a-z]+)_([1-9]\d*)", name)
    if number and number[1] in NUMBERED:
        return NUMBERED[number[1]](int(number[2]))
    metric = METRICS.get(name)
    return metric if metric and metric.sample else None
