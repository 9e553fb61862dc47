"""What `undial purge` removes, what it leaves and says of it; what `undial list` knows."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from undial_cli import ui
from undial_cli.cli import run_command
from undial_cli.config.schema import EvaluateRun
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.results import load_or_evaluate, locate_cached_parts
from undial_cli.evaluation.sharding import Journal
from undial_cli.reporting.report import write_report
from undial_cli.runs.evidence import list_private_files, settle_ledgers
from undial_cli.runs.known_runs import remember_run
from undial_cli.runs.run_folder import RunFolder
from undial_cli.runs.running import is_shown_anew, record_failure
from undial_cli.system.files import cache_dir, write_whole_text
from undial_cli.system.locks import hold_lock
from undial_cli.system.private_files import keep_ledgers, note_private, read_paths

SECRET = "Zyxomma was born in Quill"  # pragma: allowlist secret
DATA = "the data themselves"


@pytest.fixture(autouse=True)
def own_world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache and a working folder of the test's own."""
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write(file: Path, content: Any = SECRET) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def make_done_run(folder: Path, *cached: str) -> Path:
    """A run that is done, as it leaves its folder; `cached`: its files in the cache."""
    kept = ["checkpoint/model.safetensors", "metrics.jsonl"]
    results = {"metrics": {"forget_rouge": 0.3}, "samples": 1, "target": {}, "reference": {}}
    write(folder / "run.yaml", "command: unlearn\neval: {name: demo}\nmodel: {name: tiny}\n")
    write(folder / "status.json", {"status": "done"})
    write(folder / "evaluation" / "results.json", results | {"missing": {}})
    for name in kept:
        write(folder / name, "{}")
    samples = {"set": "forget", "index": 0, "prompt": SECRET, "reference": SECRET}
    write(folder / "evaluation" / "samples.jsonl", samples)
    source = write(folder.parent / "forget.jsonl")
    write(
        folder / "evidence.json",
        {
            "sources": [{"path": str(source)}],
            "sent": [{"to": "http://judge", "what": "answers"}],
            "files": [{"path": "evaluation/samples.jsonl"}],
        },
    )
    paths = [write(cache_dir() / name) for name in cached]
    with keep_ledgers([folder / "private_files.txt"]):
        for path in paths:
            note_private(path)
    remember_run(RunFolder(folder))
    return folder


