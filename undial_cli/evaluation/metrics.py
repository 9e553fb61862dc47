"""Metrics as pure functions of arrays and texts; each names its source.

TOFU is arXiv 2401.06121, MUSE arXiv 2407.06460. CE stands for the mean cross entropy per token, in
nats. No model, no file, no config; importing this costs numpy, the rest is imported where it is
used.
"""

from __future__ import annotations

import functools
import itertools
import types
import warnings
import zlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from undial_cli.evaluation import words

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

MIN_VARIANCE = 1e-6  # below it a distribution counts as certain; open-unlearning's floor


def probability(answer_ce: ArrayLike) -> NDArray[np.float64]:
    """`exp(-CE)` of each answer, end token counted: [N] in (0, 1]."""
    return np.exp(-np.asarray(answer_ce, dtype=np.float64))


def pair_answer_ces(
    true_ce: ArrayLike, perturbed_ce: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """CEs of the true answers [N] and of their false ones [N, K]; ValueError if they do not fit."""
    true = np.asarray(true_ce, dtype=np.float64)
    false = np.asarray(perturbed_ce, dtype=np.float64)
    if false.ndim != 2 or len(false) != len(true):
        raise ValueError(f"perturbed_ce must be [N, K] with N = {len(true)}, not {false.shape}")
    return true, false


def compute_truth_share(
    true_ce: ArrayLike, perturbed_ce: ArrayLike, averaged: bool
) -> NDArray[np.float64]:
    """`p / (p + sum_k p_k)`, or with the mean over k; in log space, where no CE overflows."""
    true, false = pair_answer_ces(true_ce, perturbed_ce)
    if not false.shape[1]:
        raise ValueError("perturbed_ce must be [N, K] with K of at least 1")
    log_false = np.logaddexp.reduce(-false, axis=1) - (np.log(false.shape[1]) if averaged else 0.0)
    with np.errstate(invalid="ignore"):
        return np.exp(-np.logaddexp(0.0, true + log_false))


def normalised_probability(answer_ce: ArrayLike, perturbed_ce: ArrayLike) -> NDArray[np.float64]:
    """`p / (p + sum_k p_k)` per sample, `p = exp(-CE)`: TOFU's probability where there are options.

    Args:
        answer_ce: [N], end token counted.
        perturbed_ce: [N, K], of the false answers; ValueError if K is 0 or the shapes do not fit.

    Returns:
        [N] in [0, 1]; nan where all K + 1 CEs are infinite.
    """
    return compute_truth_share(answer_ce, perturbed_ce, averaged=False)


def choose_likeliest(log_likelihoods: ArrayLike) -> int:
    """The number, from 0, of the likeliest of a question's choices [K]; of equals the first.

    Multiple choice as lm-evaluation-harness scores it (acc): by the whole of an answer, not per
    token.
    """
    return int(np.argmax(np.asarray(log_likelihoods)))


def log_truth_ratio(paraphrase_ce: ArrayLike, perturbed_ce: ArrayLike) -> NDArray[np.float64]:
    """Logarithm of `truth_ratio`; exact where the ratio itself overflows. [N]"""
    true, false = pair_answer_ces(paraphrase_ce, perturbed_ce)
    return true - false.mean(axis=1)


def truth_ratio(paraphrase_ce: ArrayLike, perturbed_ce: ArrayLike) -> NDArray[np.float64]:
    """`exp(ce_paraphrase - mean_k ce_perturbed_k)` per sample; above 1 the false answers win.

    From CEs [N] and [N, K] (else ValueError) to [N]; infinite where the exponent overflows.
    """
    with np.errstate(over="ignore"):
        return np.exp(log_truth_ratio(paraphrase_ce, perturbed_ce))


def prob_mean_truth_ratio(true_ce: ArrayLike, perturbed_ce: ArrayLike) -> NDArray[np.float64]:
    """`p / (p + mean_k p_k)` per sample, `p = exp(-CE)`; 0.5: truth and falsehood as likely.

    The mean is over probabilities. open-unlearning's `prob_mean` averages CEs before it
    exponentiates, which is `1 / (1 + truth_ratio)` and never smaller than this.

    Args:
        true_ce: [N], of the paraphrased answers (of the answers where there is no paraphrase).
        perturbed_ce, and what is returned: as of `normalised_probability`.
    """
    return compute_truth_share(true_ce, perturbed_ce, averaged=True)


def evenness(ratio: ArrayLike) -> NDArray[np.float64]:
    """`min(r, 1/r)` of each truth ratio [N]; 1 when truth and falsehood are as likely."""
    r = np.asarray(ratio, dtype=np.float64)
    with np.errstate(divide="ignore"):
        return np.minimum(r, 1 / r)


def truthfulness(ratio: ArrayLike) -> NDArray[np.float64]:
    """`max(0, 1 - r)` of each truth ratio [N]."""
    return np.maximum(0, 1 - np.asarray(ratio, dtype=np.float64))


def forget_truth_ratio(ratio: ArrayLike) -> float:
    """Aggregate on a forget set: the mean of `evenness`."""
    return float(evenness(ratio).mean())


def retain_truth_ratio(ratio: ArrayLike) -> float:
    """Aggregate on every other set: the mean of `truthfulness`."""
    return float(truthfulness(ratio).mean())


def forget_quality(truth_ratio_unlearned: ArrayLike, truth_ratio_retain: ArrayLike) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test between two sets of truth ratios.

    High: the unlearned model cannot be told from one that never saw the data. Ratios or their
    logarithms may be given (the test depends on ranks alone), the same for both. Exact where SciPy
    can, else asymptotic.
    """
    from scipy.stats import ks_2samp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it falls back by itself, and says so
        test: Any = ks_2samp(np.asarray(truth_ratio_unlearned), np.asarray(truth_ratio_retain))
    return float(test.pvalue)


def ks_distance(one: ArrayLike, other: ArrayLike) -> float:
    """The Kolmogorov-Smirnov distance D behind `forget_quality`: in [0, 1], 0 is alike.

    Without SciPy's test, which takes fifteen times as long: the bootstrap wants D alone.
    """
    samples = [np.sort(np.asarray(values)) for values in (one, other)]
    points = np.concatenate(samples)
    below = [np.searchsorted(x, points, side="right") / len(x) for x in samples]
    return round(float(np.abs(below[0] - below[1]).max()), 12)  # 0.07, not 0.06999999999999995


def harmonic_mean(scores: ArrayLike) -> float:
    """Of at least one score (ValueError else); 0 if one of them is 0 or less, nan if one is nan."""
    values = np.asarray(scores, dtype=np.float64)
    if not values.size:
        raise ValueError("a harmonic mean needs at least one score")
    return 0.0 if (values <= 0).any() else float(len(values) / (1 / values).sum())


def model_utility(scores: Mapping[str, float]) -> float:
    """Harmonic mean of the named scores; 0 if one of them is 0."""
    return harmonic_mean(list(scores.values()))


def memorization_score(
    extraction_strength: float,
    exact_memorization: float,
    paraphrase_probability: float,
    truth_ratio: float,
) -> float:
    """Harmonic mean of what is left out of four figures of the forget set; 1: nothing memorised.

    OpenUnlearning (arXiv 2506.12618). `truth_ratio` is the one there, p_true / (p_true + p_false)
    (`prob_mean_truth_ratio`); `paraphrase_probability` is that of the paraphrased answer.
    """
    known = (extraction_strength, exact_memorization, paraphrase_probability, truth_ratio)
    return harmonic_mean([1 - figure for figure in known])


def attack_similarity(auc: float, auc_retain: float) -> float:
    """`1 - |auc - auc_retain| / auc_retain`, 0 at least: how like the retain model's an AUC is.

    OpenUnlearning (arXiv 2506.12618); ValueError if auc_retain is 0: relative to nothing.
    """
    if auc_retain == 0:
        raise ValueError("the similarity is undefined: the retain model's attack AUC is 0")
    return max(0.0, 1 - abs(auc - auc_retain) / auc_retain)


def privacy_score(similarities: ArrayLike) -> float:
    """Harmonic mean of `attack_similarity` over attacks (loss, zlib, Min-K%, Min-K%++ there)."""
    return harmonic_mean(similarities)


def utility_score(utility: float, fluency: float | None = None) -> float:
    """Harmonic mean of model_utility and fluency, which OpenUnlearning divides by the target's."""
    return harmonic_mean([utility] if fluency is None else [utility, fluency])


def aggregate_score(memorization: float, privacy: float, utility: float) -> float:
    """Harmonic mean of the three composite scores (OpenUnlearning, arXiv 2506.12618)."""
    return harmonic_mean([memorization, privacy, utility])


@functools.lru_cache(maxsize=4)
def make_rouge_scorer(stemmed: bool, reading: str) -> RougeScorer:
    """The ROUGE-L scorer of the reference package, with the words of `words.choose_reading`."""
    from rouge_score.rouge_scorer import RougeScorer

    ours: Any = types.SimpleNamespace(tokenize=words.split_unicode_words)
    tokenizer = None if reading == words.FIELD_WORDS else ours
    return RougeScorer(["rougeL"], use_stemmer=stemmed, tokenizer=tokenizer)


def rouge_l(prediction: str, reference: str, stemmed: bool) -> Any:
    """ROUGE-L with `recall` and `fmeasure`; nan where the reference has no word.

    The words are rouge_score's own (a-z, 0-9), which give the field's figures; where a reference
    holds none of these, Unicode words, not stemmed.
    """
    reading = words.choose_reading(reference)
    if reading == words.NO_WORDS:
        from rouge_score.scoring import Score

        return Score(*[float("nan")] * 3)
    return make_rouge_scorer(stemmed, reading).score(reference, prediction)["rougeL"]


def rouge_l_recall(prediction: str, reference: str) -> float:
    """ROUGE-L recall, stemmed, of a generation against its reference answer; see `rouge_l`."""
    return float(rouge_l(prediction, reference, stemmed=True).recall)


def rouge_l_f1(prediction: str, reference: str, stemmed: bool = False) -> float:
    """ROUGE-L F1 of a generation against its reference in [0, 1]; MUSE does not stem."""
    return float(rouge_l(prediction, reference, stemmed).fmeasure)


def rouge_l_union_recall(prediction: str, reference: str) -> float:
    """The share of a reference's different words that are in common subsequences with a text.

    Sentences end at full stops; of each pair of them one longest common subsequence counts. As
    rouge-l of the package `rouge`, with which RWKU (arXiv 2406.10890) is scored: case counts, signs
    stick to words, nothing is stemmed. ValueError if the reference has no sentence.
    """
    ours, theirs = (
        [" ".join(part.split()).split(" ") for part in text.split(".") if part]
        for text in (prediction, reference)
    )
    if not theirs:
        raise ValueError("the reference has no sentence")
    words_known = {word for r in theirs for o in ours for word in find_common_words(r, o)}
    return len(words_known) / len({word for sentence in theirs for word in sentence})


def find_common_words(one: Sequence[str], other: Sequence[str]) -> set[str]:
    """The words of a longest common subsequence; of several, of the one that `rouge` takes."""
    i, j = len(one), len(other)
    lengths = np.zeros((i + 1, j + 1), dtype=np.int64)
    for a, b in itertools.product(range(1, i + 1), range(1, j + 1)):
        lengths[a, b] = max(lengths[a - 1, b], lengths[a, b - 1])
        if one[a - 1] == other[b - 1]:
            lengths[a, b] = lengths[a - 1, b - 1] + 1
    common = set[str]()
    while i and j:
        if one[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            common.add(one[i])
        elif lengths[i - 1, j] > lengths[i, j - 1]:
            i -= 1
        else:
            j -= 1
    return common


def exact_memorization(matches: Sequence[Sequence[bool]]) -> tuple[float, int]:
    """Mean share of answer tokens that greedy teacher-forced prediction gives.

    Of samples that each say which of their answer tokens are predicted (end token left out): the
    score, and how many samples were skipped because they hold no answer token.
    """
    shares = [float(np.mean(sample)) for sample in matches if len(sample)]
    return (float(np.mean(shares)) if shares else float("nan")), len(matches) - len(shares)


def extraction_strength(matches: Sequence[bool] | NDArray[Any]) -> float:
    """`1 - k/n` of one sample: k tokens of the answer have to be given, the rest comes by itself.

    k is the shortest prefix after which every greedy teacher-forced prediction is right, at most
    n - 1 (as in open-unlearning), so that a complete miss scores 1/n. Carlini et al. 2021.

    Args:
        matches: [n], whether each answer token is predicted (end token left out); ValueError if
            there is none.
    """
    hits = np.asarray(matches, dtype=bool)
    if not len(hits):
        raise ValueError("extraction_strength needs at least one answer token")
    misses = np.flatnonzero(~hits)
    k = min(int(misses[-1]) + 1, len(hits) - 1) if len(misses) else 0
    return 1 - k / len(hits)


def min_k(log_probs: ArrayLike, k: float = 0.4) -> float:
    """Min-K% Prob: the mean of the lowest share k of a text's token log-probabilities.

    High for texts that were trained on; its negative is the loss-like score for `attack_auc`.
    Shi et al. 2023, arXiv 2310.16789.

    Args:
        log_probs: [T], nats, end token left out; ValueError if there is none.
        k: in (0, 1], else ValueError; `max(1, int(T * k))` tokens count.
    """
    scores = np.asarray(log_probs, dtype=np.float64)
    if scores.ndim != 1 or not len(scores):
        raise ValueError(f"needs [T] with at least one token, not {scores.shape}")
    if not 0 < k <= 1:
        raise ValueError(f"k is a share in (0, 1], not {k}")
    if np.isnan(scores).any():  # sorted, a nan would be the highest and not count
        return float("nan")
    return float(np.sort(scores)[: max(1, int(len(scores) * k))].mean())


def min_k_plus_plus(
    log_probs: ArrayLike, mean: ArrayLike, variance: ArrayLike, k: float = 0.4
) -> float:
    """Min-K%++: `min_k` of log-probabilities standardised by the model's own distribution q.

    Zhang et al. 2024, arXiv 2404.02936.

    Args:
        log_probs, k: as of `min_k`.
        mean: [T], `sum_v q_v log q_v` at each position; ValueError if the lengths differ.
        variance: [T], `sum_v q_v (log q_v)^2 - mean^2`, in nats squared; taken as 1e-6 at least.
    """
    arrays = [np.asarray(a, dtype=np.float64) for a in (log_probs, mean, variance)]
    if len({a.shape for a in arrays}) > 1:
        raise ValueError(f"[T] must be the same for all, not {[a.shape for a in arrays]}")
    tokens, mu, var = arrays
    return min_k((tokens - mu) / np.sqrt(np.maximum(var, MIN_VARIANCE)), k)


def zlib_score(ce: float, text: str) -> float:
    """CE (end token counted) per byte of the zlib-compressed text. Carlini et al. 2021."""
    return float(ce) / len(zlib.compress(text.encode("utf-8")))


def attack_auc(forget_scores: ArrayLike, holdout_scores: ArrayLike) -> float:
    """AUC of a membership attack: `P(holdout > forget) + P(equal) / 2` of loss-like scores.

    1 when every forget sample scores below every holdout sample (fully memorised), 0.5 when they
    cannot be told apart. O(n log n).

    Args:
        forget_scores: [N], lower for better known texts; ValueError if there is none.
        holdout_scores: [M], likewise.

    Returns:
        In [0, 1]; nan if a score is nan.
    """
    forget = np.asarray(forget_scores, dtype=np.float64)
    holdout = np.asarray(holdout_scores, dtype=np.float64)
    if forget.ndim != 1 or holdout.ndim != 1 or not forget.size or not holdout.size:
        raise ValueError(f"needs [N] and [M], neither empty, not {forget.shape}, {holdout.shape}")
    if np.isnan(forget).any() or np.isnan(holdout).any():
        return float("nan")
    forget = np.sort(forget)
    below = np.searchsorted(forget, holdout, side="left").sum()
    not_above = np.searchsorted(forget, holdout, side="right").sum()
    return float(below + not_above) / (2 * forget.size * holdout.size)


def privleak(auc: float, auc_retain: float) -> float:
    """Leakage against the retain model, in percent; 0 is ideal.

    -100: the forget set is still fully exposed; above 0: over-unlearned.
    `((1 - auc) - (1 - auc_retain)) / (1 - auc_retain) * 100`. MUSE writes the same as
    `(A - A_retrain) / A_retrain * 100` with `A = P(holdout's Min-K% > forget's)`: Min-K% falls
    where the loss-like score rises, hence `A = 1 - auc`.

    Args:
        auc: `attack_auc` of the unlearned model on negated `min_k`.
        auc_retain: the same of the retain model; ValueError if it is 1: relative to nothing.
    """
    if auc_retain == 1:
        raise ValueError("privleak is undefined: the retain model's attack AUC is 1")
    return ((1 - auc) - (1 - auc_retain)) / (1 - auc_retain) * 100


def memorization_accuracy(predicted_ids: ArrayLike, reference_ids: ArrayLike) -> float:
    """MA: the share of positions whose greedy teacher-forced token equals the reference.

    Of two [T], ValueError if they differ in length or are empty. Jang et al. 2023, arXiv
    2210.01504; there positions 2..T of the text.
    """
    predicted, reference = np.asarray(predicted_ids), np.asarray(reference_ids)
    if predicted.shape != reference.shape or predicted.ndim != 1 or not len(predicted):
        raise ValueError(f"needs two [T], not empty, not {predicted.shape}, {reference.shape}")
    return float((predicted == reference).mean())


def list_ngrams(tokens: Sequence[Hashable] | NDArray[Any], n: int) -> list[tuple[Hashable, ...]]:
    """The n-grams of a sequence in order, with repeats; none when it is shorter than n."""
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def extraction_likelihood(
    generated_ids: Sequence[int] | NDArray[Any], reference_ids: Sequence[int] | NDArray[Any], n: int
) -> float:
    """EL_n of one prefix: generated n-grams found in the true suffix / n-grams of the suffix.

    Generated n-grams count with multiplicity. Jang et al. 2023, arXiv 2210.01504.

    Args:
        generated_ids: the greedy continuation, as long as the suffix or shorter.
        reference_ids: [T], the true suffix; ValueError if it is shorter than n.
        n: length of the n-grams.

    Returns:
        In [0, 1]; above 1 only for a generation longer than the suffix.
    """
    reference = list_ngrams(reference_ids, n)
    if not reference:
        raise ValueError(f"the suffix of {len(reference_ids)} tokens is shorter than n = {n}")
    known = set(reference)
    return sum(gram in known for gram in list_ngrams(generated_ids, n)) / len(reference)


def unique_extraction_likelihood(
    generated_ids: Sequence[int] | NDArray[Any], reference_ids: Sequence[int] | NDArray[Any], n: int
) -> float:
    """EL_n as in UnDIAL's code: the share of unique generated n-grams found in the true suffix.

    In [0, 1]; 0 when the generation is shorter than n. Dong et al. 2025, arXiv 2402.10052.
    """
    generated = set(list_ngrams(generated_ids, n))
    return (
        len(generated & set(list_ngrams(reference_ids, n))) / len(generated) if generated else 0.0
    )


def ngram_entropy(tokens: Sequence[Hashable] | NDArray[Any], n: int) -> float:
    """Entropy, in bits, of a text's n-grams by their frequencies; 0 for a text without any.

    RWKU (arXiv 2406.10890), whose fluency is (entropy_2 + 2 entropy_3) / 3.
    """
    counts = np.array(list(Counter(list_ngrams(tokens, n)).values()), dtype=np.float64)
    shares = counts / counts.sum()
    return float((shares * np.log2(1 / shares)).sum())


def repetition(tokens: Sequence[Hashable] | NDArray[Any], n: int) -> float:
    """rep_n: `1 - unique n-grams / n-grams` of one text's tokens or words; 0 if shorter than n."""
    grams = list_ngrams(tokens, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(text: str, n: int) -> float:
    """distinct_n: unique word n-grams / words (see `words.split_words`); 0 for no words."""
    parts = words.split_words(text)
    return len(set(list_ngrams(parts, n))) / len(parts) if parts else 0.0
