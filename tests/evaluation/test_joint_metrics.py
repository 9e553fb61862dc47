"""Metrics that join sets, with a retain model, with a published figure, and without."""

from __future__ import annotations

import pytest
from made_evaluations import PARTS, RELATIVE_SUITE, make_unlearned, make_utility
from scipy.stats import hmean

from undial_cli.config.suites import EvalConfig
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.suite_metrics import add_joint_metrics


def test_without_a_retain_model_the_relative_metrics_say_why() -> None:
    ours = make_unlearned()
    add_joint_metrics(
        ours, None, RELATIVE_SUITE, relative=True, no_retain="the hub cannot be reached"
    )
    assert not ours.metrics
    assert set(ours.missing) == {"forget_quality", "privleak", "mia_reference"}
    assert set(ours.missing.values()) == {"the hub cannot be reached"}


@pytest.mark.parametrize(
    ("auc", "words"), [(1.0, "undefined"), (0.999, "unstable"), (0.97, "unstable"), (0.94, "")]
)
def test_privleak_relative_to_almost_nothing_is_no_figure(auc: float, words: str) -> None:
    ours = make_unlearned()
    config = EvalConfig(sets=RELATIVE_SUITE.sets, metrics=["privleak"])
    add_joint_metrics(ours, Evaluation({"mia_min_k": auc}, []), config, relative=True)
    if words:
        assert "privleak" not in ours.metrics
        assert ours.missing["privleak"].startswith(words)
        assert f"relative to {1 - auc:.3f}" in ours.missing["privleak"]
        assert "the AUC here is 0.889" in ours.missing["privleak"]
    else:
        a, a_retain = 1 - 8 / 9, 1 - auc
        assert ours.metrics["privleak"] == pytest.approx((a - a_retain) / a_retain * 100)


def test_utility_of_all_parts_needs_no_word() -> None:
    ours = make_utility(PARTS)
    assert ours.metrics["model_utility"] == pytest.approx(hmean(list(PARTS.values())))
    assert not ours.notes


@pytest.mark.parametrize(
    "gone", [["world_facts_probability"], [n for n in PARTS if n.startswith("real_authors")]]
)
def test_utility_of_some_parts_says_which_it_is_without(gone: list[str]) -> None:
    parts = {name: value for name, value in PARTS.items() if name not in gone}
    ours = make_utility(parts)
    assert ours.metrics["model_utility"] == pytest.approx(hmean(list(parts.values())))
    expected = f"averages {9 - len(gone)} of 9 parts; without {', '.join(gone)}"
    assert ours.notes == {"model_utility": expected}
    assert "model_utility" not in ours.missing


def test_utility_of_no_part_is_missing() -> None:
    ours = make_utility({"forget_rouge": 0.5})
    assert not ours.notes
    assert "model_utility" not in ours.metrics
    assert "all other parts are missing" in ours.missing["model_utility"]


def test_a_published_auc_stands_in_for_a_retain_model() -> None:
    ours = make_unlearned()
    config = EvalConfig(sets=RELATIVE_SUITE.sets, metrics=["privleak"], retrain_auc=0.4772)
    add_joint_metrics(ours, None, config, relative=True)
    a = 1 - 8 / 9
    assert ours.metrics["privleak"] == pytest.approx((a - 0.4772) / 0.4772 * 100)
