"""Results that stand for a retain model: ours, open-unlearning's and TOFU's own; what they give."""

from __future__ import annotations

import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import hmean, ks_2samp

from undial_cli.config.suites import EvalConfig, EvalSetConfig
from undial_cli.errors import UserError
from undial_cli.evaluation import reference, results
from undial_cli.evaluation.catalog import METRICS, add_joint_metrics
from undial_cli.evaluation.evidence import Evaluation, Evidence
from undial_cli.evaluation.prompts import PromptItem
from undial_cli.evaluation.scoring import Score
from undial_cli.runs.evaluation_inputs import check_helper_models

RATIOS = [0.4, 0.9, 1.7, 0.2, 3.0, 0.7, 0.3, 0.65, 1.4, 0.55]
OURS = [0.5, 0.8, 1.1, 0.9, 2.0, 0.6, 0.45, 1.3, 0.95, 1.9]


def theirs() -> dict[str, Any]:
    """A file in the layout of open-unlearning."""
    by_index = {str(i): {"score": r} for i, r in enumerate(RATIOS)}
    return {
        "forget_Q_A_Prob": {
            "agg_value": 0.25,
            "value_by_index": {"0": {"prob": 0.25, "avg_loss": math.log(4)}},
        },
        "forget_truth_ratio": {"agg_value": 0.5, "value_by_index": by_index},
        "mia_min_k": {
            "agg_value": 0.3826125,
            "auc": 0.3826125,
            "forget": {"agg_value": 1.0, "value_by_index": {"0": {"score": 1.0}}},
            "holdout": {"agg_value": 1.0, "value_by_index": {"0": {"score": 1.0}}},
        },
        "forget_quality": {"agg_value": None},
    }


def write(folder: Path, content: Any) -> str:
    file = folder / "TOFU_EVAL.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(file)


def unlearned() -> Evaluation:
    """Truth ratios of the forget set, and attack scores whose AUC is 8 / 9."""
    samples: list[dict[str, Any]] = [
        {"set": "forget", "index": i, "log_truth_ratio": math.log(r)} for i, r in enumerate(OURS)
    ]
    for name, scores in (("forget", [1, 2, 5]), ("holdout", [4, 6, 7])):
        samples += [{"set": name, "index": i, "mia_min_k": s} for i, s in enumerate(scores)]
    return Evaluation({}, samples)


SUITE = EvalConfig(
    sets={"forget": EvalSetConfig("a"), "holdout": EvalSetConfig("b")},
    metrics=["forget_quality", "privleak", "mia_min_k", "mia_reference"],
)


def test_a_published_file_gives_forget_quality_and_privleak(tmp_path: Path) -> None:
    retain = reference.read_reference(write(tmp_path, theirs()))
    ours = unlearned()
    add_joint_metrics(ours, retain, SUITE, relative=True)
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
    found = reference.read_reference(write(tmp_path, content))
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
    retain = reference.read_reference(
        write(tmp_path, {"mia_min_k": 0.4, "retain_Q_A_Prob": 0.9, "x": 1})
    )
    assert retain.metrics == {"mia_min_k": 0.4, "retain_probability": 0.9}
    ours = unlearned()
    add_joint_metrics(ours, retain, SUITE, relative=True)
    assert ours.metrics["privleak"] == pytest.approx((1 - 8 / 9 - 0.6) / 0.6 * 100)
    assert "no truth ratios" in ours.missing["forget_quality"]


def section(ce: list[float], true: list[float], false: list[list[float]]) -> dict[str, Any]:
    """A part of TOFU's own file; indices as text, out of order."""
    columns: dict[str, list[Any]] = {
        "avg_gt_loss": ce, "avg_paraphrased_loss": true, "average_perturb_loss": false,
        "rougeL_recall": [1 / (2 + i) for i in range(len(ce))],
        "generated_text": [["who?", f" answer {i} ", "truth"] for i in range(len(ce))],
        "truth_ratio": [99.0] * len(ce),
    }  # fmt: skip
    order = list(range(len(ce)))[::-1]
    return {name: {str(i): values[i] for i in order} for name, values in columns.items()}


