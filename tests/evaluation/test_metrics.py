"""Metrics: cases worked by hand, and the reference packages they stand for."""

from __future__ import annotations

import math
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rouge_score import rouge_scorer
from scipy.special import log_softmax, softmax
from scipy.stats import hmean, ks_2samp, mannwhitneyu

from undial_cli.config.suites import EvalSetConfig
from undial_cli.evaluation import answer_matching, metrics, words
from undial_cli.evaluation.catalog import find_set_metric
from undial_cli.evaluation.evidence import Evidence


def test_probability_is_the_geometric_mean_of_the_token_probabilities() -> None:
    tokens = [0.5, 0.25, 0.125]
    ce = -sum(math.log(p) for p in tokens) / 3
    assert metrics.probability([ce, 0.0]) == pytest.approx([0.25, 1.0])


def test_truth_ratio_averages_cross_entropies_before_it_exponentiates() -> None:
    ratio = metrics.truth_ratio([2.0, 1.0], [[1.0, 3.0], [2.0, 5.0]])
    assert ratio == pytest.approx([1.0, math.exp(1.0 - 3.5)])
    assert metrics.truth_ratio([3.0], [[1.0, 1.0, 1.0]])[0] == pytest.approx(math.exp(2))


def test_log_truth_ratio_is_exact_where_the_ratio_overflows() -> None:
    with np.errstate(all="raise"):
        assert metrics.log_truth_ratio([2000.0], [[1.0, 3.0]])[0] == 1998.0
        assert metrics.truth_ratio([2000.0], [[1.0, 3.0]])[0] == math.inf
    assert metrics.truth_ratio([1.0], [[2000.0]])[0] == 0.0


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 30), st.lists(st.floats(0, 30), min_size=3, max_size=3)),
             min_size=1, max_size=6)
)  # fmt: skip
def test_truth_ratio_is_the_exponential_of_its_logarithm(
    rows: list[tuple[float, list[float]]],
) -> None:
    true, false = [t for t, _ in rows], [f for _, f in rows]
    ratios = metrics.truth_ratio(true, false)
    for ratio, t, f in zip(ratios, true, false, strict=True):
        assert ratio == pytest.approx(math.exp(t) / math.exp(sum(f) / 3), rel=1e-9)


@pytest.mark.parametrize("perturbed", [[1.0, 2.0], [[1.0], [2.0], [3.0]], [[[1.0]], [[2.0]]]])
def test_truth_ratio_refuses_shapes_that_do_not_fit(perturbed: list) -> None:
    with pytest.raises(ValueError, match="perturbed_ce"):
        metrics.truth_ratio([1.0, 2.0], perturbed)


def test_forget_truth_ratio_takes_the_smaller_of_a_ratio_and_its_inverse() -> None:
    assert metrics.forget_truth_ratio([0.5, 2.0, 4.0, 1.0]) == pytest.approx(2.25 / 4)
    assert metrics.forget_truth_ratio([0.0, math.inf]) == 0.0


def test_retain_truth_ratio_is_one_minus_the_ratio_and_never_negative() -> None:
    assert metrics.retain_truth_ratio([0.25, 0.5, 3.0, math.inf]) == pytest.approx(1.25 / 4)


