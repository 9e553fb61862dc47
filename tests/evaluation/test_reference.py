"""Results that stand for a retain model: ours, and open-unlearning's TOFU_EVAL.json."""

from __future__ import annotations

import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ks_2samp

from undial_cli.errors import UserError
from undial_cli.evaluation import reference, store
from undial_cli.evaluation.catalog import METRICS, Evaluation, Evidence
from undial_cli.evaluation.config import EvalConfig, EvalSetConfig
from undial_cli.evaluation.items import Item
from undial_cli.evaluation.joint import join
from undial_cli.evaluation.preparation import check_helpers
from undial_cli.evaluation.scoring import Score

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
    retain = reference.read(write(tmp_path, theirs()))
    ours = unlearned()
    join(ours, retain, SUITE, relative=True)
    expected = ks_2samp(OURS, RATIOS).pvalue  # type: ignore[attr-defined]
    assert ours.metrics["forget_quality"] == pytest.approx(expected, rel=1e-9)
    a, a_retain = 1 - 8 / 9, 1 - 0.3826125
    assert ours.metrics["privleak"] == pytest.approx((a - a_retain) / a_retain * 100)
    assert "losses" in ours.missing["mia_reference"]
    assert retain.metrics == pytest.approx(
        {"forget_probability": 0.25, "forget_truth_ratio": 0.5, "mia_min_k": 0.3826125}
    )


def test_our_own_results_are_read_with_their_samples(tmp_path: Path) -> None:
    store.save(tmp_path, unlearned(), {"suite": "tofu"})
    retain = reference.read(str(tmp_path / "results.json"))
    ours = unlearned()
    join(ours, retain, SUITE, relative=True)
    assert ours.metrics["forget_quality"] == 1.0
    assert ours.metrics["privleak"] == pytest.approx(0.0)


@pytest.mark.parametrize(
    "content, fragment",
    [
        (json.dumps(theirs())[:200], "not a whole JSON file"),
        ({"something": 1}, "allowed are results.json"),
        ([1, 2], "allowed are results.json"),
        ({"forget_truth_ratio": {"value_by_index": {"0": {"no": 1}}}}, "no score per sample"),
        ({"metrics": {}, "samples": 4}, "samples.jsonl is not beside it"),
    ],
)
def test_a_file_that_is_no_results_is_refused_in_one_line(
    tmp_path: Path, content: Any, fragment: str
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        reference.read(path)
    assert str(caught.value).startswith(f"eval.retain_model={path}: ")
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(UserError, match=r"eval\.retain_model=no/where\.json: no such file"):
        reference.read("no/where.json")


def test_without_a_retain_model_the_relative_metrics_say_why() -> None:
    ours = unlearned()
    join(ours, None, SUITE, relative=True, no_retain="the hub cannot be reached")
    assert not ours.metrics
    assert set(ours.missing) == {"forget_quality", "privleak", "mia_reference"}
    assert set(ours.missing.values()) == {"the hub cannot be reached"}


def test_a_published_auc_stands_in_for_a_retain_model() -> None:
    ours = unlearned()
    config = EvalConfig(sets=SUITE.sets, metrics=["privleak"], retrain_auc=0.4772)
    join(ours, None, config, relative=True)
    a = 1 - 8 / 9
    assert ours.metrics["privleak"] == pytest.approx((a - 0.4772) / 0.4772 * 100)


def test_a_documents_zlib_score_is_of_all_its_text() -> None:
    document = Item("forget", 0, "the old ", "river", [1], document=[1, 2])
    answer = Item("forget", 0, "who?", "river", [1])
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
        check_helpers(EvalConfig(oracle_model=path))
    assert fragment in str(caught.value)
    check_helpers(EvalConfig(oracle_model="pkg://undial_cli/assets/tiny"))
