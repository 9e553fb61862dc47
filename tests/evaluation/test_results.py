"""An evaluation on disk is the one that was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_evaluations import PARTS, make_utility

from undial_cli.evaluation import results
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.sharding import Journal


def test_notes_and_statistics_are_kept_on_disk(tmp_path: Path) -> None:
    ours = make_utility({name: PARTS[name] for name in list(PARTS)[:6]})
    ours.statistics = {"harness_piqa_acc": {"n": 20, "stderr": 0.1}}
    results.save_evaluation(tmp_path, ours, {})
    found = results.load_evaluation(tmp_path)
    assert found == ours
    assert (
        "of 9 parts"
        in json.loads((tmp_path / "results.json").read_text())["notes"]["model_utility"]
    )


def test_a_journal_whose_removal_was_interrupted_goes_when_its_whole_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path))
    ours = make_utility({name: PARTS[name] for name in list(PARTS)[:6]})

    def compute(journal: Journal) -> Evaluation:
        journal.add("scores", {0: 1.0})
        return ours

    assert results.load_or_evaluate("key", compute) == ours
    left = [file.name for file in tmp_path.glob("evaluations/*")]
    assert len(left) == 1
    Journal(tmp_path / "evaluations" / f"{left[0]}.partial").add("scores", {0: 1.0})
    assert results.load_or_evaluate("key", compute) == ours
    assert [file.name for file in tmp_path.glob("evaluations/*")] == left
