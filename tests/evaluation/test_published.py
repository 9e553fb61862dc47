"""open-unlearning's and TOFU's own files, under our names and by their formulas."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from made_evaluations import (
    OURS,
    RATIOS,
    RELATIVE_SUITE,
    TOFU_FILE,
    make_open_unlearning_file,
    make_unlearned,
    write_published,
)
from scipy.stats import hmean, ks_2samp

from undial_cli.evaluation import retain_results
from undial_cli.evaluation.suite_metrics import add_joint_metrics


def test_a_published_file_gives_forget_quality_and_privleak(tmp_path: Path) -> None:
    retain = retain_results.read_reference(write_published(tmp_path, make_open_unlearning_file()))
    ours = make_unlearned()
    add_joint_metrics(ours, retain, RELATIVE_SUITE, relative=True)
    expected = ks_2samp(OURS, RATIOS).pvalue  # type: ignore[attr-defined]
    assert ours.metrics["forget_quality"] == pytest.approx(expected, rel=1e-9)
    a, a_retain = 1 - 8 / 9, 1 - 0.3826125
    assert ours.metrics["privleak"] == pytest.approx((a - a_retain) / a_retain * 100)
    assert "losses" in ours.missing["mia_reference"]
    assert retain.metrics == pytest.approx(
        {"forget_probability": 0.25, "forget_truth_ratio": 0.5, "mia_min_k": 0.3826125}
    )


def score_file(**values: list[float | None]) -> dict[str, Any]:
    """Figures of open-unlearning's file with the field that their score has there."""
    fields = {"Prob": "prob", "normalised": "prob", "ROUGE": "rougeL_recall"}
    content: dict[str, Any] = {}
    for name, scores in values.items():
        field = fields.get(name.split("_")[-1], "score")
        rows = {str(i): None if s is None else {field: s} for i, s in enumerate(scores)}
        known = [s for s in scores if s is not None]
        content[name] = {"agg_value": sum(known) / len(known), "value_by_index": rows}
    return content


def test_all_sets_of_a_published_file_are_read_under_our_names(tmp_path: Path) -> None:
    content = score_file(
        forget_truth_ratio=[0.5, 2.0], retain_Q_A_Prob=[0.9, 0.7], retain_Q_A_ROUGE=[1.0, 0.5],
        retain_Truth_Ratio=[0.25, 0.5], ra_Q_A_Prob=[0.01], ra_Q_A_Prob_normalised=[0.4],
        ra_Q_A_ROUGE=[0.75], ra_Truth_Ratio=[0.3], wf_Q_A_Prob_normalised=[0.6, None],
        wf_Q_A_ROUGE=[0.8, 0.9], wf_Truth_Ratio=[0.2, 0.0], forget_Q_A_ROUGE=[0.3, 0.1],
    )  # fmt: skip
    content["retain_Q_A_ROUGE"]["value_by_index"]["1"]["generation"] = " In Kelmwick."
    content["model_utility"] = {"agg_value": 0.61}
    found = retain_results.read_reference(write_published(tmp_path, content))
    assert found.metrics == pytest.approx(
        {
            "forget_truth_ratio": 1.25, "forget_rouge": 0.2,
            "retain_probability": 0.8, "retain_rouge": 0.75, "retain_truth_ratio": 0.375,
            "real_authors_probability": 0.4, "real_authors_rouge": 0.75,
            "real_authors_truth_ratio": 0.3, "world_facts_probability": 0.6,
            "world_facts_rouge": 0.85, "world_facts_truth_ratio": 0.1, "model_utility": 0.61,
        }
    )  # fmt: skip
    by_place = {(s["set"], s["index"]): s for s in found.samples}
    assert by_place["retain", 1] == {
        "set": "retain", "index": 1, "probability": 0.7, "rouge": 0.5,
        "log_truth_ratio": math.log(0.5), "generation": "In Kelmwick.",
    }  # fmt: skip
    assert by_place["real_authors", 0]["probability"] == 0.4
    assert "probability" not in by_place["world_facts", 1]
    assert by_place["world_facts", 1]["log_truth_ratio"] == -math.inf
    assert list(by_place) == sorted(by_place)


def test_a_summary_gives_aggregates_and_no_forget_quality(tmp_path: Path) -> None:
    retain = retain_results.read_reference(
        write_published(tmp_path, {"mia_min_k": 0.4, "retain_Q_A_Prob": 0.9, "x": 1})
    )
    assert retain.metrics == {"mia_min_k": 0.4, "retain_probability": 0.9}
    ours = make_unlearned()
    add_joint_metrics(ours, retain, RELATIVE_SUITE, relative=True)
    assert ours.metrics["privleak"] == pytest.approx((1 - 8 / 9 - 0.6) / 0.6 * 100)
    assert "no truth ratios" in ours.missing["forget_quality"]


def test_tofus_own_file_gives_what_its_code_makes_of_it(tmp_path: Path) -> None:
    found = retain_results.read_reference(write_published(tmp_path, TOFU_FILE))
    # A plain loop of TOFU's formulas; its ratio R is the inverse of ours.
    expected, parts = {}, []
    for name, part in TOFU_FILE.items():
        probability, ratio = [], []
        for i, ce in part["avg_gt_loss"].items():
            p, others = math.exp(-ce), [math.exp(-x) for x in part["average_perturb_loss"][i]]
            probability.append(p if "eval_log" in name else p / (p + sum(others)))
            false = sum(part["average_perturb_loss"][i]) / len(others)
            ratio.append(math.exp(false - part["avg_paraphrased_loss"][i]))
        values = {
            "probability": sum(probability) / len(probability),
            "rouge": sum(part["rougeL_recall"].values()) / len(ratio),
            "truth_ratio": sum(
                min(r, 1 / r) if "forget" in name else max(0, 1 - 1 / r) for r in ratio
            ) / len(ratio),
        }  # fmt: skip
        set_name = dict(zip(TOFU_FILE, ("retain", "real_authors", "world_facts", "forget"),
                            strict=True))[name]  # fmt: skip
        expected |= {f"{set_name}_{key}": value for key, value in values.items()}
        parts += [] if set_name == "forget" else list(values.values())
    expected["model_utility"] = hmean(parts)
    assert found.metrics == pytest.approx(expected)
    forget = [s for s in found.samples if s["set"] == "forget"]
    assert [s["index"] for s in forget] == [0, 1, 2]
    assert [s["log_truth_ratio"] for s in forget] == pytest.approx([0.5, -1.0, -1.5])
    assert [s["generation"] for s in forget] == ["answer 0", "answer 1", "answer 2"]
    ours = make_unlearned()
    add_joint_metrics(ours, found, RELATIVE_SUITE, relative=True)
    assert ours.metrics["forget_quality"] is None
    assert "n = 3" in ours.missing["forget_quality"]


def test_a_part_of_tofus_file_is_enough_and_gives_no_utility(tmp_path: Path) -> None:
    name = "eval_log_forget.json"
    found = retain_results.read_reference(write_published(tmp_path, {name: TOFU_FILE[name]}))
    assert set(found.metrics) == {"forget_probability", "forget_rouge", "forget_truth_ratio"}
    assert {s["set"] for s in found.samples} == {"forget"}