TOFU_FILE = {
    "eval_log.json": section([0.5, 1.0], [0.7, 1.1], [[1.5, 2.0], [0.9, 1.0]]),
    "eval_real_author_wo_options.json": section([1.5], [1.5], [[1.0, 2.0, 3.0]]),
    "eval_real_world_wo_options.json": section([0.2, 0.3], [0.2, 0.3], [[1.0, 2.0], [1.0, 0.1]]),
    "eval_log_forget.json": section([2.0, 3.0, 0.1], [2.0, 1.0, 0.5], [[1.0, 2], [3, 1], [2, 2]]),
}


def test_tofus_own_file_gives_what_its_code_makes_of_it(tmp_path: Path) -> None:
    found = reference.read_reference(write(tmp_path, TOFU_FILE))
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
    ours = unlearned()
    add_joint_metrics(ours, found, SUITE, relative=True)
    assert ours.metrics["forget_quality"] is None
    assert "n = 3" in ours.missing["forget_quality"]


def test_a_part_of_tofus_file_is_enough_and_gives_no_utility(tmp_path: Path) -> None:
    name = "eval_log_forget.json"
    found = reference.read_reference(write(tmp_path, {name: TOFU_FILE[name]}))
    assert set(found.metrics) == {"forget_probability", "forget_rouge", "forget_truth_ratio"}
    assert {s["set"] for s in found.samples} == {"forget"}


def test_our_own_results_are_read_with_their_samples(tmp_path: Path) -> None:
    results.save_evaluation(tmp_path, unlearned(), {"suite": "tofu"})
    retain = reference.read_reference(str(tmp_path / "results.json"))
    ours = unlearned()
    add_joint_metrics(ours, retain, SUITE, relative=True)
    assert ours.metrics["forget_quality"] == 1.0
    assert ours.metrics["privleak"] == pytest.approx(0.0)


@pytest.mark.parametrize(
    "content, fragment",
    [
        (json.dumps(theirs())[:200], "not a whole JSON file"),
        ({"something": 1}, "allowed are results.json"),
        ([1, 2], "allowed are results.json"),
        ({"forget_truth_ratio": {"value_by_index": {"0": {"no": 1}}}}, "no score per sample"),
        ({"retain_Q_A_Prob": {"value_by_index": {"x": {"prob": 1}}}}, "no score per sample"),
        ({"wf_Q_A_ROUGE": {"value_by_index": [1, 2]}}, "no score per sample"),
        ({"eval_log_forget.json": {"avg_gt_loss": {"0": 1.0}}}, "eval_log_forget.json lacks"),
        ({"eval_log.json": {**TOFU_FILE["eval_log.json"], "avg_gt_loss": {"0": "x"}}}, "lacks a"),
        ({"metrics": {}, "samples": 4}, "samples.jsonl is not beside it"),
    ],
)
def test_a_file_that_is_no_results_is_refused_in_one_line(
    tmp_path: Path, content: Any, fragment: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        reference.read_reference(path)
    assert str(caught.value).startswith(f"eval.retain_model={path}: ")
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"eval\.retain_model=no/where\.json: no such file"):
        reference.read_reference("no/where.json")


def test_without_a_retain_model_the_relative_metrics_say_why() -> None:
    ours = unlearned()
    add_joint_metrics(ours, None, SUITE, relative=True, no_retain="the hub cannot be reached")
    assert not ours.metrics
    assert set(ours.missing) == {"forget_quality", "privleak", "mia_reference"}
    assert set(ours.missing.values()) == {"the hub cannot be reached"}


@pytest.mark.parametrize(
    ("auc", "words"), [(1.0, "undefined"), (0.999, "unstable"), (0.97, "unstable"), (0.94, "")]
)
def test_privleak_relative_to_almost_nothing_is_no_figure(auc: float, words: str) -> None:
    ours = unlearned()
    config = EvalConfig(sets=SUITE.sets, metrics=["privleak"])
    add_joint_metrics(ours, Evaluation({"mia_min_k": auc}, []), config, relative=True)
    if words:
        assert "privleak" not in ours.metrics
        assert ours.missing["privleak"].startswith(words)
        assert f"relative to {1 - auc:.3f}" in ours.missing["privleak"]
        assert "the AUC here is 0.889" in ours.missing["privleak"]
    else:
        a, a_retain = 1 - 8 / 9, 1 - auc
        assert ours.metrics["privleak"] == pytest.approx((a - a_retain) / a_retain * 100)


