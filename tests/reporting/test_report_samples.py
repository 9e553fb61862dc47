"""Samples packed for the page: every text once, chosen scores, and no more rows than it bears."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reported import sample

from undial_cli.reporting import samples
from undial_cli.reporting.collect import RunRecord


def run(label: str, rows: list[dict[str, Any]], command: str = "unlearn") -> RunRecord:
    settings = {"command": command}
    return RunRecord(Path(label), label=label, settings=settings, samples=rows)


def test_a_text_that_occurs_in_many_runs_is_stored_once() -> None:
    packed = samples.pack_samples([run("a", [sample(1)]), run("b", [sample(1)])])
    assert packed["texts"] == ["question 1", "answer 1", "said 1", "other 1"]
    assert packed["columns"] == ["prompt", "reference", "before", "after", "retain model"]
    for entry in packed["runs"]:
        ((_, index, texts, *_),) = entry["rows"]
        assert (index, texts) == (1, [0, 1, 1, 2, 3])


def test_a_row_has_its_scores_after_before_and_of_the_retain_model() -> None:
    packed = samples.pack_samples([run("a", [sample(2, "retain", probability=0.1234567)])])
    assert packed["scores"] == ["answer probability", "log truth ratio"]
    ((set_number, *_, after, before, retain),) = packed["runs"][0]["rows"]
    assert packed["sets"][set_number] == "retain"
    assert (after, before, retain) == ([0.12346, -0.3], [0.9, -1.0], [0.1, 0.6])


def test_the_usual_scores_come_first_and_parts_of_others_are_left_out() -> None:
    unusual = {"zeal": 1.0, "yarn": 1.0, "xeno": 2.0, "count": 3}
    parts = {"mia_loss": 2.0, "answer_ce": 1.0, "target_rouge": 1.0}
    rows = [{"set": "forget", **unusual, **parts, "rouge": 0.5, "probability": 0.5}]
    assert samples.choose_score_names([run("a", rows)]) == ["probability", "rouge", "zeal", "yarn"]


@pytest.mark.parametrize(
    ("command", "titles"),
    [("unlearn", ["before", "after"]), ("evaluate", ["target", "generation"])],
)
def test_where_nothing_was_trained_there_is_no_before_and_after(
    command: str, titles: list[str]
) -> None:
    rows = [{"set": "forget", "generation": "a", "target_generation": "b"}]
    assert samples.pack_samples([run("a", rows, command)])["columns"] == titles


def test_rows_beyond_what_a_page_bears_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_SAMPLE_ROWS", 6)
    many = [run(label, [sample(n) for n in range(5)]) for label in "ab"]
    packed = samples.pack_samples([*many, run("none", [])])
    assert [(e["label"], e["left_out"], len(e["rows"])) for e in packed["runs"]] == [
        ("a", 2, 3), ("b", 2, 3),
    ]  # fmt: skip


def test_odd_indices_and_scores_become_null() -> None:
    rows = [{"set": 3, "index": [1], "rouge": 0.5}, {"set": 3, "index": "x", "rouge": "much"}]
    packed = samples.pack_samples([run("a", rows)])
    assert packed["sets"] == ["3"]
    assert [row[1:4] for row in packed["runs"][0]["rows"]] == [[None, [], [0.5]], ["x", [], [None]]]
