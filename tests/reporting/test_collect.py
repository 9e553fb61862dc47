"""Run folders as records: what is found, what a sweep adds, and what broken files leave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reported import lines, read, write, write_run

from undial_cli.reporting.collect import (
    RunRecord,
    collect_runs,
    find_run_folders,
    flatten_settings,
    list_request_figures,
    make_sweep_text,
    read_jsonl_objects,
    read_object,
    read_run_record,
)


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    run = read_run_record(write_run(tmp_path / "unlearn" / "a", steps=[{"step": 1, "loss": 2.0}]))
    assert (run.status, run.seconds, run.command, run.group) == ("done", 12.5, "unlearn", "undial")
    assert run.settings["method.strength"] == 10.0
    assert run.nested["method"]["strength"] == 10.0
    assert run.figures() == {"forget_rouge": 0.3, "retain_rouge": 0.9}
    assert run.figures("reference") == {"forget_rouge": 0.4, "retain_rouge": 0.98}
    assert run.steps == [{"step": 1, "loss": 2.0}]
    assert [sample["index"] for sample in run.samples] == [0, 1, 2]
    assert run.problems == []


def test_the_parts_of_a_sequential_run_are_read_in_the_order_of_their_numbers(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path / "a", samples=[])
    for number in (10, 2, 1):
        (folder / f"request_{number}").mkdir()
        lines(folder / f"request_{number}" / "metrics.jsonl", [{"step": number}])
    assert list(read_run_record(folder).parts) == ["request 1", "request 2", "request 10"]


def test_what_cannot_be_read_is_noted_and_the_rest_is_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", samples=[])
    (folder / "run.yaml").write_text("model: {name: [")
    (folder / "environment.json").unlink()
    (folder / "evaluation" / "results.json").write_text("[1]")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n[2]\n{"step": 3}\n{"st')
    run = read_run_record(folder)
    assert run.steps == [{"step": 1}, {"step": 3}]
    assert [line.split(" (")[0] for line in run.problems] == [
        "run.yaml: cannot be read",
        "environment.json: missing",
        "evaluation/results.json: no JSON object",
        "metrics.jsonl: cut or broken at line 4; read up to there",
    ]


def test_samples_that_are_missing_are_counted(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    file = folder / "evaluation" / "samples.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    assert read_run_record(folder).problems == ["evaluation/samples.jsonl: 2 of 3 samples"]


@pytest.mark.parametrize(
    ("suite", "status", "problems"),
    [
        ("none", "done", ["eval=none: nothing was evaluated"]),
        ("demo", "done", ["evaluation/results.json: missing"]),
        ("demo", "running", []),  # it may still come
    ],
)
def test_results_are_missed_only_where_a_run_should_have_them(
    suite: str, status: str, problems: list[str], tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "a", samples=[], status=status)
    (folder / "evaluation" / "results.json").unlink()
    text = (folder / "run.yaml").read_text()
    (folder / "run.yaml").write_text(text.replace("name: demo\n  store", f"name: {suite}\n  store"))
    assert read_run_record(folder).problems == problems


def test_runs_are_looked_for_below_a_folder_but_not_in_checkpoints_or_round_a_link(
    tmp_path: Path,
) -> None:
    for name in ("b", "a", "a/checkpoint/inner", ".hidden/c", "report/d", "deep/er/e"):
        write(tmp_path / name / "status.json", {"status": "done"})
    (tmp_path / "deep" / "round").symlink_to(tmp_path)
    names = [folder.relative_to(tmp_path).as_posix() for folder in find_run_folders(tmp_path)]
    assert names == ["a", "b", "deep/er/e"]
    assert list(find_run_folders(tmp_path / "gone")) == []


def test_a_sweep_says_how_runs_ended_that_left_no_folder_or_an_unfinished_one(
    tmp_path: Path,
) -> None:
    write_run(tmp_path / "runs" / "cut", samples=[], status="running", seconds=None)
    write_run(tmp_path / "runs" / "whole", samples=[])
    entries = [
        {"label": "cut", "folder": "../runs/cut", "status": "failed", "reason": "killed\nby hand",
         "seconds": 7.0},
        {"label": "whole", "folder": "../runs/whole", "status": "failed", "reason": "not so"},
        {"label": "none", "folder": "../runs/none", "status": "refused", "reason": "no model"},
        {"label": "gone", "folder": "../runs/gone"},
        "no entry",
    ]  # fmt: skip
    write(tmp_path / "sweep" / "sweep.json", {"title": "seeds", "words": ["a=1"], "runs": entries})
    found = collect_runs([tmp_path / "sweep"])
    assert (found.title, found.words) == ("seeds", ["a=1"])
    assert [(run.label, run.status, run.reason, run.seconds) for run in found.runs] == [
        ("cut", "failed", "killed by hand", 7.0),
        ("whole", "done", "not so", 12.5),
        ("none", "refused", "no model", None),
        ("gone", "missing", "", None),
    ]


def test_the_title_is_that_of_the_sweep_the_run_or_a_count(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "a", samples=[])
    assert collect_runs([run]).title == "unlearn tiny on demo with undial"
    write_run(tmp_path / "runs" / "b", samples=[])
    assert collect_runs([tmp_path / "runs"]).title == "2 runs"
    (run / "run.yaml").unlink()
    assert collect_runs([run]).title == "a"
    for name in ("one", "two"):
        write(tmp_path / name / "sweep.json", {"title": name, "runs": []})
    assert collect_runs([tmp_path / "one", tmp_path / "two"]).title == "one, two"


def test_a_sweep_that_was_written_is_read_again(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "unlearn" / "a", samples=[])
    record = RunRecord(folder, "done", seconds=3.0, label="seed=1", values={"seed": "1"})
    text = make_sweep_text("unlearn", ["seed=0,1"], "seeds", [record], tmp_path / "sweep")
    write(tmp_path / "sweep" / "sweep.json", json.loads(text))
    assert read(tmp_path / "sweep" / "sweep.json")["runs"][0]["folder"] == "../unlearn/a"
    found = collect_runs([tmp_path / "sweep", folder])
    assert [(run.label, run.values) for run in found.runs] == [("seed=1", {"seed": "1"})]


def test_settings_are_flat_and_an_empty_mapping_is_a_leaf() -> None:
    nested = {"a": {"b": 1, "c": {"d": [2]}}, "e": {}, "f": None}
    assert dict(flatten_settings(nested)) == {"a.b": 1, "a.c.d": [2], "e": {}, "f": None}


def test_figures_after_requests_are_those_of_well_formed_ones() -> None:
    assert list_request_figures({}) == []
    assert list_request_figures({"requests": "x"}) == []
    stages = {"requests": [{"metrics": {"a": 1}}, "y", {"metrics": 3}]}
    assert list_request_figures(stages) == [{"a": 1}, {}]


def test_lines_of_text_keep_their_separators_and_bad_bytes_do_not_stop_them(
    tmp_path: Path,
) -> None:
    file = tmp_path / "samples.jsonl"
    file.write_bytes('{"a": "x\u2028y"}\n\n{"a": "'.encode() + b'\xff"}\n')
    problems: list[str] = []
    assert read_jsonl_objects(file, problems) == [{"a": "x\u2028y"}, {"a": "\ufffd"}]
    assert read_jsonl_objects(tmp_path / "gone.jsonl", problems) == []
    assert read_object(tmp_path / "gone.json") == {}
    assert problems == []