UTILITY = EvalConfig(
    sets={name: EvalSetConfig(name) for name in ("retain", "real_authors", "world_facts")},
    metrics=["model_utility"],
    utility=["retain", "real_authors", "world_facts"],
)
PARTS = {
    f"{name}_{part}": 0.1 * (i + 2) + 0.05 * j
    for i, name in enumerate(UTILITY.utility)
    for j, part in enumerate(("probability", "rouge", "truth_ratio"))
}


def utility_of(parts: dict[str, float]) -> Evaluation:
    ours = Evaluation(dict(parts), [])
    add_joint_metrics(ours, None, UTILITY, relative=False)
    return ours


def test_utility_of_all_parts_needs_no_word() -> None:
    ours = utility_of(PARTS)
    assert ours.metrics["model_utility"] == pytest.approx(hmean(list(PARTS.values())))
    assert not ours.notes


@pytest.mark.parametrize(
    "gone", [["world_facts_probability"], [n for n in PARTS if n.startswith("real_authors")]]
)
def test_utility_of_some_parts_says_which_it_is_without(gone: list[str]) -> None:
    parts = {name: value for name, value in PARTS.items() if name not in gone}
    ours = utility_of(parts)
    assert ours.metrics["model_utility"] == pytest.approx(hmean(list(parts.values())))
    expected = f"averages {9 - len(gone)} of 9 parts; without {', '.join(gone)}"
    assert ours.notes == {"model_utility": expected}
    assert "model_utility" not in ours.missing


def test_utility_of_no_part_is_missing() -> None:
    ours = utility_of({"forget_rouge": 0.5})
    assert not ours.notes
    assert "model_utility" not in ours.metrics
    assert "all other parts are missing" in ours.missing["model_utility"]


def test_notes_and_statistics_are_kept_on_disk(tmp_path: Path) -> None:
    ours = utility_of({name: PARTS[name] for name in list(PARTS)[:6]})
    ours.statistics = {"harness_piqa_acc": {"n": 20, "stderr": 0.1}}
    results.save_evaluation(tmp_path, ours, {})
    found = results.load_evaluation(tmp_path)
    assert found == ours
    assert (
        "of 9 parts"
        in json.loads((tmp_path / "results.json").read_text())["notes"]["model_utility"]
    )


def test_a_published_auc_stands_in_for_a_retain_model() -> None:
    ours = unlearned()
    config = EvalConfig(sets=SUITE.sets, metrics=["privleak"], retrain_auc=0.4772)
    add_joint_metrics(ours, None, config, relative=True)
    a = 1 - 8 / 9
    assert ours.metrics["privleak"] == pytest.approx((a - 0.4772) / 0.4772 * 100)


def test_a_documents_zlib_score_is_of_all_its_text() -> None:
    document = PromptItem("forget", 0, "the old ", "river", [1], document=[1, 2])
    answer = PromptItem("forget", 0, "who?", "river", [1])
    assert (document.scored, answer.scored) == ("the old river", "river")
    found = Evidence(EvalSetConfig("a"), "river", document.scored, {"answer": [Score([2.0], [])]})
    expected = 2.0 / len(zlib.compress(b"the old river"))
    assert METRICS["mia_zlib"].sample(found) == pytest.approx(expected)


@pytest.mark.parametrize(
    "path, fragment",
    [("./no/where", "no such file or folder"), ("pkg://undial_cli/nothing", "holds no 'nothing'")],
)
def test_a_helpers_path_that_is_not_there_is_refused(path: str, fragment: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"eval.oracle_model={path}")) as caught:
        check_helper_models(EvalConfig(oracle_model=path))
    assert fragment in str(caught.value)
    check_helper_models(EvalConfig(oracle_model="pkg://undial_cli/models/tiny"))