def read_evidence(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evidence.json").read_text())


def list_left(folder: Path) -> dict[str, str]:
    return {entry["what"]: entry["why"] for entry in read_evidence(folder)["purged"][-1]["left"]}


def find_secret(root: Path) -> list[str]:
    """The files that hold the secret, relative."""
    files = (file for file in root.rglob("*") if file.is_file())
    return sorted(str(f.relative_to(root)) for f in files if SECRET.encode() in f.read_bytes())


def test_text_goes_and_figures_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_done_run(tmp_path / "run", "evaluations/ab/samples.jsonl", "audits/cd.json")
    write(cache_dir() / "evaluations" / "ab" / "results.json", "{}")
    before = {f: f.read_bytes() for f in run.rglob("*") if f.name != "evidence.json"
              and f.is_file() and f.name not in ("samples.jsonl", "private_files.txt")}  # fmt: skip
    assert run_command(["purge", "run", "--dry-run"]) == 0
    assert "would purge" in capsys.readouterr().out
    assert len(find_secret(tmp_path)) == 4
    assert run_command(["purge", "run"]) == 0
    assert find_secret(tmp_path) == ["forget.jsonl"]
    assert all(file.read_bytes() == content for file, content in before.items())
    assert not (cache_dir() / "evaluations" / "ab").exists()  # as a whole: no damaged entry
    (purge,) = read_evidence(run)["purged"]
    assert {entry["path"] for entry in purge["removed"]} == {
        "evaluation/samples.jsonl", *(str(cache_dir() / name) for name in (
            "evaluations/ab/samples.jsonl", "audits/cd.json"))
    }  # fmt: skip
    left = list_left(run)
    assert left.pop(str(tmp_path / "forget.jsonl")) == DATA
    assert left.pop("answers, sent to http://judge") == "sent away"
    assert ["backups" in name for name in left] == [True]
    assert run_command(["purge", "run"]) == 0
    assert "nothing to purge" in capsys.readouterr().out
    assert len(read_evidence(run)["purged"]) == 1


def test_a_purged_run_is_listed_and_reported_without_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_done_run(tmp_path / "run")
    page = write_report([run], tmp_path / "elsewhere")
    settle_ledgers([run])
    assert str(page) in {entry["path"] for entry in read_evidence(run)["files"]}
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert run_command(["list", "run", "--json"]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert listed["text_bytes"] > 1000
    assert listed["status"] == "done"
    assert listed["purged"] is None
    assert run_command(["purge", "run"]) == 0
    assert find_secret(tmp_path) == ["forget.jsonl"]
    capsys.readouterr()
    assert run_command(["report", "run"]) == 0
    text = (run / "report" / "report.md").read_text()
    assert "removed by undial purge" in text
    assert "0.3" in text
    assert run_command(["list", "--json"]) == 0
    assert list_private_files(RunFolder(run)) == []
    (listed,) = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert (listed["text_bytes"], listed["status"]) == (0, "done")
    assert listed["purged"] == read_evidence(run)["purged"][0]["at"]


def test_what_another_run_needs_is_left_and_the_run_is_named(tmp_path: Path) -> None:
    entry = "evaluations/ab/samples.jsonl"
    one, other = (make_done_run(tmp_path / name / "run", entry) for name in "ab")
    assert run_command(["purge", str(one)]) == 0
    assert (cache_dir() / entry).is_file()
    assert list_left(one)[str(cache_dir() / entry)] == f"shared with {other}"
    assert run_command(["purge", str(one), str(other)]) == 0
    assert find_secret(tmp_path) == ["a/forget.jsonl", "b/forget.jsonl"]


def test_an_evidence_of_somebody_else_gives_no_orders(tmp_path: Path) -> None:
    run = make_done_run(tmp_path / "run")
    foreign = [write(tmp_path / "home" / "letter.txt"), write(tmp_path / "home" / "report.md")]
    (run / "audit").symlink_to(tmp_path / "home")
    names = ["checkpoint/model.safetensors", "evaluation/results.json", "run.yaml",
             "../home/letter.txt", "audit/letter.txt", *map(str, foreign)]  # fmt: skip
    evidence = read_evidence(run)
    evidence["files"] += [{"path": name} for name in names]
    write(run / "evidence.json", evidence)
    before = {file: file.read_bytes() for file in (run / name for name in names)}
    assert run_command(["purge", "run"]) == 0
    assert all(file.read_bytes() == content for file, content in before.items())
    assert not (run / "evaluation" / "samples.jsonl").exists()
    assert len(list_left(run)) >= len(names)


@pytest.mark.parametrize("evidence", [
    {"files": [{"path": "/"}, {"path": ".."}, {"path": "resume/../../.."}, {"path": "."}]},
    {"files": [{"path": "a\0b"}, {"path": 3}, {"path": None}, {}, [], "x", {"path": "\ud800"}]},
    {"files": {"path": "x"}, "purged": [1, "x"], "sources": ["path", {"path": 3}], "sent": [3]},
    {"purged": {"at": 1}, "sources": {"path": "/"}, "files": 5}, [1], "text",
], ids=str)  # fmt: skip
def test_an_odd_evidence_is_no_fault(tmp_path: Path, evidence: Any) -> None:
    run = make_done_run(tmp_path / "run")
    write(run / "evidence.json", evidence)
    (run / "private_files.txt").write_bytes(b'"/"\n[[[[\n\xff\xfe\n"\x00"\n"evaluation"\n3\n')
    (run / "resume").symlink_to("/")
    for words in (["list", "run"], ["purge", "run"], ["list", "--json"]):
        assert run_command(words) == 0
    assert find_secret(run) == []
    assert (run / "evaluation" / "results.json").is_file()


def test_text_alone_or_only_what_is_old(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_done_run(tmp_path / "run", "teacher/ab/hidden.bin", "evaluations/x/samples.jsonl")
    assert run_command(["purge", "--older-than=1h"]) == 0
    assert "no run is that old" in capsys.readouterr().out
    assert run_command(["purge", "--text"]) == 0
    assert find_secret(tmp_path) == ["cache/teacher/ab/hidden.bin", "forget.jsonl"]
    past = time.time() - 7200
    os.utime(run / "status.json", (past, past))
    assert run_command(["purge", "older_than=1h"]) == 0
    assert find_secret(tmp_path) == ["forget.jsonl"]
    assert len(read_evidence(run)["purged"]) == 2


def test_what_no_run_lists_goes_too_and_a_run_at_work_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_done_run(tmp_path / "run", "evaluations/used/samples.jsonl")
    for name in ("evaluations/gone/samples.jsonl", "audits/gone.json", "datasets/gone/a.arrow"):
        write(cache_dir() / name)
    with hold_lock(run):
        assert run_command(["purge", "--text"]) == 1
    assert "another process works on it" in capsys.readouterr().err
    assert find_secret(tmp_path) == [
        "cache/evaluations/used/samples.jsonl", "forget.jsonl", "run/evaluation/samples.jsonl"
    ]  # fmt: skip


def test_a_run_of_an_older_version_is_known_to_hold_text(tmp_path: Path) -> None:
    run = make_done_run(tmp_path / "run")
    (run / "evidence.json").unlink()
    write(run / "resume" / "checkpoint-3" / "optimizer.pt")
    files = {f.path.name: (f.kind, f.holds) for f in list_private_files(RunFolder(run))}
    assert files == {
        "samples.jsonl": ("samples", "text"), "optimizer.pt": ("state to resume from", "states")
    }  # fmt: skip
    assert run_command(["purge", "run"]) == 0
    assert find_secret(tmp_path) == ["forget.jsonl"]
    assert not (run / "resume").exists()


def test_a_ledger_has_what_was_noted_in_its_run_and_survives_a_kill(tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer" / "ledger", tmp_path / "inner" / "ledger"
    inner.parent.mkdir()
    with keep_ledgers([outer]):
        note_private(tmp_path / "one")  # before the run has a folder
        outer.parent.mkdir()
        with keep_ledgers([inner]):
            note_private(tmp_path / "two")
            assert read_paths(inner) == [tmp_path / "two"]
        note_private(tmp_path / "three")
        assert read_paths(outer) == [tmp_path / "one", tmp_path / "three"]
        write(tmp_path / ".three.ab-1.unfinished")
    with open(outer, "a") as file:
        file.write('"/cut')
    run = RunFolder(outer.parent)
    outer.rename(run.ledger)
    # What a killed process left half written of a private file is as private.
    assert [f.path.name for f in list_private_files(run)] == [".three.ab-1.unfinished"]


def test_what_an_older_version_left_open_is_closed(tmp_path: Path) -> None:
    def compute(names: list[str], journal: Journal) -> dict[str, Evaluation]:
        journal.add("generation", {0: SECRET})
        journals.append(journal.folder)
        return {name: Evaluation({}, [{"set": "", "prompt": SECRET}], {}) for name in names}

    journals: list[Path | None] = []

    ledger = tmp_path / "run" / "ledger"
    ledger.parent.mkdir()
    with keep_ledgers([ledger]):
        load_or_evaluate({"forget": "key"}, compute)
        folder = locate_cached_parts({"forget": "key"})["forget"]
        for path, mode in ((folder / "samples.jsonl", 0o644), (folder, 0o755)):
            path.chmod(mode)
        load_or_evaluate({"forget": "key"}, compute)
    assert stat.S_IMODE((folder / "samples.jsonl").stat().st_mode) == 0o600
    assert set(read_paths(ledger)) == {
        folder / "samples.jsonl", *journals
    }  # fmt: skip
    link = tmp_path / "link"
    link.symlink_to(write(tmp_path / "foreign"))
    (tmp_path / "foreign").chmod(0o644)
    note_private(link)
    assert stat.S_IMODE((tmp_path / "foreign").stat().st_mode) == 0o644


def test_a_log_with_a_traceback_is_private_and_noted(tmp_path: Path) -> None:
    folder = RunFolder(make_done_run(tmp_path / "run"))
    write(folder.log, "a line\n")
    with keep_ledgers([folder.ledger]), ui.copy_to_log(folder.log):
        try:
            raise ValueError(SECRET)
        except ValueError as error:
            record_failure(folder, error)
    assert stat.S_IMODE(folder.log.stat().st_mode) == 0o600
    assert run_command(["purge", "run", "--dry-run"]) == 0
    assert "log with a traceback" in {f.kind for f in list_private_files(folder)}
    assert run_command(["purge", "run"]) == 0
    assert find_secret(tmp_path) == ["forget.jsonl"]
    status = json.loads(folder.status_file.read_text())
    assert status == {"status": "failed", "reason": "ValueError"}


def test_a_purged_evaluation_is_done_and_not_computed_again(tmp_path: Path) -> None:
    folder = RunFolder(make_done_run(tmp_path / "run"))
    assert is_shown_anew(EvaluateRun(), folder)
    assert run_command(["purge", "run"]) == 0
    assert not is_shown_anew(EvaluateRun(), folder)


@pytest.mark.parametrize("words, fragments", [
    (["purge"], ["--older-than=30d", "--text"]),
    (["purge", "--older-than"], ["--older-than", "30d"]),
    (["purge", "--older-than=soon"], ["older-than=soon", "30d"]),
    (["purge", "--txt"], ["--txt", "did you mean '--text'"]),
    (["purge", "nosuch"], ["nosuch", "no such folder"]),
    (["purge", "."], ["no runs"]),
    (["purge", "--text=maybe"], ["text=maybe", "true"]),
    (["list", "nosuch"], ["nosuch"]),
    (["list", "jason=true"], ["jason", "json"]),
])  # fmt: skip
def test_wrong_words_are_refused_in_one_line(
    words: list[str], fragments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert all(fragment in captured.err for fragment in fragments), captured.err


def test_nothing_known_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["list"]) == 0
    assert "no runs are known" in capsys.readouterr().out
    assert run_command(["purge", "--text"]) == 0


def test_help_of_both_names_their_words(capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in (("list", ["--json"]), ("purge", ["--older-than", "--dry-run"])):
        assert run_command([command, "--help"]) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in words)
    assert run_command(["--help"]) == 0
    assert "purge" in capsys.readouterr().out


def test_write_whole_text_notes_before_it_writes(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    (tmp_path / "samples.jsonl").mkdir()
    with keep_ledgers([ledger]), pytest.raises(IsADirectoryError):
        write_whole_text(tmp_path / "samples.jsonl", SECRET, private=True)
    assert read_paths(ledger) == [tmp_path / "samples.jsonl"]
