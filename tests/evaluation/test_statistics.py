"""Intervals, paired differences, figures that are not finite, roles and damage."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_qa
from scipy.stats import ks_2samp
from transformers import AutoModelForCausalLM, AutoTokenizer

import undial_cli
from undial_cli.config.splits import find_first_row
from undial_cli.config.suites import EvalConfig, EvalSetConfig, find_set_of_role, resolve_role
from undial_cli.evaluation import joint, metrics, resampling, statistics
from undial_cli.evaluation import results as store
from undial_cli.evaluation.catalog import METRICS, Metric, add_joint_metrics
from undial_cli.evaluation.evaluate import add_set_aggregate
from undial_cli.evaluation.evidence import Evaluation, replace_nonfinite
from undial_cli.evaluation.subjects import number_subjects
from undial_cli.evaluation.verdict import describe_damage
from undial_cli.reporting import notes

SUITE = EvalConfig(
    sets={
        "forget": EvalSetConfig("a", metrics=["probability", "truth_ratio", "perplexity"]),
        "retain": EvalSetConfig("b", metrics=["probability", "rouge", "truth_ratio"]),
        "holdout": EvalSetConfig("c", metrics=["probability"]),
    },
    utility=["retain"],
    metrics=["model_utility", "forget_quality", "mia_loss", "mia_min_k", "privleak"],
)
KEYS = ("probability", "rouge", "log_truth_ratio", "oracle_ce", "mia_loss", "mia_min_k")


def evaluation(seed: int, rows: int = 40, size: int | None = 4, **odd: Any) -> Evaluation:
    """Random scores of every set; `odd` replaces values of the first forget sample."""
    draws = np.random.default_rng(seed)
    samples: list[dict[str, Any]] = []
    for name in SUITE.sets:
        for index in range(rows):
            scores = {key: float(draws.random()) - (key == "log_truth_ratio") for key in KEYS}
            who = {} if size is None else {"subject": index // size}
            samples.append({"set": name, "index": index, **who, **scores})
    samples[0] |= odd
    found = Evaluation({}, samples)
    for name, options in SUITE.sets.items():
        for key in options.metrics:
            add_set_aggregate(found, name, key, resolve_role(name, options))
    add_joint_metrics(found, None, SUITE, relative=False)
    return found


def repeated(values: list[float], set_name: str, size: int, resample: int) -> np.ndarray:
    """A resample written out: every subject's block of values as often as it was drawn."""
    blocks = [values[i : i + size] for i in range(0, len(values), size)]
    counts = resampling.draw_unit_counts(set_name, len(blocks))[resample]
    return np.array([v for block, n in zip(blocks, counts, strict=True) for v in block * int(n)])


def test_every_resampled_figure_is_the_metric_of_the_samples_that_were_drawn() -> None:
    ours, theirs = evaluation(1), evaluation(2)
    add_joint_metrics(ours, theirs, SUITE, relative=True)
    found = resampling.resample_figures(ours, theirs, SUITE)
    assert set(found) == set(ours.metrics)
    for b in (0, 7, 999):
        of = lambda name, key, e=ours, b=b: repeated(e.values(name, key), name, 4, b)  # noqa: E731
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
    ours, theirs = evaluation(1, size=1), evaluation(2, size=1)
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
        distance = joint.compute_forget_distance(joint.ComparedModels(*resamples, SUITE))
        assert distance == pytest.approx(ks_2samp(*drawn).statistic)  # type: ignore[attr-defined]


def test_a_new_joint_metric_has_n_and_interval_without_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gap(models: joint.ComparedModels) -> float:
        means = [np.mean(models.ours.values(name, "probability")) for name in ("forget", "retain")]
        return float(means[0] - means[1]) * models.ours.figure("retain_rouge")

    monkeypatch.setitem(METRICS, "gap", Metric("gap", "gap", joint=gap))
    suite = dataclasses.replace(SUITE, metrics=["gap"])
    ours = evaluation(1)
    add_joint_metrics(ours, None, suite, relative=False)
    resampled = resampling.resample_figures(ours, None, suite)
    for b in (0, 999):
        of = lambda name, key, b=b: repeated(ours.values(name, key), name, 4, b).mean()  # noqa: E731
        expected = of("forget", "probability") - of("retain", "probability")
        expected *= of("retain", "rouge")
        assert resampled["gap"].values[b] == pytest.approx(expected)
    entry = statistics.describe_figures(ours, resampled)["gap"]
    assert (entry["n"], entry["subjects"]) == (40, 10)
    assert entry["interval"][0] <= ours.metrics["gap"] <= entry["interval"][1]


