"""The field's composite scores: those of 152 published models, and a case by hand."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_evaluations import SUITE, make_evaluation

from undial_cli.config.suites import EvalConfig
from undial_cli.evaluation import composite_scores, metrics, resampling
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.suite_metrics import add_joint_metrics

SCORES = ("memorization_score", "privacy_score", "utility_score", "aggregate_score")
CONFIG = dataclasses.replace(SUITE, metrics=["model_utility", *SCORES])
ATTACKS = composite_scores.PRIVACY_PARTS
SETS = ("retain", "ra", "wf")
KINDS = ("q_prob", "q_rouge", "truth_ratio")


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    """Parts and wholes of unlearned Llama-3.2-1B models on TOFU forget10."""
    root = os.environ.get("UNDIAL_DATA_ROOT")
    file = Path(root).parent / "reference" / "uds_method_results.json" if root else None
    if file is None or not file.is_file():
        pytest.skip("UNDIAL_DATA_ROOT has no neighbour folder `reference`: figures not at hand")
    return json.loads(file.read_text("utf-8"))


def test_all_published_models_have_the_scores_that_their_parts_give(
    published: dict[str, Any],
) -> None:
    assert len(published["models"]) == 152
    for row in published["models"]:
        known = [1 - row[f"one_minus_{part}"] for part in ("es", "em", "paraprob", "truth")]
        similar = [row[f"s_{attack}"] for attack in ("loss", "zlib", "mink", "minkpp")]
        utility = metrics.model_utility({a + b: row[f"{a}_{b}"] for a in SETS for b in KINDS})
        whole = metrics.utility_score(utility, row["fluency"])
        # Theirs counts the depth score as a part of privacy, beside the attacks.
        privacy = metrics.harmonic_mean([metrics.privacy_score(similar), row["uds"]])
        relative = min(1.0, whole / published["full_utility"][row["epoch"]])
        memorised = metrics.memorization_score(*known)
        pairs = {
            "mem": memorised,
            "privacy_mia": metrics.privacy_score(similar),
            "privacy": privacy,
            "model_utility": utility,
            "utility": whole,
            "utility_rel": relative,
            "overall": metrics.aggregate_score(memorised, privacy, relative),
        }
        for name, value in pairs.items():
            assert value == pytest.approx(row[name], abs=1e-6), (row["model"], name)


@pytest.mark.parametrize(
    "auc, retain, similarity",
    [(0.5, 0.5, 1.0), (0.6, 0.5, 0.8), (0.4, 0.5, 0.8), (1.0, 0.5, 0.0), (1.0, 0.4, 0.0)],
)
def test_an_attack_is_as_similar_as_its_auc_is_near(
    auc: float, retain: float, similarity: float
) -> None:
    assert metrics.attack_similarity(auc, retain) == pytest.approx(similarity)
    with pytest.raises(ValueError, match="AUC is 0"):
        metrics.attack_similarity(auc, 0)


def make_models() -> tuple[Evaluation, Evaluation, Evaluation]:
    """Ours, the retain model's and the target's, with all that the scores read."""
    models = make_evaluation(1), make_evaluation(2), make_evaluation(3)
    for seed, model in enumerate(models):
        numbers = np.random.default_rng(seed)
        model.metrics = {k: v for k, v in model.metrics.items() if k not in ATTACKS}
        for sample in model.samples:
            for key in (*composite_scores.MEMORIZATION_PARTS, *ATTACKS):
                sample[key] = float(numbers.uniform(0.1, 0.9))
    return models


def mean(model: Evaluation, set_name: str, key: str) -> float:
    values = [s[key] for s in model.samples if s["set"] == set_name]
    return sum(values) / len(values)


def harmonic(*parts: float) -> float:
    return len(parts) / sum(1 / part for part in parts)


def plain_auc(model: Evaluation, key: str) -> float:
    """P(holdout > forget) by all pairs."""
    forget, holdout = (
        [s[key] for s in model.samples if s["set"] == n] for n in ("forget", "holdout")
    )
    return sum(h > f for h in holdout for f in forget) / (len(forget) * len(holdout))


def plain_utility(model: Evaluation) -> float:
    truth = [np.exp(s["log_truth_ratio"]) for s in model.samples if s["set"] == "retain"]
    return harmonic(
        mean(model, "retain", "probability"), mean(model, "retain", "rouge"),
        sum(max(0, 1 - r) for r in truth) / len(truth),
    )  # fmt: skip


def add_scores(ours: Evaluation, theirs: Evaluation | None, target: Evaluation | None) -> None:
    add_joint_metrics(ours, theirs, CONFIG, relative=False)
    add_joint_metrics(ours, theirs, CONFIG, relative=True, target=target)


def test_the_scores_of_an_evaluation_are_those_written_out() -> None:
    ours, retain, target = make_models()
    add_scores(ours, retain, target)
    known = (1 - mean(ours, "forget", key) for key in composite_scores.MEMORIZATION_PARTS)
    memorised = harmonic(*known)
    similar = [
        1 - abs(plain_auc(ours, a) - plain_auc(retain, a)) / plain_auc(retain, a) for a in ATTACKS
    ]
    utility = min(1, plain_utility(ours) / plain_utility(target))
    expected = [memorised, harmonic(*similar), utility]
    for name, value in zip(SCORES, [*expected, harmonic(*expected)], strict=True):
        assert ours.metrics[name] == pytest.approx(value), name
    assert ours.notes["utility_score"] == "without fluency: eval.gibberish_model is not set"


def test_fluency_is_a_part_of_utility_where_its_model_is_set() -> None:
    ours, _, target = make_models()
    for model in (ours, target):
        for sample in model.samples:
            sample["gibberish"] = 0.5 if model is target else 0.4
    config = dataclasses.replace(CONFIG, gibberish_model="somewhere")
    add_joint_metrics(ours, None, config, relative=True, target=target)
    parts = [harmonic(plain_utility(m), f) for m, f in ((ours, 0.4), (target, 0.5))]
    assert ours.metrics["utility_score"] == pytest.approx(min(1, parts[0] / parts[1]))
    assert "utility_score" not in ours.notes


def test_what_pulls_a_score_to_nothing_is_named() -> None:
    ours, retain, target = make_models()
    for sample in ours.samples:
        sample["exact_memorization"] = 1.0
        sample["mia_min_k"] = 1.0 if sample["set"] == "holdout" else 0.0
    for sample in retain.samples:
        sample["mia_min_k"] = 0.5
    add_scores(ours, retain, target)
    assert ours.metrics["memorization_score"] == ours.metrics["aggregate_score"] == 0
    assert ours.notes["memorization_score"] == "pulled down by 1 - exact_memorization 0.000"
    assert ours.notes["privacy_score"] == "pulled down by mia_min_k 0.000"
    assert ours.notes["aggregate_score"].startswith("pulled down by memorization_score 0.000")


def test_what_a_score_lacks_is_said() -> None:
    ours, retain, _ = make_models()
    add_scores(ours, None, None)
    assert "retain model" in ours.missing["privacy_score"]
    assert "target" in ours.missing["utility_score"]
    assert ours.missing["aggregate_score"].startswith("privacy_score: ")
    again = make_models()[0]
    bare = dataclasses.replace(CONFIG, metrics=["aggregate_score"])
    add_joint_metrics(again, retain, bare, relative=True)
    assert again.missing["aggregate_score"] == ("memorization_score: eval.metrics does not name it")


def test_intervals_are_of_the_same_draws_for_all_models() -> None:
    ours, retain, target = make_models()
    for name in ("probability", "rouge", "log_truth_ratio"):
        for sample, other in zip(ours.samples, target.samples, strict=True):
            sample[name] = other[name]
    for model in (ours, target):
        add_scores(model, retain, target)
    found = resampling.resample_figures(ours, retain, CONFIG, target)
    assert set(SCORES) <= set(found)
    # A model as useful as the target is that in every resample.
    assert found["utility_score"].values == pytest.approx(1)
    parts = np.stack([found[name].values for name in SCORES[:3]])
    with np.errstate(divide="ignore"):
        assert found["aggregate_score"].values == pytest.approx(3 / (1 / parts).sum(0))
    point, values = ours.metrics["privacy_score"], found["privacy_score"].values
    assert point is not None
    assert values.min() < point < values.max()


def test_the_tofu_suite_names_what_its_scores_read() -> None:
    from undial_cli.runs.compose import compose_run

    config: EvalConfig = compose_run("unlearn", ["data=tofu", "model=tiny"]).eval
    assert config.metrics[-4:] == list(SCORES)
