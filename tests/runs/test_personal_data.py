"""A name that is planted in the forget set is looked for in all that a run leaves on the disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import undial
from planted_secrets import find_planted, list_forms, write_planted_demo
from run_helpers import kill_in_the_middle

from undial_cli.cli import run_command
from undial_cli.runs.evidence import list_private_files
from undial_cli.runs.known_runs import find_known_runs

pytestmark = pytest.mark.slow

WORDS = [
    "unlearn", "experiment=debug", "hardware=cpu", "name=run", "audit=quick",
    "audit.attacks=[direct]", "audit.rows=4", "audit.retain_rows=2",
]  # fmt: skip
FORMS = list_forms()


def find_secret(root: Path) -> set[Path]:
    """The files below a folder that hold the secret in any form."""
    return find_planted(root, FORMS)


def list_evidence(world: Path) -> set[Path]:
    """The files that the evidence of any run names."""
    return {
        evidence.parent / entry["path"]
        for evidence in world.rglob("evidence.json")
        for entry in json.loads(evidence.read_text())["files"]
    }


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home, with a data set of the user's own, temporary files and a working folder."""
    for name in ("UNDIAL_CACHE_DIR", "XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in (("HOME", "home"), ("TMPDIR", "tmp")):
        (tmp_path / folder).mkdir()
        monkeypatch.setenv(name, str(tmp_path / folder))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    write_planted_demo(tmp_path / "home" / "data")
    return tmp_path


def test_every_file_with_the_secret_is_named_and_purged(world: Path) -> None:
    run, sources = world / "work" / "outputs" / "unlearn" / "run", world / "home" / "data"
    words = [*WORDS, f"data.path={sources}"]
    given = find_secret(world)
    assert {file.parent for file in given} == {sources}

    kill_in_the_middle(words, run / "resume", world / "work")
    known = {file.path for folder in find_known_runs() for file in list_private_files(folder)}
    hits = find_secret(world) - given
    assert hits
    assert hits <= known

    undial(*words, cwd=world / "work", timeout=120).check_returncode()
    hits = find_secret(world) - given
    rooms = {"evaluations", "audits", "datasets"}
    assert rooms <= {part for file in hits for part in file.parts}
    assert {"samples.jsonl", "answers.jsonl", "report.html", "report.md", "summary.md"} <= {
        file.name for file in hits if file.is_relative_to(run)
    }
    assert hits <= list_evidence(world)
    # Nobody else may read them, by their own modes, whatever those of the folders are.
    assert {file.stat().st_mode & 0o077 for file in list_evidence(run)} == {0}
    results = (run / "evaluation" / "results.json").read_bytes()

    assert run_command(["purge", str(run)]) == 0
    assert find_secret(world) == given
    (purge,) = json.loads((run / "evidence.json").read_text())["purged"]
    assert str(sources) in {entry["what"] for entry in purge["left"]}
    assert list_private_files(find_known_runs()[0]) == []

    assert run_command(["report", str(run)]) == 0
    assert find_secret(world) == given
    assert run_command(words) == 0  # is done: nothing is computed, only the data are read again
    assert (run / "evaluation" / "results.json").read_bytes() == results
    assert find_secret(world) - given <= list_evidence(world)
