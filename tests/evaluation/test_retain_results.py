"""Results that stand for a retain model: ours, open-unlearning's and TOFU's own; what they give."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_evaluations import (
    RELATIVE_SUITE,
    TOFU_FILE,
    make_open_unlearning_file,
    make_unlearned,
    write_published,
)

from undial_cli.config.suites import EvalConfig
from undial_cli.errors import UserError
from undial_cli.evaluation import results, retain_results
from undial_cli.evaluation.suite_metrics import add_joint_metrics
from undial_cli.runs.evaluation_inputs import check_helper_models


def test_our_own_results_are_read_with_their_samples(tmp_path: Path) -> None:
    results.save_evaluation(tmp_path, make_unlearned(), {"suite": "tofu"})
    retain = retain_results.read_reference(str(tmp_path / "results.json"))
    ours = make_unlearned()
    add_joint_metrics(ours, retain, RELATIVE_SUITE, relative=True)
    assert ours.metrics["forget_quality"] == 1.0
    assert ours.metrics["privleak"] == pytest.approx(0.0)


@pytest.mark.parametrize(
    "content, fragment",
    [
        (json.dumps(make_open_unlearning_file())[:200], "not a whole JSON file"),
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
    path = write_published(tmp_path, content)
    with pytest.raises(UserError) as caught:
        retain_results.read_reference(path)
    assert str(caught.value).startswith(f"eval.retain_model={path}: ")
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"eval\.retain_model=no/where\.json: no such file"):
        retain_results.read_reference("no/where.json")


@pytest.mark.parametrize(
    "path, fragment",
    [("./no/where", "no such file or folder"), ("pkg://undial_cli/nothing", "holds no 'nothing'")],
)
def test_a_helpers_path_that_is_not_there_is_refused(path: str, fragment: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"eval.oracle_model={path}")) as caught:
        check_helper_models(EvalConfig(oracle_model=path))
    assert fragment in str(caught.value)
    check_helper_models(EvalConfig(oracle_model="pkg://undial_cli/models/tiny"))