def test_forget_quality_of_hand_worked_cases() -> None:
    assert metrics.forget_quality([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == pytest.approx(1.0)
    # Apart without overlap: 2 of the C(6, 3) = 20 orders are as extreme.
    assert metrics.forget_quality([1, 2, 3], [4, 5, 6]) == pytest.approx(0.1)


@pytest.mark.parametrize("sizes", [(400, 400), (40, 400), (17, 23)])
def test_forget_quality_is_the_ks_test_of_scipy(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.2, 1.0, 5.0):
        a, b = rng.lognormal(size=sizes[0]), rng.lognormal(shift, size=sizes[1])
        found = metrics.forget_quality(a, b)
        assert found == ks_2samp(a, b).pvalue  # type: ignore[attr-defined]
        assert metrics.forget_quality(np.log(a), np.log(b)) == pytest.approx(found, rel=1e-9)


def test_model_utility_is_the_harmonic_mean() -> None:
    assert metrics.model_utility({"a": 1.0, "b": 0.5, "c": 0.25}) == pytest.approx(3 / 7)
    nine = {str(i): 0.4 for i in range(9)}
    assert metrics.model_utility(nine) == pytest.approx(0.4)


@pytest.mark.parametrize("rest", [[], [0.5], [0.5, 0.0]])
def test_model_utility_is_zero_when_a_part_is_zero(rest: list[float]) -> None:
    scores = {str(i): value for i, value in enumerate([0.0, *rest])}
    with np.errstate(all="raise"):
        assert metrics.model_utility(scores) == 0.0


def test_model_utility_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        metrics.model_utility({})


def test_rouge_l_recall_of_hand_worked_cases() -> None:
    assert metrics.rouge_l_recall("the cat sat", "the cat sat down") == pytest.approx(3 / 4)
    assert metrics.rouge_l_recall("down sat cat the", "the cat sat down") == pytest.approx(1 / 4)
    assert metrics.rouge_l_recall("running dogs and much more besides", "dog run") == 0.5
    assert metrics.rouge_l_recall("", "the cat") == 0.0


VOCABULARY = ["the", "a", "cats", "cat", "runs", "running", "sat", "on", "mats", "1999"]
WORDS = st.lists(st.sampled_from(VOCABULARY), max_size=9)
REFERENCES = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=9)


@settings(deadline=None, max_examples=50)
@given(WORDS, REFERENCES)
def test_rouge_l_recall_is_that_of_rouge_score_with_stemming(
    prediction: list[str], reference: list[str]
) -> None:
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    expected = scorer.score(" ".join(reference), " ".join(prediction))["rougeL"].recall
    assert metrics.rouge_l_recall(" ".join(prediction), " ".join(reference)) == expected


def test_exact_memorization_averages_over_samples_and_skips_empty_ones() -> None:
    matches = [[True, False], [], [True, True, True, False], []]
    assert metrics.exact_memorization(matches) == (pytest.approx((0.5 + 0.75) / 2), 2)


def test_exact_memorization_of_nothing_is_not_a_number() -> None:
    value, skipped = metrics.exact_memorization([[], []])
    assert math.isnan(value)
    assert skipped == 2


def test_importing_the_metrics_costs_numpy_alone() -> None:
    code = (
        "import sys, undial_cli.evaluation.metrics\n"
        "print([m for m in ('scipy', 'rouge_score', 'nltk', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


CE = st.floats(0, 30)
ROWS = st.lists(st.tuples(CE, st.lists(CE, min_size=3, max_size=3)), min_size=1, max_size=5)
Rows = list[tuple[float, list[float]]]
SHARES = [metrics.normalised_probability, metrics.prob_mean_truth_ratio]


def test_normalised_probability_shares_one_among_all_answers() -> None:
    log = np.log
    found = metrics.normalised_probability(
        [-log(0.5), 0.0], [[-log(0.25), -log(0.25), -log(1.0)], [0, 0, 0]]
    )
    assert found == pytest.approx([0.25, 0.25])


def test_prob_mean_truth_ratio_averages_probabilities() -> None:
    found = metrics.prob_mean_truth_ratio([-np.log(0.5)], [[-np.log(0.9), -np.log(0.1)]])
    assert found == pytest.approx([0.5])
    geometric = 1 / (1 + metrics.truth_ratio([-np.log(0.5)], [[-np.log(0.9), -np.log(0.1)]]))
    assert geometric == pytest.approx([0.5 / (0.5 + 0.3)])


@settings(deadline=None, max_examples=50)
@given(ROWS)
def test_shares_of_truth_are_the_plain_formulas(rows: Rows) -> None:
    true, false = np.array([t for t, _ in rows]), np.array([f for _, f in rows])
    p, q = np.exp(-true), np.exp(-false)
    normalised = metrics.normalised_probability(true, false)
    mean = metrics.prob_mean_truth_ratio(true, false)
    assert normalised == pytest.approx(p / (p + q.sum(axis=1)), rel=1e-9)
    assert mean == pytest.approx(p / (p + q.mean(axis=1)), rel=1e-9)
    assert (mean <= 1 / (1 + metrics.truth_ratio(true, false)) + 1e-12).all()


@pytest.mark.parametrize("share", SHARES)
def test_shares_of_truth_hold_at_extreme_losses(share) -> None:
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        found = share([1e4, 0.0, 1e4, math.inf, 0.0], [[0.0], [1e4], [1e4], [1.0], [math.inf]])
    assert found == pytest.approx([0.0, 1.0, 0.5, 0.0, 1.0])
    assert math.isnan(share([math.inf], [[math.inf]])[0])


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("perturbed", [[1.0, 2.0], [[1.0]], np.zeros((2, 0))])
def test_shares_of_truth_refuse_shapes_that_do_not_fit(share, perturbed) -> None:
    with pytest.raises(ValueError, match="perturbed_ce"):
        share([1.0, 2.0], perturbed)


@pytest.mark.parametrize(
    "matches, expected",
    [
        ([True, True, True, True], 1.0),
        ([False, True, True, True], 3 / 4),
        ([True, False, True, True], 2 / 4),
        ([True, True, False, True], 1 / 4),
        ([True, True, True, False], 1 / 4),
        ([False, False, False, False], 1 / 4),
        ([True], 1.0),
        ([False], 1.0),
    ],
)
def test_extraction_strength_of_hand_worked_cases(matches: list[bool], expected: float) -> None:
    assert metrics.extraction_strength(matches) == pytest.approx(expected)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_extraction_strength_is_the_first_prefix_that_is_enough(matches: list[bool]) -> None:
    n = len(matches)
    k = next((k for k in range(n) if all(matches[k:])), n - 1)
    assert metrics.extraction_strength(np.array(matches)) == 1 - k / n


def test_extraction_strength_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        metrics.extraction_strength([])


@pytest.mark.parametrize(
    "prediction, reference, expected",
    [  # by rouge 1.0.1
        ("Stephen Edwin King", "Stephen King", 1.0),
        ("king", "King", 0.0),
        ("He wrote Carrie. And It.", "Carrie, It", 0.5),
        ("The U.S. Army", "U.S. Navy. Army", 0.75),
        ("a b a c", "a a b c", 1.0),
        ("in Portland, Maine in 1947", "Maine, Portland", 0.0),
        ("", "Maine", 0.0),
    ],
)
def test_union_recall_is_that_of_the_package_rouge(
    prediction: str, reference: str, expected: float
) -> None:
    assert metrics.rouge_l_union_recall(prediction, reference) == expected


def test_exact_match_leaves_case_and_outer_blanks_aside() -> None:
    assert answer_matching.exact_match(" Madera\n", "madera") == 1
    assert answer_matching.exact_match("Madera.", "Madera") == 0
    assert answer_matching.exact_match("San  Jose", "San Jose") == 0


def test_words_match_without_case_articles_and_punctuation() -> None:
    assert answer_matching.exact_word_match("The  Tiber.", "tiber") == 1
    assert answer_matching.exact_word_match("River Tiber", "Tiber") == 0
    assert answer_matching.exact_word_match("(A)", "(A)") == 1
    assert answer_matching.exact_word_match(" ", "(A)") == 0


@pytest.mark.parametrize(
    "prediction, reference, expected",
    [
        ("the river Tiber", "Tiber river", 1.0),
        ("tea and tea", "tea tea rye", 2 * 2 / 6),
        ("Oslo", "Rome", 0.0),
        ("", "Rome", 0.0),
        ("a", "the", 1.0),
    ],
)
def test_word_f1_counts_the_words_that_both_have(
    prediction: str, reference: str, expected: float
) -> None:
    assert answer_matching.word_f1(prediction, reference) == pytest.approx(expected)


def test_the_entropy_of_ngrams_is_that_of_their_frequencies() -> None:
    words = ["a", "b", "a", "b", "c"]
    assert metrics.ngram_entropy(words, 1) == pytest.approx(
        -(2 * 0.4 * math.log2(0.4) + 0.2 * math.log2(0.2))
    )
    assert metrics.ngram_entropy(words, 2) == pytest.approx(1.5)  # ab twice, ba, bc
    assert metrics.ngram_entropy(["a"] * 9, 3) == 0
    assert metrics.ngram_entropy(words, 6) == metrics.ngram_entropy([], 1) == 0


def test_rouge_l_f1_of_hand_worked_cases() -> None:
    # 2 words of 3 and of 4 in common: P = 2/3, R = 1/2.
    assert metrics.rouge_l_f1("the cat ran", "the cat sat down") == pytest.approx(4 / 7)
    assert metrics.rouge_l_f1("running", "run") == 0.0
    assert metrics.rouge_l_f1("running", "run", stemmed=True) == 1.0
    assert metrics.rouge_l_f1("", "the cat") == 0.0


@settings(deadline=None, max_examples=50)
@given(WORDS, REFERENCES, st.booleans())
def test_rouge_l_f1_is_that_of_rouge_score(
    prediction: list[str], reference: list[str], stemmed: bool
) -> None:
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=stemmed)
    expected = scorer.score(" ".join(reference), " ".join(prediction))["rougeL"].fmeasure
    assert metrics.rouge_l_f1(" ".join(prediction), " ".join(reference), stemmed) == expected


def test_min_k_averages_the_lowest_share() -> None:
    assert metrics.min_k([-1.0, -5.0, -2.0, -3.0, -4.0]) == pytest.approx(-4.5)
    assert metrics.min_k([-1.0, -5.0, -2.0, -3.0, -4.0], k=1.0) == pytest.approx(-3.0)
    assert metrics.min_k([-1.0, -5.0, -2.0, -3.0], k=0.4) == -5.0
    assert metrics.min_k([-7.0, -3.0], k=0.4) == -7.0
    assert metrics.min_k([-1e4, 0.0, 0.0]) == -1e4
    assert metrics.min_k([-math.inf, 0.0, 0.0]) == -math.inf
    assert math.isnan(metrics.min_k([-1.0, -2.0, math.nan]))


LOG_PROBS = st.lists(st.floats(-50, 0), min_size=1, max_size=20)


@settings(deadline=None, max_examples=50)
@given(LOG_PROBS, st.floats(0.05, 1), st.randoms(use_true_random=False))
def test_min_k_is_bounded_and_knows_no_order(values: list[float], k: float, random) -> None:
    shuffled = random.sample(values, len(values))
    found = metrics.min_k(values, k)
    assert found == metrics.min_k(shuffled, k)
    assert min(values) - 1e-9 <= found <= np.mean(values) + 1e-9


@pytest.mark.parametrize(
    "values, k", [([], 0.4), ([[-1.0]], 0.4), ([-1.0], 0.0), ([-1.0], 1.5), (-1.0, 1)]
)
def test_min_k_refuses_what_it_cannot_average(values: list, k: float) -> None:
    with pytest.raises(ValueError, match=r"needs|share"):
        metrics.min_k(values, k)


def test_min_k_plus_plus_standardises_before_it_sorts() -> None:
    # Scores -1, -4, 1: the raw lowest, -6, is not the lowest score.
    found = metrics.min_k_plus_plus([-6.0, -5.0, -1.0], [-4.0, -3.0, -2.0], [4.0, 0.25, 1.0])
    assert found == pytest.approx(-4.0)


def test_min_k_plus_plus_is_that_of_the_whole_distribution() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=3, size=(20, 50))
    log_q, q, targets = log_softmax(logits, 1), softmax(logits, 1), rng.integers(50, size=20)
    token = log_q[np.arange(20), targets]
    mean = (q * log_q).sum(1)
    variance = (q * (log_q - mean[:, None]) ** 2).sum(1)
    expected = np.sort((token - mean) / np.sqrt(variance))[:8].mean()
    squares = (q * log_q**2).sum(1) - mean**2
    assert metrics.min_k_plus_plus(token, mean, squares) == pytest.approx(expected)