def test_an_interval_has_the_width_that_theory_gives_and_persons_widen_it() -> None:
    one = evaluation(3, rows=400, size=None)
    values = np.array(one.values("forget", "probability"))
    entry = statistics.describe_figures(one, resampling.resample_figures(one, None, SUITE))[
        "forget_probability"
    ]
    low, high = entry["interval"]
    expected = 2 * 1.96 * values.std() / math.sqrt(400)
    assert high - low == pytest.approx(expected, rel=0.1)
    assert low < values.mean() < high
    assert (entry["n"], "subjects" in entry) == (400, False)
    alike = evaluation(3, rows=400, size=20)
    for sample in alike.samples:  # the rows of a person say all the same
        sample["probability"] = float(np.random.default_rng(sample["subject"]).random())
    by_person = statistics.compute_interval(
        resampling.resample_figures(alike, None, SUITE)["forget_probability"]
    )
    assert by_person is not None
    spread = np.std([np.random.default_rng(n).random() for n in range(20)]) / math.sqrt(20)
    assert by_person[1] - by_person[0] == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_a_difference_is_paired_and_far_narrower_than_two_intervals() -> None:
    ours, target = evaluation(1), evaluation(1)
    for sample in ours.samples:
        sample["probability"] -= 0.1
    ours.metrics["forget_probability"] = float(np.mean(ours.values("forget", "probability")))
    found = statistics.compute_statistics(ours, {"target": target, "reference": None}, SUITE)
    gap = found["differences"]["target"]["forget_probability"]
    assert gap["difference"] == pytest.approx(-0.1)
    assert gap["interval"] == pytest.approx([-0.1, -0.1])
    assert found["differences"]["reference"] == found["reference_statistics"] == {}
    fewer = evaluation(1, rows=39)
    found = statistics.compute_statistics(ours, {"target": fewer, "reference": None}, SUITE)
    assert found["differences"]["target"]["forget_probability"]["interval"] is None


def test_forget_quality_shows_its_distance_and_is_withheld_below_ten_samples() -> None:
    ours, theirs = evaluation(1), evaluation(2)
    add_joint_metrics(ours, theirs, SUITE, relative=True)
    entry = statistics.describe_figures(ours, resampling.resample_figures(ours, theirs, SUITE))[
        "forget_quality"
    ]
    ratios = [e.values("forget", "log_truth_ratio") for e in (ours, theirs)]
    expected = ks_2samp(*ratios)
    assert entry["D"] == pytest.approx(expected.statistic)  # type: ignore[attr-defined]
    assert (entry["n"], entry["n_retain"]) == (40, 40)
    assert entry["D_interval"][0] <= entry["D"] <= entry["D_interval"][1]
    assert entry["interval"][0] <= ours.metrics["forget_quality"] <= entry["interval"][1]
    few = evaluation(1, rows=9)
    add_joint_metrics(few, theirs, SUITE, relative=True)
    assert few.metrics["forget_quality"] is None
    assert few.missing["forget_quality"] == "n = 9: fewer than 10 samples"
    assert few.metrics["privleak"] is not None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_counted_and_nulls_what_is_made_of_it(
    bad: float, tmp_path: Path
) -> None:
    samples = replace_nonfinite({"probability": bad, "log_truth_ratio": bad, "mia_min_k": bad})
    ours, theirs = evaluation(1, **samples), evaluation(2)
    add_joint_metrics(ours, theirs, SUITE, relative=True)
    for name in ("forget_probability", "forget_truth_ratio", "forget_quality", "mia_min_k"):
        assert ours.metrics[name] is None
        assert "1 of 40 samples" in ours.missing[name]
    assert ours.metrics["retain_probability"] is not None
    assert ours.metrics["mia_loss"] is not None
    store.save_evaluation(tmp_path, ours, {})
    again = store.load_evaluation(tmp_path)
    assert again is not None
    assert (again.metrics, again.missing, again.samples) == (
        ours.metrics, ours.missing, ours.samples
    )  # fmt: skip
    add_joint_metrics(again, theirs, SUITE, relative=True)
    assert (again.metrics, again.missing) == (ours.metrics, ours.missing)


