"""The closing summary of a run: its files, and what the screen says."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from reported import read, sample, write, write_run

from undial_cli.reporting import notes, summary
from undial_cli.reporting.collect import RunRecord
from undial_cli.runs.compose import compose_run


def folder_of(tmp_path: Path, **results: Any) -> Path:
    """An evaluated run's folder; `results` goes over its results.json."""
    folder = write_run(tmp_path / "run")
    content = read(folder / "evaluation" / "results.json")
    write(folder / "evaluation" / "results.json", {**content, **results})
    return folder


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_the_files_hold_the_figures_under_their_names(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    summary.write_summary(compose_run("unlearn", []), folder)
    page = (folder / "report" / "summary.md").read_text()
    assert page.startswith("# unlearn: tiny on demo\n")
    assert "| `forget_rouge` | 1.000 | 0.300 | 0.400 | −0.100 |" in page
    assert "said 0" in page
    with open(folder / "report" / "summary.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["metric", "before", "after", "retain model"],
        ["forget_rouge", "1.0", "0.3", "0.4"],
        ["retain_rouge", "0.99", "0.9", "0.98"],
    ]


def test_where_nothing_was_evaluated_no_summary_is_written_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = compose_run("unlearn", [])
    summary.write_summary(run, tmp_path)
    assert not list(tmp_path.iterdir())
    summary.show_summary(run, tmp_path)
    assert said(capsys).startswith("done, without evaluation:")


def test_the_screen_shows_the_table_three_questions_and_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "run", samples=[sample(n) for n in range(9)])
    summary.show_summary(compose_run("unlearn", []), folder)
    text = said(capsys)
    assert "│ forget_rouge │ 1.000 │ 0.300 │ 0.400 │" in text
    assert [n for n in range(9) if f"forget: question {n}" in text] == [0, 3, 6]
    assert "before: answer 0" in text
    assert "after: said 0" in text
    assert "everything is in" in text


def test_what_must_be_known_is_said_below_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(
        tmp_path,
        reference={},
        missing={"privleak": "no retain model"},
        damaged=["retain_rouge fell"],
        statistics={"forget_rouge": {"n": 3}},
        rows={"forget": {"read": 3, "scored": 2}},
    )
    summary.show_summary(compose_run("unlearn", []), folder)
    text = said(capsys)
    for part in (
        "damaged: retain_rouge fell",
        "0.300*",
        "* too little to conclude from",
        "(eval.intervals=true shows them)",
        "privleak: no retain model",
        "forget: 3 rows read, 2 scored",
        "no retain model: whether the model now behaves",
    ):
        assert part in text


def test_intervals_stand_below_their_figures_when_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(
        tmp_path, statistics={"forget_rouge": {"n": 40, "subjects": 8, "interval": [0.2, 0.4]}}
    )
    summary.show_summary(compose_run("unlearn", ["eval.intervals=true"]), folder)
    text = said(capsys)
    assert "[0.2, 0.4]" in text
    assert "┃ n ┃" in text
    assert "(8 subjects)" in text


def test_an_evaluated_model_has_its_difference_to_the_retain_model_and_no_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = compose_run("evaluate", [f"model.path={tmp_path}"])
    summary.show_summary(run, folder_of(tmp_path))
    text = said(capsys)
    assert "difference" in text
    assert "-0.100" in text
    assert "question 0" not in text


def test_text_of_samples_stays_out_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[bool] = []
    monkeypatch.setattr(summary.ui, "say", lambda *args, log=True: logged.append(log))
    summary.show_sample(sample(0))
    assert logged == [False]


def record(label: str, **figures: float) -> RunRecord:
    results = {"metrics": figures, "target": {"forget_rouge": 1.0}}
    return RunRecord(Path(label), "done", label=label, results=results)


def test_a_sweep_shows_its_main_metrics_and_the_shared_target_above() -> None:
    runs = [record("a", forget_rouge=0.25, odd=1.0), record("b", forget_rouge=0.5)]
    runs[1].status = "failed: NaN"
    table = summary.make_sweep_table(runs, "seeds")
    shown = [list(map(str, column.cells)) for column in table.columns]
    assert [str(column.header) for column in table.columns] == ["run", "status", "forget rouge"]
    assert shown[0] == ["target", "a", "b"]
    assert shown[1] == ["", "done", "failed: NaN"]
    assert shown[2] == ["1.000", "0.250", "0.500"]
    runs[0].results["verdict"] = {"word": "forgotten", "reason": "x"}
    columns = summary.make_sweep_table(runs, "seeds").columns
    assert str(columns[2].header) == "verdict"
    assert list(map(str, columns[2].cells)) == ["", "forgotten", ""]


def test_a_note_for_the_screen_begins_small_and_has_no_full_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary.show_summary(compose_run("unlearn", []), folder_of(tmp_path, reference={}))
    note = notes.NO_RETAIN_NOTE
    assert f"{note[0].lower()}{note[1:-1]} everything is in" in said(capsys)