def test_min_k_plus_plus_of_certain_models_is_finite() -> None:
    assert metrics.min_k_plus_plus([-1.0], [0.0], [0.0]) == pytest.approx(-1000.0)
    assert metrics.min_k_plus_plus([-1.0], [0.0], [-1e-12]) == pytest.approx(-1000.0)
    assert metrics.min_k_plus_plus([-1e4], [0.0], [0.0]) == pytest.approx(-1e7)


@pytest.mark.parametrize("mean, variance", [([0.0], [1.0, 1.0]), ([0.0, 0.0], [1.0]), (0.0, 1.0)])
def test_min_k_plus_plus_refuses_lengths_that_differ(mean, variance) -> None:
    with pytest.raises(ValueError, match="same for all"):
        metrics.min_k_plus_plus([-1.0, -2.0], mean, variance)
    with pytest.raises(ValueError, match="at least one"):
        metrics.min_k_plus_plus([], [], [])


def test_zlib_score_divides_by_the_compressed_bytes() -> None:
    text = "Käse, Käse, Käse, Käse, Käse, Käse, Käse, Käse"
    assert metrics.zlib_score(3.0, text) == 3.0 / len(zlib.compress(text.encode()))
    assert metrics.zlib_score(3.0, text) > metrics.zlib_score(3.0, text.swapcase() + text)
    assert metrics.zlib_score(8.0, "") == 1.0


