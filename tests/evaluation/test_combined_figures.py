"""Figures that a suite makes of others, and figures by group."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from conftest import refused

from undial_cli.config.suites import CombinedFigureConfig, EvalConfig, EvalSetConfig
from undial_cli.evaluation.evaluate import add_set_aggregate
from undial_cli.evaluation.evidence import Evaluation, list_groups, name_row_group
from undial_cli.evaluation.resampling import resample_figures
from undial_cli.evaluation.suite_metrics import add_joint_metrics, check_metric_names

SETS = {
    "forget": EvalSetConfig("a", metrics=["rouge"], role="forget", group_by="kind"),
    "retain": EvalSetConfig("b", metrics=["rouge"]),
    "members": EvalSetConfig("c", metrics=[], role="other"),
    "strangers": EvalSetConfig("d", metrics=[], role="other"),
}


def make_suite(**combined: Any) -> EvalConfig:
    figures = {name: CombinedFigureConfig(*parts) for name, parts in combined.items()}
    named = {"mia_loss": {"forget": "members", "holdout": "strangers"}}
    return EvalConfig(sets=SETS, metrics=["mia_loss"], joint_sets=named, combine=figures)


def evaluate_made_samples(suite: EvalConfig, without: str = "") -> Evaluation:
    draws = np.random.default_rng(5)
    samples = [
        {"set": name, "index": i, "rouge": float(draws.random()), "mia_loss": float(draws.random())}
        | ({"group": name_row_group(f"Kind {i % 2}")} if name == "forget" else {})
        for name, rows in (("forget", 30), ("retain", 10), ("members", 12), ("strangers", 15))
        for i in range(rows)
        if name != without
    ]
    found = Evaluation({}, samples, {without: "no such file"} if without else {})
    for name in {"forget", "retain"} - {without}:
        for part in (name, *list_groups(samples, name)):
            add_set_aggregate(found, part, "rouge", "forget")
    add_joint_metrics(found, None, suite, relative=False)
    return found


def collect(found: Evaluation, name: str, key: str = "rouge") -> list[float]:
    return [s[key] for s in found.samples if s["set"] == name]


def test_a_figure_by_group_is_that_of_its_rows() -> None:
    found = evaluate_made_samples(make_suite())
    values = collect(found, "forget")
    assert found.metrics["forget_rouge"] == pytest.approx(np.mean(values))
    for kind in (0, 1):
        assert found.metrics[f"forget_kind_{kind}_rouge"] == pytest.approx(np.mean(values[kind::2]))
    assert set(found.metrics) == {
        "forget_rouge", "forget_kind_0_rouge", "forget_kind_1_rouge", "retain_rouge", "mia_loss",
    }  # fmt: skip


def test_combined_figures_are_means_of_their_parts() -> None:
    suite = make_suite(
        total=(["1 - forget_rouge", "retain_rouge", "retain_rouge"],),
        score=(["1 - 2 * abs(mia_loss - 0.5)"],),
        whole=(["1-forget_kind_0_rouge", "retain_rouge", "score", "total"], "harmonic"),
        all_rouge=(["forget_rouge", "retain_rouge"], "pooled"),
    )
    check_metric_names(suite)
    found = evaluate_made_samples(suite)
    forget, retain = collect(found, "forget"), collect(found, "retain")
    pairs = [
        float(a < b) + (a == b) / 2
        for a in collect(found, "members", "mia_loss")
        for b in collect(found, "strangers", "mia_loss")
    ]
    assert found.metrics["mia_loss"] == pytest.approx(np.mean(pairs))
    score = 1 - 2 * abs(np.mean(pairs) - 0.5)
    total = (1 - np.mean(forget) + 2 * np.mean(retain)) / 3
    parts = [1 - np.mean(forget[::2]), np.mean(retain), score, total]
    assert found.metrics["score"] == pytest.approx(score)
    assert found.metrics["total"] == pytest.approx(total)
    assert found.metrics["whole"] == pytest.approx(4 / sum(1 / part for part in parts))
    assert found.metrics["all_rouge"] == pytest.approx(np.mean([*forget, *retain]))

    resampled = resample_figures(found, None, suite)
    assert resampled["forget_kind_1_rouge"].sets[0].units == 15
    drawn = {name: resampled[name].values for name in found.metrics}
    assert drawn["score"] == pytest.approx(1 - 2 * abs(drawn["mia_loss"] - 0.5))
    expected = (1 - drawn["forget_rouge"] + 2 * drawn["retain_rouge"]) / 3
    assert drawn["total"] == pytest.approx(expected)
    both = (30 * drawn["forget_rouge"] + 10 * drawn["retain_rouge"]) / 40
    assert drawn["all_rouge"] == pytest.approx(both)
    assert np.std(drawn["whole"]) > 0


def test_what_a_part_lacks_is_said() -> None:
    suite = make_suite(
        score=(["mia_loss"],),
        last=(["score", "harness_mmlu_acc"],),
        ratio=(["forget_rouge / (retain_rouge - retain_rouge)"],),
        all_rouge=(["forget_rouge", "retain_rouge"], "pooled"),
    )
    found = evaluate_made_samples(suite, without="members")
    assert found.missing["mia_loss"] == "the set 'members' is missing"
    assert found.missing["score"] == "mia_loss: the set 'members' is missing"
    assert found.missing["last"] == "score: mia_loss: the set 'members' is missing"
    found = evaluate_made_samples(suite)
    assert found.missing["last"] == "harness_mmlu_acc: it is not evaluated"
    assert "zero" in found.missing["ratio"]
    found = evaluate_made_samples(suite, without="retain")
    assert found.metrics["all_rouge"] == found.metrics["forget_rouge"]
    assert found.notes["all_rouge"] == "without retain_rouge (no such file)"


@pytest.mark.parametrize(
    "change, parts",
    [
        ({"combine": {"x": CombinedFigureConfig(["forget_rouge.real"])}},
         ["eval.combine.x.figures=forget_rouge.real", "+ - * /"]),
        ({"combine": {"x": CombinedFigureConfig([])}}, ["eval.combine.x.figures=[]"]),
        ({"combine": {"forget_rouge": CombinedFigureConfig(["mia_loss"])}},
         ["eval.combine.forget_rouge", "there is a figure of this name already"]),
        ({"combine": {"model_utility": CombinedFigureConfig(["mia_loss"])}}, ["rename"]),
        ({"combine": {"x": CombinedFigureConfig(["mia_loss"], "pooled")}},
         ["eval.combine.x.figures=mia_loss", "forget_rouge, retain_rouge"]),
        ({"joint_sets": {"mia_zlib": {}}}, ["eval.joint_sets=mia_zlib", "mia_loss"]),
        ({"joint_sets": {"mia_loss": {"forgotten": "members"}}},
         ["eval.joint_sets.mia_loss=forgotten", "did you mean 'forget'"]),
        ({"joint_sets": {"mia_loss": {"forget": "member"}}},
         ["eval.joint_sets.mia_loss.forget=member", "did you mean 'members'"]),
        ({"joint_sets": {"mia_loss": "members"}}, ["eval.joint_sets.mia_loss"]),
        ({"sets": {"a": EvalSetConfig("x", prompt="Question:")}},
         ["eval.sets.a.prompt=Question:", "{question}"]),
    ],
)  # fmt: skip
def test_what_cannot_be_combined_is_refused_by_name(
    change: dict[str, Any], parts: list[str]
) -> None:
    suite = dataclasses.replace(make_suite(), **change)
    refused(lambda: check_metric_names(suite), *parts)
