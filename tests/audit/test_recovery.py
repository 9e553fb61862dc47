"""What was recovered, its interval, its test: by hand, by scipy, and on scores of known truth."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from drawn_audits import draw_graded, draw_hits, estimate_drawn, join_models, number_rows
from scipy import stats

from undial_cli.audit import recovery


def test_recovered_is_the_share_of_what_the_target_knows_beyond_the_retain_model() -> None:
    scores = join_models(
        target=np.array([1.0, 0.8]), retain=np.array([0.2, 0.0]),
        attacked=np.array([0.3, 0.1]), unlearned=np.array([0.5, 0.7]),
    )  # fmt: skip
    entry = estimate_drawn(scores, [0, 1])
    assert entry["recovered"] == pytest.approx((0.6 - 0.2) / (0.9 - 0.1))
    assert entry["interval"] is None
    assert entry["method"] == "no interval: 2 rows are too few"
    assert (entry["n"], entry["subjects"]) == (2, 2)


def test_resamples_are_of_subjects_with_all_their_rows_and_of_all_models_at_once() -> None:
    draws = np.random.default_rng(0)
    who = draws.permutation(np.repeat(np.arange(9), [1, 2, 3, 4, 5, 6, 7, 8, 9]))
    gained, known = draws.random((2, 45))
    units = recovery.choose_units([f"person {n}" for n in who])  # type: ignore[list-item]
    assert units.method == "bootstrap, 1000 resamples of subjects"
    counts = recovery.draw_counts(units.strata)
    ratios = []
    for resample in counts:  # written out: every row of a subject as often as it was drawn
        rows = [i for i in range(45) for _ in range(int(resample[who[i]]))]
        ratios.append(gained[rows].mean() / known[rows].mean())
    # Student's quantile of 8 degrees, widened by n against n - 1, as a share of the normal.
    share = stats.norm.cdf(stats.t.ppf(0.025, 8) * math.sqrt(9 / 8))
    expected = np.quantile(ratios, [share, 1 - share])
    assert recovery.estimate_ratio(gained, known, units, 0.05).interval == pytest.approx(expected)


def test_of_few_subjects_the_rows_of_each_are_drawn() -> None:
    draws = np.random.default_rng(1)
    who = np.repeat([5, 9], [100, 300])
    units = recovery.choose_units(list(who))
    counts = recovery.draw_counts(units.strata)
    assert (counts[:, :100].sum(1) == 100).all()
    assert (counts[:, 100:].sum(1) == 300).all()
    assert "the rows of 2 subjects: it speaks of these subjects only" in units.method
    values = np.where(who == 5, 0.0, 1.0) + draws.normal(0, 0.2, 400)
    interval = recovery.estimate_ratio(values, np.ones(400), units, 0.05).interval
    assert interval is not None
    # What lies between the two subjects is no noise: it is theirs.
    parts = (values[:100], values[100:])
    error = math.sqrt(sum(len(part) * part.var(ddof=1) for part in parts)) / len(values)
    assert interval[1] - interval[0] == pytest.approx(2 * 1.97 * error, rel=0.1)
    p = recovery.compute_p_value(values - 0.74, units)
    assert p == pytest.approx(stats.t.sf((values.mean() - 0.74) / error, 398))


def test_p_is_that_of_a_t_test_of_the_subjects_means() -> None:
    draws = np.random.default_rng(2)
    who = number_rows(12, 5)
    scores = draw_graded(draws, who, 0.3)
    entry = estimate_drawn(scores, who)
    gained = scores["attacked"]["unlearned"] - scores["attacked"]["retain"]
    known = scores["plain"]["target"] - scores["plain"]["retain"]
    for key, contrast in (("p", gained - 0.2 * known), ("p_below", -gained - 0.2 * known)):
        means = contrast.reshape(12, 5).mean(1)
        assert entry[key] == pytest.approx(stats.ttest_1samp(means, 0, alternative="greater")[1])


def test_without_spread_there_is_no_interval_and_the_sign_is_the_test() -> None:
    ones, zeros = np.ones(10), np.zeros(10)
    entry = estimate_drawn(join_models(ones, zeros, zeros, ones), range(10))
    assert (entry["recovered"], entry["interval"], entry["varies"]) == (1.0, None, False)
    assert entry["p"] == 0.5**10
    assert entry["method"] == "no interval: all resamples give the same"
    quiet = estimate_drawn(join_models(ones, zeros, zeros, zeros), range(10))
    assert (quiet["recovered"], quiet["p"], quiet["p_below"]) == (0.0, 1.0, 1.0)
    alone = estimate_drawn(join_models(*(v[:1] for v in (ones, zeros, zeros, ones))), [7])
    assert (alone["recovered"], alone["interval"], alone["p"]) == (1.0, None, None)
    assert alone["method"] == "no interval: 1 row is too few"


def test_a_score_that_does_not_tell_the_target_from_the_retain_model_recovers_nothing() -> None:
    draws = np.random.default_rng(3)
    target, retain, unlearned = (draws.normal(0.5, 0.2, 40) for _ in range(3))
    entry = estimate_drawn(join_models(target, retain, retain, unlearned), range(40))
    assert entry["recovered"] is None
    assert entry["p"] is None
    assert entry["reason"] == "this score does not tell the target from the retain model"


def test_what_is_not_known_is_said() -> None:
    known = {name: np.full(8, value) for name, value in (("unlearned", 0.5), ("retain", 0.1))}
    plain = {"target": np.full(8, 0.9), "retain": np.full(8, 0.1)}

    def reason(attacked: Any, plain: Any, rows: int = 8) -> str:
        return recovery.estimate_recovery(attacked, plain, range(rows), 0.2, 0.05)["reason"]

    alone = {"unlearned": known["unlearned"]}
    assert reason(alone, plain) == "there is no such figure of a retain model"
    assert reason(known, {"retain": plain["retain"]}) == (
        "there is no such figure of a target model"
    )
    assert reason({}, {}, 0) == "no row has this score of all models"
    entry = recovery.estimate_recovery(
        known, {"retain": plain["retain"]}, range(8), 0.2, 0.05, assume_target=True
    )
    assert entry["recovered"] == pytest.approx(0.4 / 0.9)
    assert entry["method"].endswith("no target is known: it is taken to know every answer")


def test_holm_worked_by_hand() -> None:
    corrected = recovery.correct_by_holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None, "e": 0.005})
    # In order: 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1 -> not below the one before it.
    expected = {"e": 0.02, "a": 0.03, "c": 0.06, "b": 0.06, "d": None}
    assert corrected == pytest.approx(expected)
    assert recovery.correct_by_holm({"a": 0.7, "b": 0.8}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    ("draw", "subjects", "rows", "recovered"),
    [
        (draw_graded, 20, 5, 0.0),
        (draw_graded, 20, 20, 0.2),
        (draw_graded, 40, 1, 0.6),
        (draw_graded, 20, None, 0.2),
        (draw_hits, 20, 20, 0.6),
        (draw_hits, 40, 1, 0.2),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(
    draw: Callable[..., Any], subjects: int, rows: int | None, recovered: float
) -> None:
    draws = np.random.default_rng(4)
    sizes = draws.integers(2, 20, subjects) if rows is None else rows
    who = np.repeat(np.arange(subjects), sizes)
    covered = 0
    for _ in range(500):
        low, high = estimate_drawn(draw(draws, who, recovered), who)["interval"]
        covered += low <= recovered <= high
    assert 0.93 <= covered / 500 <= 0.97


def test_all_scores_of_a_large_audit_take_less_than_two_seconds() -> None:
    draws = np.random.default_rng(5)
    who = number_rows(200, 20)
    scores = draw_graded(draws, who, 0.3)
    start = time.process_time()
    for _ in range(15 * 6):
        estimate_drawn(scores, who)
    assert time.process_time() - start < 2