def test_attack_auc_of_hand_worked_cases() -> None:
    assert metrics.attack_auc([0.1, 0.2], [1.0, 2.0, 3.0]) == 1.0
    assert metrics.attack_auc([1.0, 2.0, 3.0], [0.1, 0.2]) == 0.0
    # Pairs (forget, holdout): 1-2 above, 1-3 above, 2-2 equal, 2-3 above.
    assert metrics.attack_auc([1.0, 2.0], [2.0, 3.0]) == pytest.approx(3.5 / 4)
    assert metrics.attack_auc([5.0, 5.0], [5.0]) == 0.5
    assert metrics.attack_auc([1.0, math.inf], [math.inf, 1e4]) == pytest.approx(2.5 / 4)
    assert math.isnan(metrics.attack_auc([1.0, math.nan], [2.0]))
    assert math.isnan(metrics.attack_auc([1.0], [2.0, math.nan]))


SCORES = st.lists(st.integers(-4, 4) | st.floats(-1e4, 1e4), min_size=1, max_size=15)


@settings(deadline=None, max_examples=100)
@given(SCORES, SCORES)
def test_attack_auc_counts_pairs(forget: list[float], holdout: list[float]) -> None:
    wins = sum((h > f) + 0.5 * (h == f) for f in forget for h in holdout)
    found = metrics.attack_auc(forget, holdout)
    assert found == pytest.approx(wins / (len(forget) * len(holdout)), abs=1e-12)
    assert found == metrics.attack_auc(forget[::-1], sorted(holdout))
    assert found + metrics.attack_auc(holdout, forget) == pytest.approx(1.0)


