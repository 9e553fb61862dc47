"""`undial list` of runs and of the cache; `undial compare` of settings and figures."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from undial_cli.cli import run_command
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.results import save_evaluation
from undial_cli.reporting.collect import make_sweep_text, read_run_record
from undial_cli.runs.known_runs import remember_run
from undial_cli.runs.run_folder import RunFolder
from undial_cli.system.files import cache_dir
from undial_cli.system.private_files import keep_ledgers, note_private

SHIFT = 0.125


@pytest.fixture(autouse=True)
def private_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache and a working folder of the test's own."""
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write(file: Path, size: int, days: float = 0) -> Path:
    """A file of so many bytes, that old."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
    then = time.time() - days * 86400
    os.utime(file, (then, then))
    return file


def make_run(folder: Path, shift: float = 0.0, rows: int = 12, **settings: Any) -> Path:
    """A finished run: probabilities of a forget set, spread over 0 to 0.5, and shifted."""
    figures = [row / rows / 2 + shift for row in range(rows)]
    samples = [
        {"set": "forget", "index": row, "probability": figure} for row, figure in enumerate(figures)
    ]
    metrics: dict[str, float | None] = {
        "forget_probability": sum(figures) / rows,
        "forget_quality": 0.5,
    }
    suite = {"name": "s", "sets": {"forget": {"split": "f", "metrics": ["probability"]}}}
    content = {"command": "unlearn", "eval": suite, "seed": 0, "name": folder.name} | settings
    save_evaluation(
        folder / "evaluation",
        Evaluation(metrics, samples),
        {"target": {}, "reference": {}, "verdict": {"word": "forgotten", "reason": "so"}},
    )
    (folder / "run.yaml").write_text(yaml.safe_dump(content))
    (folder / "status.json").write_text(json.dumps({"status": "done", "seconds": 7}))
    files = [{"path": "evaluation/samples.jsonl"}]
    (folder / "evidence.json").write_text(json.dumps({"sources": [], "files": files}))
    remember_run(RunFolder(folder))
    return folder


def list_json(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert run_command(["list", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_cache_is_listed_with_sizes_ages_users_and_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "outputs" / "unlearn" / "run")
    used = write(cache_dir() / "teacher" / "ab" / "hidden.bin", 3000, days=3)
    with keep_ledgers([run / "private_files.txt"]):
        note_private(used)
    write(cache_dir() / "teacher" / "cd" / "hidden.bin", 500_000, days=40)
    write(cache_dir() / "gguf" / "some-model" / "model.safetensors", 2_000_000)
    write(cache_dir() / "models" / "finetune" / "half" / "weights", 10)
    write(cache_dir() / "evaluations" / "ef" / "samples.jsonl", 100, days=2)
    write(cache_dir() / "evaluations" / ".ef.lock", 1)
    entries = {
        Path(entry.get("path") or entry["folder"]).name: entry for entry in list_json(capsys)
    }
    assert set(entries) == {"run", "ab", "cd", "some-model", "half", "ef"}
    assert entries["ab"] | {
        "kind": "teacher", "bytes": 3000, "used_by": [str(run)], "remove": f"undial purge {run}",
    } == entries["ab"]  # fmt: skip
    assert entries["cd"]["used_by"] == []
    assert entries["cd"]["remove"].startswith("undial purge --older-than")
    assert entries["some-model"]["remove"].startswith("rm -r ")
    assert run_command(["list"]) == 0
    said = capsys.readouterr().out
    rows = [[c.strip() for c in line.split("│")[1:-1]] for line in said.splitlines() if "│" in line]
    assert next(row[:5] for row in rows if "teacher/cd" in row) == [
        "the teacher's signal",
        "teacher/cd",
        "0.50 MB",
        "40 d",
        "0",
    ]
    assert next(row[:5] for row in rows if row[0] == "cached evaluation") == [
        "cached evaluation",
        "evaluations/ (1, of no run: 1)",
        "0.00 MB",
        "2 d",
        "0",
    ]
    assert [row[2] for row in rows if row[0] == "total"][-1] == "2.50 MB"
    assert run_command(["purge", str(run)]) == 0
    assert run_command(["purge", "--older-than=30d"]) == 0
    assert {e["kind"] for e in list_json(capsys)} == {"run", "gguf", "models", "evaluations"}
    assert [e["kind"] for e in list_json(capsys, str(run))] == ["run"]


def test_runs_are_listed_newest_first_and_added_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(["new", "old"]):
        run = make_run(tmp_path / "outputs" / name)
        write(run / "checkpoint" / "weights", 1_000_000)
        for file in run.rglob("*"):
            then = time.time() - number * 10 * 86400
            os.utime(file, (then, then))
    model = make_run(cache_dir() / "models" / "finetune" / "made")
    listed = list_json(capsys)
    assert [Path(run["folder"]).name for run in listed if run["kind"] == "run"] == ["new", "old"]
    assert [run["folder"] for run in listed if run["kind"] == "model"] == [str(model)]
    assert run_command(["list"]) == 0
    said = capsys.readouterr().out
    assert "10 d" in said
    (total,) = (line for line in said.splitlines() if "total" in line)
    assert "2.00 MB" in total


def test_runs_are_compared_by_settings_and_paired_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", SHIFT, seed=1, method={"name": "npo"})
    make_run(tmp_path / "c", SHIFT, rows=8)
    assert run_command(["compare", "a", "b", "c", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["settings"] == {"seed": [0, 1, 0], "method.name": [None, "npo", None]}
    assert [run["verdict"] for run in content["runs"]] == ["forgotten"] * 3
    paired, other_rows = (each["forget_probability"] for each in content["differences"])
    # Each row is shifted alike: paired, the difference has no spread, however far the rows spread.
    assert paired["difference"] == pytest.approx(SHIFT)
    assert paired["interval"] == pytest.approx([SHIFT, SHIFT])
    assert other_rows["interval"] is None
    assert run_command(["compare", "a", "b", "c"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "b − a" in said
    assert "+0.125 [0.125, 0.125]" in said
    assert "c − a: no intervals" in said
    assert "7.0 s" in said


def test_the_folder_of_a_sweep_stands_for_its_runs_but_not_where_files_are_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [make_run(tmp_path / "runs" / "a"), make_run(tmp_path / "runs" / "b", SHIFT)]
    records = [*map(read_run_record, folders), read_run_record(tmp_path / "runs" / "never_begun")]
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / "sweep.json").write_text(make_sweep_text("unlearn", [], "two", records, sweep))
    assert run_command(["compare", "sweep"]) == 0
    assert "+0.125" in capsys.readouterr().out
    assert {Path(run["folder"]).name for run in list_json(capsys, "sweep")} == {"a", "b"}
    assert run_command(["purge", "sweep"]) == 2
    assert "this sweep's lie in" in capsys.readouterr().err
    assert (folders[0] / "evaluation" / "samples.jsonl").exists()
    for damage in ("", "[]", '{"runs": 5}', '{"runs": [5, {"folder": 5}]}'):
        (sweep / "sweep.json").write_text(damage)
        assert run_command(["compare", "sweep"]) == 2
        assert "there are no runs" in capsys.readouterr().err


def test_without_samples_the_figures_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        make_run(tmp_path / name / "same", SHIFT if name == "two" else 0)
        (tmp_path / name / "same" / "evaluation" / "samples.jsonl").unlink()
    assert run_command(["compare", "one/same", "two"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "one/same" in said  # two of one name are called by their paths
    assert "no setting that figures depend on differs" in said
    assert "+0.125" in said
    assert "[" not in said.partition("forget_probability")[2].partition("forget_quality")[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["compare"], "expected two runs or more"),
        (["compare", "a"], "got 1"),
        (["compare", "a", "a/run.yaml"], "got 1"),
        (["compare", "a", "nosuch"], "compare nosuch: no such folder"),
        (["compare", "a", "empty"], "compare empty: there are no runs"),
        (["compare", "a", "--jsn"], "did you mean '--json'"),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    assert run_command(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said