def test_an_aggregate_belongs_to_the_role_that_the_suite_states() -> None:
    ratios = [math.log(r) for r in (0.5, 0.25)]
    samples = [
        {"set": name, "index": i, "log_truth_ratio": ratio}
        for name in ("forget", "request_2", "people", "forgettable")
        for i, ratio in enumerate(ratios)
    ]
    found = Evaluation({}, samples)
    sets = {
        "forget": EvalSetConfig("a"),
        "request_2": EvalSetConfig("b", role="forget"),
        "people": EvalSetConfig("c", role="forget"),
        "forgettable": EvalSetConfig("d"),
    }
    for name, options in sets.items():
        add_set_aggregate(found, name, "truth_ratio", resolve_role(name, options))
    assert found.metrics == pytest.approx(
        {f"{name}_truth_ratio": 0.375 for name in ("forget", "request_2", "people")}
        | {"forgettable_truth_ratio": 0.625}
    )
    assert find_set_of_role(EvalConfig(sets=sets), "forget") == "forget"
    assert find_set_of_role(EvalConfig(sets={"people": sets["people"]}), "forget") == "people"
    two = {"people": sets["people"], "request_2": sets["request_2"]}
    assert find_set_of_role(EvalConfig(sets=two), "forget") is None


def test_subjects_come_from_a_column_or_from_blocks_of_the_split() -> None:
    rows = [{"subject": who} for who in ("ann", "bob", "ann", None)]
    options = EvalSetConfig("forget[5:9]", rows_per_subject=3)
    assert number_subjects(rows, options, "subject") == {0: 0, 1: 1, 2: 0}
    assert number_subjects(rows, options, "who") == {0: 1, 1: 2, 2: 2, 3: 2}
    assert number_subjects(rows, EvalSetConfig("forget[-4:]", rows_per_subject=3), "who") == {}
    assert number_subjects(rows, EvalSetConfig("forget"), "who") == {}
    starts = {"a": 0, "a[:5]": 0, "a[20:]_perturbed": 20, "a[10%:]": None, "a[-3:]": None}
    assert {split: find_first_row(split) for split in starts} == starts


def test_a_destroyed_model_is_called_damaged_and_a_kept_one_is_not() -> None:
    target = {"model_utility": 0.85, "news_perplexity": 20.0, "forget_probability": 0.9}
    ours = {"model_utility": 0.12, "news_perplexity": 50.0, "forget_probability": 0.0}
    assert describe_damage(ours, target, {}, {}, {}) == [
        "model_utility 0.120 is 14% of the target's 0.850",
        "news_perplexity 50 is 2.5 times the target's 20",
    ]
    assert describe_damage({**target, "forget_probability": 0.0}, target, {}, {}, {}) == []
    roles = {"retain": "retain", "forget": "forget"}
    kept = {"retain_rouge": 0.9, "forget_rouge": 0.9}
    lost = describe_damage({"retain_rouge": 0.1, "forget_rouge": 0.1}, {}, kept, {}, roles)
    assert lost == ["retain_rouge 0.100 is 11% of the retain model's 0.900"]
    null = describe_damage(
        {"retain_rouge": None}, kept, {}, {"retain_rouge": "3 of 3 samples"}, roles
    )
    assert null == ["retain_rouge: 3 of 3 samples"]
    results = {"damaged": lost, "metrics": {"forget_quality": 0.5}}
    assert notes.state_damage(results).endswith("its forget_quality of 5.00e-01 is no success")


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


@pytest.mark.slow
def test_a_model_of_nan_has_null_figures_the_first_time_and_from_the_cache(
    random_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    model = AutoModelForCausalLM.from_pretrained(random_model)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    model.save_pretrained(broken)
    AutoTokenizer.from_pretrained(random_model).save_pretrained(broken)
    files = {n: write_qa(tmp_path / f"{n}.jsonl", 12) for n in ("forget", "retain")}
    words = [
        "data=jsonl", *(f"data.{n}_file={f}" for n, f in files.items()), "hardware=cpu",
        f"model.path={broken}", "eval.retain_model=none", "eval.max_new_tokens=4",
        f"output_dir={tmp_path}", "name=nan", "report=false",
    ]  # fmt: skip
    found = []
    for _ in range(2):
        folder = undial_cli.run(words, command="evaluate").folder
        found.append(json.loads((folder / "evaluation" / "results.json").read_text()))
        shutil.rmtree(folder)
    assert found[0] == found[1]
    assert set(found[0]["metrics"].values()) == {None}
    assert found[0]["missing"]["forget_rouge"] == "12 of 12 samples have no finite rouge"
    assert set(found[0]["missing"]) == set(found[0]["metrics"])