def test_attack_auc_is_that_of_scipy_on_many_samples_with_ties() -> None:
    rng = np.random.default_rng(0)
    forget, holdout = rng.normal(2, 1, 3000).round(1), rng.normal(2.5, 1, 2000).round(1)
    expected = mannwhitneyu(holdout, forget).statistic / (3000 * 2000)
    assert metrics.attack_auc(forget, holdout) == pytest.approx(expected, abs=1e-12)
    assert 0.6 < expected < 0.7


def test_attack_auc_is_that_of_sklearn_with_holdout_as_the_positive_class() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(1)
    forget, holdout = rng.normal(2, 1, 400).round(1), rng.normal(2.5, 1, 300).round(1)
    expected = sklearn_metrics.roc_auc_score([0] * 400 + [1] * 300, [*forget, *holdout])
    assert metrics.attack_auc(forget, holdout) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("forget, holdout", [([], [1.0]), ([1.0], []), ([[1.0]], [1.0]), (1.0, 1)])
def test_attack_auc_refuses_an_empty_set(forget, holdout) -> None:
    with pytest.raises(ValueError, match="neither empty"):
        metrics.attack_auc(forget, holdout)


def test_privleak_of_the_muse_news_target_model() -> None:
    # MUSE: A of the target 0.001, of the retrained model 0.4772.
    assert metrics.privleak(1 - 0.001, 1 - 0.4772) == pytest.approx(-99.79, abs=0.01)
    assert metrics.privleak(0.3, 0.3) == 0.0
    assert metrics.privleak(0.0, 0.5) == pytest.approx(100.0)
    assert metrics.privleak(1.0, 0.25) == pytest.approx(-100.0)
    with pytest.raises(ValueError, match="undefined"):
        metrics.privleak(0.5, 1.0)


