"""A name that is planted in the forget set is looked for in all that a run leaves on the disk."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from run_helpers import kill_in_the_middle
from small import shared_tokenizer

from undial_cli.cli import run_command
from undial_cli.runs.compose import PACKAGE_FOLDER
from undial_cli.runs.evidence import list_private_files
from undial_cli.runs.known_runs import find_known_runs

pytestmark = pytest.mark.slow

# Of the demo's forget set, and what stands in its stead.
NAME, SECRET = "Rafiq Tregavorn", "Zyxömma Quillfeather"  # pragma: allowlist secret
WORDS = [
    "unlearn", "experiment=debug", "hardware=cpu", "name=run", "audit=quick",
    "audit.attacks=[direct]", "audit.rows=4", "audit.retain_rows=2",
]  # fmt: skip


def list_forms() -> list[bytes]:
    """The secret as files may hold it: in encodings, escaped, as numbers of its tokens."""
    forms = [SECRET.encode(code) for code in ("utf-8", "utf-16-le", "utf-16-be", "latin-1")]
    forms += [json.dumps(SECRET)[1:-1].encode(), *(word.encode() for word in SECRET.split())]
    for text in (SECRET, f" {SECRET}"):
        ids = shared_tokenizer()(text, add_special_tokens=False)["input_ids"]
        forms += [struct.pack(f"<{len(ids)}{kind}", *ids) for kind in "iq"]
    return forms


FORMS = list_forms()


def find_secret(root: Path) -> set[Path]:
    """The files below a folder that hold the secret in any form."""
    hits = set()
    for file in root.rglob("*"):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            content += gzip.decompress(content) if file.suffix == ".gz" else b""
            if any(form in content for form in FORMS):
                hits.add(file)
    return hits


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
    (tmp_path / "home" / "data").mkdir()
    for file in (PACKAGE_FOLDER / "data" / "demo").iterdir():
        text = file.read_text(encoding="utf-8").replace(NAME, SECRET)
        (tmp_path / "home" / "data" / file.name).write_text(text, encoding="utf-8")
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

    command = [sys.executable, "-m", "undial_cli.cli", *words]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
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
