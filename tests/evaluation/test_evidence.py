"""Values that are not finite are counted, and no figure is made of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from made_evaluations import SUITE, make_evaluation

from undial_cli.evaluation import results as store
from undial_cli.evaluation.evidence import replace_nonfinite
from undial_cli.evaluation.suite_metrics import add_joint_metrics


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_counted_and_nulls_what_is_made_of_it(
    bad: float, tmp_path: Path
) -> None:
    samples = replace_nonfinite({"probability": bad, "log_truth_ratio": bad, "mia_min_k": bad})
    ours, theirs = make_evaluation(1, **samples), make_evaluation(2)
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