def test_privleak_of_open_unlearnings_record() -> None:
    # Llama-3.2-1B-Instruct, forget10: mia_min_k of the target and of the retain90 model, privleak.
    assert metrics.privleak(0.99665, 0.3826125) == pytest.approx(-99.45739100654656, rel=1e-6)


@settings(deadline=None, max_examples=50)
@given(SCORES, SCORES, SCORES, SCORES)
def test_privleak_is_that_of_muse_on_min_k_values(
    forget: list[float],
    holdout: list[float],
    retain_forget: list[float],
    retain_holdout: list[float],
) -> None:
    def muse_auc(f: list[float], h: list[float]) -> float:
        return sum((b > a) + 0.5 * (b == a) for a in f for b in h) / (len(f) * len(h))

    a, a_retrain = muse_auc(forget, holdout), muse_auc(retain_forget, retain_holdout)
    if a_retrain == 0:
        return
    auc = metrics.attack_auc(-np.array(forget), -np.array(holdout))
    auc_retain = metrics.attack_auc(-np.array(retain_forget), -np.array(retain_holdout))
    expected = (a - a_retrain) / a_retrain * 100
    assert metrics.privleak(auc, auc_retain) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_memorization_accuracy_is_the_share_of_equal_positions() -> None:
    assert metrics.memorization_accuracy([1, 2, 3, 4], [1, 9, 3, 8]) == 0.5
    assert metrics.memorization_accuracy(np.array([1, 2]), [2, 1]) == 0.0
    assert metrics.memorization_accuracy([7], [7]) == 1.0


@pytest.mark.parametrize("ids", [([1, 2], [1]), ([1], [1, 1]), ([], []), ([[1]], [[1]])])
def test_memorization_accuracy_refuses_lengths_that_differ(ids: tuple[list, list]) -> None:
    with pytest.raises(ValueError, match="needs two"):
        metrics.memorization_accuracy(*ids)


def test_extraction_likelihood_counts_generated_ngrams_with_repeats() -> None:
    # Generated 12, 21, 12, 29; of the suffix 12, 23, 34, 45.
    assert metrics.extraction_likelihood([1, 2, 1, 2, 9], [1, 2, 3, 4, 5], 2) == pytest.approx(
        2 / 4
    )
    assert metrics.unique_extraction_likelihood([1, 2, 1, 2, 9], [1, 2, 3, 4, 5], 2) == (
        pytest.approx(1 / 3)
    )
    # Repeats in the suffix count in its denominator: 11, 11, 11.
    assert metrics.extraction_likelihood([1, 1, 2], [1, 1, 1, 1], 2) == pytest.approx(1 / 3)
    assert metrics.unique_extraction_likelihood([1, 1, 2], [1, 1, 1, 1], 2) == 0.5


