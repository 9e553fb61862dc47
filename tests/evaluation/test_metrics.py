"""Metrics: cases worked by hand, and the reference packages they stand for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score import rouge_scorer
from scipy.stats import ks_2samp

from undial_cli.evaluation import metrics


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
        assert found == ks_2samp(a, b).pvalue
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


@settings(deadline=None, max_examples=50)
@given(WORDS, WORDS)
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
