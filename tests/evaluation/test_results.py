"""An evaluation on disk is the one that was written."""

from __future__ import annotations

import json
from pathlib import Path

from made_evaluations import PARTS, make_utility

from undial_cli.evaluation import results


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