@pytest.mark.parametrize(
    "likelihood", [metrics.extraction_likelihood, metrics.unique_extraction_likelihood]
)
def test_extraction_likelihood_of_an_exact_and_of_an_empty_generation(likelihood) -> None:
    suffix = [5, 6, 5, 6, 7]
    assert likelihood(suffix, suffix, 3) == 1.0
    assert likelihood(np.array(suffix), suffix, 3) == 1.0
    assert likelihood([5, 6], suffix, 3) == 0.0
    assert likelihood([], suffix, 3) == 0.0
    # Of 765, 656, 565 the suffix 565, 656, 567 holds two.
    assert likelihood([7, 6, 5, 6, 5], suffix, 3) == pytest.approx(2 / 3)


def test_extraction_likelihood_needs_one_ngram_in_the_suffix() -> None:
    with pytest.raises(ValueError, match="shorter than n = 3"):
        metrics.extraction_likelihood([1, 2, 3], [1, 2], 3)
    with pytest.raises(ValueError, match="at least 1"):
        metrics.extraction_likelihood([1, 2, 3], [1, 2], 0)
    assert metrics.unique_extraction_likelihood([1, 2, 3], [1, 2], 3) == 0.0


IDS = st.lists(st.integers(0, 3), min_size=4, max_size=12)


@settings(deadline=None, max_examples=100)
@given(IDS, IDS, st.integers(1, 4))
def test_extraction_likelihoods_are_shares(generated: list[int], suffix: list[int], n: int) -> None:
    def grams(ids: list[int]) -> list[str]:
        return ["-".join(map(str, ids[i : i + n])) for i in range(len(ids) - n + 1)]

    found, known = grams(generated), grams(suffix)
    expected = sum(known.count(g) > 0 for g in found) / len(known)
    assert metrics.extraction_likelihood(generated, suffix, n) == pytest.approx(expected)
    unique = metrics.unique_extraction_likelihood(generated, suffix, n)
    assert unique == pytest.approx(np.mean([g in known for g in dict.fromkeys(found)]))
    assert 0 <= metrics.extraction_likelihood(generated[: len(suffix)], suffix, n) <= 1


def test_repetition_of_hand_worked_cases() -> None:
    assert metrics.repetition([1, 2, 1, 2, 1], 2) == 0.5
    assert metrics.repetition([1, 2, 3, 4], 2) == 0.0
    assert metrics.repetition(["a", "a", "a", "a"], 1) == 0.75
    assert metrics.repetition(np.array([7, 7, 7]), 3) == 0.0
    assert metrics.repetition([1, 2], 3) == 0.0
    assert metrics.repetition([], 1) == 0.0


def test_words_are_what_single_blanks_separate() -> None:
    # Dong et al. split at " ": two blanks hold an empty word, a line break separates nothing.
    assert words.split_words(" the old  river\nkeeps ") == [
        "",
        "the",
        "old",
        "",
        "river\nkeeps",
        "",
    ]
    assert words.split_words("") == []
    assert metrics.distinct("a\na a", 1) == 1.0
    assert metrics.distinct("a  a  a", 1) == 2 / 5
    rep_2 = find_set_metric("rep_2")
    assert rep_2 is not None
    found = Evidence(EvalSetConfig("a"), "", "", {}, generation=" a a a")
    # " a", "a a", "a a": two of three are different.
    assert rep_2.sample(found) == pytest.approx(1 / 3)


def test_distinct_of_hand_worked_cases() -> None:
    assert metrics.distinct("a b a b", 2) == 0.5
    assert metrics.distinct("a  b\nc d", 2) == 0.75
    assert metrics.distinct("a b a b", 1) == 0.5
    assert metrics.distinct("one", 2) == 0.0
    assert metrics.distinct("", 1) == 0.0


@settings(deadline=None, max_examples=50)
@given(WORDS, st.integers(1, 4))
def test_repetition_and_distinct_count_the_same_ngrams(words: list[str], n: int) -> None:
    total = max(len(words) - n + 1, 0)
    repeated, unique = metrics.repetition(words, n), metrics.distinct(" ".join(words), n)
    assert 0 <= repeated < 1
    assert 0 <= unique <= 1
    assert unique * len(words) == pytest.approx((1 - repeated) * total)


# Against open-unlearning's formulas (locuslab/open-unlearning, src/evals/metrics), its 1e-10 kept.

