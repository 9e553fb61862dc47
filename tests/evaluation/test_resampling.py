"""A resampled figure is the metric of the samples that were drawn, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_evaluations import SUITE, make_evaluation, repeat_drawn
from scipy.stats import ks_2samp

from undial_cli.evaluation import joint_metrics, metrics, resampling
from undial_cli.evaluation.suite_metrics import add_joint_metrics


def test_every_resampled_figure_is_the_metric_of_the_samples_that_were_drawn() -> None:
    ours, theirs = make_evaluation(1), make_evaluation(2)
    add_joint_metrics(ours, theirs, SUITE, relative=True)
    found = resampling.resample_figures(ours, theirs, SUITE)
    assert set(found) == set(ours.metrics)
    for b in (0, 7, 999):
        of = lambda name, key, e=ours, b=b: repeat_drawn(e.values(name, key), name, 4, b)  # noqa: E731
        p = of("forget", "probability")
        assert found["forget_probability"].values[b] == pytest.approx(p.mean())
        perplexity = math.exp(of("forget", "oracle_ce").mean())
        assert found["forget_perplexity"].values[b] == pytest.approx(perplexity)
        forget, retain = (np.exp(of(n, "log_truth_ratio")) for n in ("forget", "retain"))
        parts = [of("retain", "probability").mean(), of("retain", "rouge").mean()]
        parts.append(metrics.retain_truth_ratio(retain))
        even = metrics.forget_truth_ratio(forget)
        assert found["forget_truth_ratio"].values[b] == pytest.approx(even)
        utility = 3 / sum(1 / part for part in parts)
        assert found["model_utility"].values[b] == pytest.approx(utility)
        aucs = []
        for e in (ours, theirs):
            scores = (of(name, "mia_min_k", e) for name in ("forget", "holdout"))
            aucs.append(metrics.attack_auc(*scores))
        assert found["mia_min_k"].values[b] == pytest.approx(aucs[0])
        assert found["privleak"].values[b] == pytest.approx(metrics.privleak(*aucs))


def test_ties_count_half_and_distances_are_those_of_scipy() -> None:
    ours, theirs = make_evaluation(1, size=1), make_evaluation(2, size=1)
    for sample in ours.samples + theirs.samples:
        for key in ("mia_loss", "log_truth_ratio"):
            sample[key] = round(sample[key] * 4) / 4
    forget, holdout = (resampling.draw_set(ours, n, "mia_loss") for n in ("forget", "holdout"))
    both = [resampling.draw_set(e, "forget", "log_truth_ratio") for e in (ours, theirs)]
    aucs = resampling.resample_figures(ours, None, SUITE)["mia_loss"].values
    for b in range(5):
        drawn = [np.repeat(d.values, d.weights[b]) for d in (forget, holdout)]
        assert aucs[b] == pytest.approx(metrics.attack_auc(*drawn))
        drawn = [np.repeat(d.values, d.weights[b]) for d in both]
        resamples = [
            resampling.ResampledEvaluation({}, e.samples, number=b) for e in (ours, theirs)
        ]
        distance = joint_metrics.compute_forget_distance(
            joint_metrics.ComparedModels(*resamples, SUITE)
        )
        assert distance == pytest.approx(ks_2samp(*drawn).statistic)  # type: ignore[attr-defined]
