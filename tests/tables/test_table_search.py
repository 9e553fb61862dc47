"""A table's search: a grid of runs for every line, and the runs with what was found best."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import HURRIED
from made_tables import asked_of, fail, finish, reproduced, write_table

from undial_cli.errors import UserError
from undial_cli.tables import command, render, runs, search
from undial_cli.tables.figures import fill_table

RATES = ["1e-5", "1e-4", "1e-3"]
TABLE = """
title: A searched table
overrides: [train.max_steps=4, train.eval_steps=2, train.select=nearest_retain]
seeds: [3, 4]
search:
  grid: {train.learning_rate: [1e-5, 1e-4, 1e-3]}
  overrides: [eval.max_new_tokens=8]
columns:
  - {name: forget, metric: [forget_rouge], better: lower}
rows:
  - {label: target, of: target}
  - {label: undial, overrides: [method=undial]}
  - {label: ga, overrides: [method=ga, train.learning_rate=5e-5]}
"""


def composed(folder: Path, words: list[str], text: str = TABLE) -> Any:
    """A table with its searches and its runs as they are composed before anything is run."""
    asked = asked_of(text, folder)
    lines = runs.list_table_lines(asked.table, asked.rows)
    searches = search.compose_table_searches(asked, lines, words, None)
    settings = search.choose_settings(searches)
    return asked, lines, searches, runs.compose_table_runs(asked, lines, words, None, settings)


def selected(figure: float | None, keeps: bool = True, utility: float = 0.9) -> dict[str, Any]:
    """What results.json says of weights that nearest_retain chose."""
    of_rule = {"select": "nearest_retain", "direction": "minimize"}
    return {"selection": {**of_rule, "figure": figure, "keeps_utility": keeps, "utility": utility}}


def test_each_line_is_tried_at_every_point_of_the_grid_with_the_first_seed(tmp_path: Path) -> None:
    _, _, searches, found = composed(tmp_path, [])
    (one,) = searches  # ga sets its own rate
    assert [entry.run.train.learning_rate for entry in one.runs] == [1e-5, 1e-4, 1e-3]
    assert {entry.seed for entry in one.runs} == {3}
    assert {entry.run.eval.max_new_tokens for entry in one.runs} == {8}
    assert {entry.run.train.learning_rate for entry in found if entry.line.row.label == "ga"} == {
        5e-5
    }
    assert all(entry.run.eval.max_new_tokens != 8 for entry in found)


def test_a_key_of_the_command_line_is_not_searched(tmp_path: Path) -> None:
    _, _, searches, found = composed(tmp_path, ["train.learning_rate=2e-4"])
    assert searches == []
    assert {entry.run.train.learning_rate for entry in found} == {2e-4}


@pytest.mark.parametrize(
    ("outcomes", "best"),
    [
        ([selected(0.3), selected(0.1), selected(0.2)], 1),
        ([selected(0.3), selected(0.1, keeps=False), selected(0.2)], 2),  # too little is kept
        ([selected(0.3, False, 0.4), selected(0.1, False, 0.6), selected(0.2, False, 0.5)], 1),
        ([selected(0.2), selected(0.2), selected(0.3)], 0),  # of equal ones the first
        ([None, selected(0.4), selected(None)], 1),  # one failed, one has no figure
        ([None, None, None], None),
    ],
)
def test_the_nearest_that_keeps_its_utility_gives_the_settings(
    tmp_path: Path, outcomes: list[Any], best: int | None
) -> None:
    asked, lines, (one,), _ = composed(tmp_path, [])
    assert one.find_best() is None  # nothing has been run
    for entry, results in zip(one.runs, outcomes, strict=True):
        finish(entry, {}, **results) if results else fail(entry, "diverged")
        entry.read_status()
    assert one.find_best() == best
    found = runs.compose_table_runs(asked, lines, [], None, search.choose_settings([one]))
    failed = search.fail_unsearched_runs([one], found)
    of_undial = [entry for entry in found if entry.line.row.label == "undial"]
    if best is None:
        assert [entry.seed for entry in failed] == [3, 4]
        assert {entry.status for entry in of_undial} == {"failed"}
    else:
        assert {entry.run.train.learning_rate for entry in of_undial} == {float(RATES[best])}
        assert failed == []


def test_what_was_tried_is_said_and_kept(tmp_path: Path) -> None:
    asked, lines, (one,), _ = composed(tmp_path, [])
    for entry, figure in zip(one.runs, (0.3, 0.1, 0.2), strict=True):
        finish(entry, {}, **selected(figure))
        entry.read_status()
    filled = fill_table(asked.table, "small", lines, [], [one])
    (note,) = [text for _, text in render.list_table_notes(filled) if "best of" in text]
    assert note.startswith("undial, train.learning_rate=0.0001: the best of")
    assert "train.learning_rate=1e-05 (nearest_retain 0.3)" in note
    render.write_table_files(filled, tmp_path / "table", [])
    with open(tmp_path / "table" / "search.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["figure"], row["chosen"]) for row in rows] == [
        ("0.3", "false"), ("0.1", "true"), ("0.2", "false"),
    ]  # fmt: skip


def test_a_search_without_a_rule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"table.search: undial.*needs train.select"):
        composed(tmp_path, [], TABLE.replace(", train.select=nearest_retain", ""))


@pytest.mark.slow
def test_the_command_searches_then_runs_and_does_neither_twice(tmp_path: Path) -> None:
    text = f"""
title: A searched table
overrides:
{"".join(f"  - {word}" + chr(10) for word in (*HURRIED, "train.max_steps=4", "train.eval_steps=2"))}
  - train.select=forget_probability
search:
  grid: {{train.learning_rate: [1e-4, 1e-3]}}
columns:
  - {{name: forget, metric: [forget_probability]}}
rows:
  - {{label: undial, overrides: [method=undial]}}
"""
    words = [*write_table(tmp_path / "my", text), f"output_dir={tmp_path}"]
    code, _ = reproduced(words)
    assert code == 0
    folders = sorted((tmp_path / "unlearn").iterdir())
    # the best run of the search is the table's run of that seed
    assert len(folders) == 2
    figures = {
        folder: json.loads((folder / "evaluation" / "results.json").read_text())["selection"]
        for folder in folders
    }
    best = min(folders, key=lambda folder: figures[folder]["figure"])
    content = json.loads((tmp_path / "reproduce" / "small" / "sweep.json").read_text())
    assert [Path(run["folder"]).name for run in content["runs"]] == [best.name]
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "unlearn").rglob("*.json")}
    assert command.run_reproduce_command(words) == 0
    assert before == {f: f.stat().st_mtime_ns for f in (tmp_path / "unlearn").rglob("*.json")}