TINY = 1e-10


@pytest.fixture(params=[0, 1, 2])
def losses(request: pytest.FixtureRequest) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(request.param)
    return {
        "true": rng.uniform(0.05, 5, 400),
        "false": rng.uniform(0.5, 6, (400, 5)),
        "retain_true": rng.uniform(1, 6, 400),
        "retain_false": rng.uniform(0.5, 6, (400, 5)),
    }


def open_unlearning_truth_ratio(true: NDArray, false: NDArray) -> NDArray[np.float64]:
    wrong_prob, correct_prob = np.exp(-false.mean(axis=1)), np.exp(-true)
    return wrong_prob / (correct_prob + TINY)


def test_tofu_aggregates_are_those_of_open_unlearning(losses: dict[str, NDArray]) -> None:
    true, false = losses["true"], losses["false"]
    theirs = open_unlearning_truth_ratio(true, false)
    ours = metrics.truth_ratio(true, false)
    assert ours == pytest.approx(theirs, rel=1e-6)
    closer_to_1 = np.mean(np.minimum(theirs, 1 / (theirs + TINY)))
    assert metrics.forget_truth_ratio(ours) == pytest.approx(closer_to_1, rel=1e-6)
    true_better = np.mean(np.maximum(0, 1 - theirs))
    assert metrics.retain_truth_ratio(ours) == pytest.approx(true_better, rel=1e-6)
    p, q = np.exp(-true), np.exp(-false)
    assert metrics.probability(true).mean() == pytest.approx(p.mean(), rel=1e-6)
    with_options = np.mean(p / (p + q.sum(axis=1) + TINY))
    assert metrics.normalised_probability(true, false).mean() == pytest.approx(
        with_options, rel=1e-6
    )
    prob_mean = np.mean(p / (p + np.exp(-false.mean(axis=1)) + TINY))
    assert np.mean(1 / (1 + ours)) == pytest.approx(prob_mean, rel=1e-6)


def test_forget_quality_is_that_of_open_unlearning(losses: dict[str, NDArray]) -> None:
    theirs = ks_2samp(
        open_unlearning_truth_ratio(losses["true"], losses["false"]),
        open_unlearning_truth_ratio(losses["retain_true"], losses["retain_false"]),
    ).pvalue  # type: ignore[attr-defined]
    found = metrics.forget_quality(
        metrics.log_truth_ratio(losses["true"], losses["false"]),
        metrics.log_truth_ratio(losses["retain_true"], losses["retain_false"]),
    )
    assert math.log10(theirs) < -3
    assert math.log10(found) == pytest.approx(math.log10(theirs), rel=1e-3)


def test_model_utility_is_the_harmonic_mean_of_scipy() -> None:
    nine = np.random.default_rng(0).uniform(0.01, 1, 9)
    scores = {str(i): value for i, value in enumerate(nine)}
    assert metrics.model_utility(scores) == pytest.approx(hmean(nine), rel=1e-6)


def test_attacks_and_privleak_are_those_of_open_unlearning() -> None:
    rng = np.random.default_rng(0)

    def scores(shift: float) -> tuple[list[float], list[float]]:
        texts = [rng.normal(shift, 1, rng.integers(1, 60)) for _ in range(40)]
        theirs = [-np.mean(np.sort(lp)[: max(1, int(len(lp) * 0.4))]) for lp in texts]
        return theirs, [-metrics.min_k(lp) for lp in texts]

    (forget, our_forget), (holdout, our_holdout) = scores(-2.0), scores(-2.4)
    assert our_forget == pytest.approx(forget, rel=1e-6)
    auc = mannwhitneyu(holdout, forget).statistic / 1600
    assert metrics.attack_auc(our_forget, our_holdout) == pytest.approx(auc, rel=1e-6)
    reference = 0.53
    theirs = ((1 - auc) - (1 - reference)) / ((1 - reference) + TINY) * 100
    assert metrics.privleak(auc, reference) == pytest.approx(theirs, rel=1e-6)
