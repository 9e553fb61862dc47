"""Intervals, paired differences, figures that are not finite, roles and damage."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from made_evaluations import SUITE, make_evaluation, repeat_drawn
from scipy.stats import ks_2samp

from undial_cli.evaluation import intervals, joint_metrics, resampling
from undial_cli.evaluation.catalog import METRICS, Metric
from undial_cli.evaluation.suite_metrics import add_joint_metrics
from undial_cli.reporting import notes


def test_a_new_joint_metric_has_n_and_interval_without_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gap(models: joint_metrics.ComparedModels) -> float:
        means = [np.mean(models.ours.values(name, "probability")) for name in ("forget", "retain")]
        return float(means[0] - means[1]) * models.ours.figure("retain_rouge")

    monkeypatch.setitem(METRICS, "gap", Metric("gap", "gap", joint=gap))
    suite = dataclasses.replace(SUITE, metrics=["gap"])
    ours = make_evaluation(1)
    add_joint_metrics(ours, None, suite, relative=False)
    resampled = resampling.resample_figures(ours, None, suite)
    for b in (0, 999):
        of = lambda name, key, b=b: repeat_drawn(ours.values(name, key), name, 4, b).mean()  # noqa: E731
        expected = of("forget", "probability") - of("retain", "probability")
        expected *= of("retain", "rouge")
        assert resampled["gap"].values[b] == pytest.approx(expected)
    entry = intervals.describe_figures(ours, resampled)["gap"]
    assert (entry["n"], entry["subjects"]) == (40, 10)
    assert entry["interval"][0] <= ours.metrics["gap"] <= entry["interval"][1]


def test_an_interval_has_the_width_that_theory_gives_and_persons_widen_it() -> None:
    one = make_evaluation(3, rows=400, size=None)
    values = np.array(one.values("forget", "probability"))
    entry = intervals.describe_figures(one, resampling.resample_figures(one, None, SUITE))[
        "forget_probability"
    ]
    low, high = entry["interval"]
    expected = 2 * 1.96 * values.std() / math.sqrt(400)
    assert high - low == pytest.approx(expected, rel=0.1)
    assert low < values.mean() < high
    assert (entry["n"], "subjects" in entry) == (400, False)
    alike = make_evaluation(3, rows=400, size=20)
    for sample in alike.samples:  # the rows of a person say all the same
        sample["probability"] = float(np.random.default_rng(sample["subject"]).random())
    by_person = intervals.compute_interval(
        resampling.resample_figures(alike, None, SUITE)["forget_probability"]
    )
    assert by_person is not None
    spread = np.std([np.random.default_rng(n).random() for n in range(20)]) / math.sqrt(20)
    assert by_person[1] - by_person[0] == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_a_difference_is_paired_and_far_narrower_than_two_intervals() -> None:
    ours, target = make_evaluation(1), make_evaluation(1)
    for sample in ours.samples:
        sample["probability"] -= 0.1
    ours.metrics["forget_probability"] = float(np.mean(ours.values("forget", "probability")))
    found = intervals.compute_statistics(ours, {"target": target, "reference": None}, SUITE)
    gap = found["differences"]["target"]["forget_probability"]
    assert gap["difference"] == pytest.approx(-0.1)
    assert gap["interval"] == pytest.approx([-0.1, -0.1])
    assert found["differences"]["reference"] == found["reference_statistics"] == {}
    fewer = make_evaluation(1, rows=39)
    found = intervals.compute_statistics(ours, {"target": fewer, "reference": None}, SUITE)
    assert found["differences"]["target"]["forget_probability"]["interval"] is None


def test_forget_quality_shows_its_distance_and_is_withheld_below_ten_samples() -> None:
    ours, theirs = make_evaluation(1), make_evaluation(2)
    add_joint_metrics(ours, theirs, SUITE, relative=True)
    entry = intervals.describe_figures(ours, resampling.resample_figures(ours, theirs, SUITE))[
        "forget_quality"
    ]
    ratios = [e.values("forget", "log_truth_ratio") for e in (ours, theirs)]
    expected = ks_2samp(*ratios)
    assert entry["D"] == pytest.approx(expected.statistic)  # type: ignore[attr-defined]
    assert (entry["n"], entry["n_retain"]) == (40, 40)
    assert entry["D_interval"][0] <= entry["D"] <= entry["D_interval"][1]
    assert entry["interval"][0] <= ours.metrics["forget_quality"] <= entry["interval"][1]
    few = make_evaluation(1, rows=9)
    add_joint_metrics(few, theirs, SUITE, relative=True)
    assert few.metrics["forget_quality"] is None
    assert few.missing["forget_quality"] == "n = 9: fewer than 10 samples"
    assert few.metrics["privleak"] is not None


def test_weak_figures_are_marked() -> None:
    good = {"n": 40, "interval": [0.4, 0.6]}
    assert notes.mark_weak_figure("0.500", "x", good) == "0.500"
    for weak in ({**good, "n": 9}, {**good, "subjects": 2}, {**good, "interval": [0.2, 0.6]}):
        assert notes.mark_weak_figure("0.500", "x", weak) == "0.500*"
    assert (
        notes.mark_weak_figure("20.0", "perplexity", {"n": 40, "interval": [15.0, 26.0]}) == "20.0"
    )
    quality = {"n": 40, "n_retain": 38, "D": 0.25, "interval": [0.01, 0.9]}
    assert (
        notes.mark_weak_figure("1e-01", "forget_quality", quality) == "1e-01 (D 0.25, n 40 and 38)"
    )
