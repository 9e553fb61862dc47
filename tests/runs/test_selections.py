"""What of a run's rows is held apart to choose by, and who reads which part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import prepare, refused

from undial_cli.config.schema import UnlearnRun
from undial_cli.runs.audits import collect_audit_data
from undial_cli.runs.compose import compose_run
from undial_cli.runs.inputs import RunInputs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(random_model: Path) -> tuple[UnlearnRun, RunInputs]:
    """A run on the demo that chooses its weights, and what it reads."""
    return prepare_words(random_model, "train.select_share=0.5")


def prepare_words(model: Path, *words: str) -> tuple[Any, Any]:
    known = [f"model.path={model}", f"eval.retain_model={model}", "train.eval_steps=2"]
    run = compose_run("unlearn", [*known, "train.select=nearest_retain", "audit=quick", *words])
    return run, prepare(run)


def test_both_parts_together_are_what_a_run_without_a_choice_reads(
    prepared: tuple[UnlearnRun, RunInputs], random_model: Path
) -> None:
    _, inputs = prepared
    _, plain = prepare_words(random_model, "train.select=null", "train.select_share=0.25")
    assert plain.apart is None
    assert plain.fingerprint == inputs.fingerprint
    assert inputs.apart is not None
    for name, items in plain.suite.items.items():
        parts = [suite.items[name] for suite in (inputs.apart.suite, inputs.suite)]
        together = sorted((item.index, item.prompt) for part in parts for item in part)
        assert together == [(item.index, item.prompt) for item in items]
    (note,) = [line for line in inputs.notes if line.startswith("train.select:")]
    assert "forget 10 of 20 rows (1 of 2 subjects)" in note


def test_an_audit_asks_the_rows_that_are_reported(
    prepared: tuple[UnlearnRun, RunInputs],
) -> None:
    run, inputs = prepared
    run.audit.rows = None
    data = collect_audit_data(run, inputs)
    assert inputs.divided is not None
    assert set(data.numbers) == inputs.divided.sets["forget"].reported
    rows = inputs.suite.rows["forget"].rows
    assert data.rows == [rows[number] for number in data.numbers]
    reported = inputs.divided.sets["holdout"].reported
    assert len(data.holdout_rows) == len(reported) == 10


def test_a_set_that_is_read_and_cannot_be_divided_is_refused(random_model: Path) -> None:
    words = ["train.select=facts_probability", "eval.sets.facts.split=facts[:1]"]
    refused(
        lambda: prepare_words(random_model, *words),
        "train.select=facts_probability: the set 'facts' cannot be read: it has too few rows",
    )
    _, inputs = prepare_words(random_model, *words[1:])  # where it is not read, it is reported
    assert "facts" in inputs.suite.items


def test_a_figure_that_is_relative_to_a_retain_model_needs_one(random_model: Path) -> None:
    without = "eval.retain_model=none"
    for select in ("nearest_retain", "(forget_quality + model_utility) / 2"):
        refused(
            lambda select=select: prepare_words(random_model, f"train.select={select}", without),
            f"train.select={select}: needs a retain model; eval.retain_model=none",
        )
    prepare_words(random_model, "train.select=most_forgotten", without)
