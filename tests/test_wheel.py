"""A wheel carries all that a run needs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import HURRIED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
# What else a new user types, in one process; `make try-wheel` has it all, in empty environments.
FURTHER = [
    "unlearn --help",
    "data html=data.html",
    "ask outputs/unlearn/first max_new_tokens=4 'Who is he?'",
    "alternatives out=answers.jsonl hardware=cpu data.limit=2 target.epochs=1 alternatives.count=1 "
    "alternatives.rounds=1 alternatives.max_new_tokens=8",
    "tune method=undial budget=1 plan=true",
    "export outputs/unlearn/first out=exported",
]
TYPE_ALL = """
import shlex, sys
from undial_cli.cli import run_command
for line in sys.argv[1:]:
    assert run_command(shlex.split(line)) == 0, line
"""


def call(*words: str, cwd: Path, **env: str) -> str:
    """Run this Python with `words`; its stdout."""
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, capture_output=True, text=True, timeout=300,
        env={**os.environ, **env},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def list_image_files() -> list[str]:
    """What the Dockerfile copies into the stage that builds the wheel."""
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    return [name for line in copied for name in line.split()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from what the Dockerfile copies of the tree."""
    out, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for name in list_image_files():
        copy: Any = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, source / name)
    call("-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source), cwd=out)
    (file,) = out.glob("undial-*.whl")
    return file


def test_the_image_is_sent_what_it_copies_and_runs_as_no_root() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == set(list_image_files())
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r'^USER [1-9]\d*$(?s:.*)^ENTRYPOINT \["undial"\]$', text, re.M)
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.M)


def test_the_wheel_holds_every_config_and_asset(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"undial_cli/{p.relative_to(ROOT)}" for p in (ROOT / "configs").rglob("*.yaml")}
    package = (p for p in (ROOT / "undial_cli").rglob("*") if p.is_file())
    assets = [p for p in package if p.suffix not in (".py", ".pyc")]
    assert len(assets) > 15
    assert configs
    assert configs | {str(p.relative_to(ROOT)) for p in assets} <= names
    assert not [n for n in names if n.startswith(("tests/", "scripts/", "configs/"))]


def test_an_installed_wheel_unlearns_from_an_empty_directory(wheel: Path, tmp_path: Path) -> None:
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    call("-m", "pip", "install", "--no-deps", "--no-index", "--target", str(site), str(wheel),
         cwd=empty)  # fmt: skip
    environment = {"PYTHONPATH": str(site), "UNDIAL_CACHE_DIR": str(tmp_path / "cache")}
    where = call("-c", "import undial_cli; print(undial_cli.__file__)", cwd=empty, **environment)
    assert Path(where.strip()) == site / "undial_cli" / "__init__.py"
    place = (
        "from undial_cli.runs.hydra_configs import find_config_folder; print(find_config_folder())"
    )
    assert Path(call("-c", place, cwd=empty, **environment).strip()) == (
        site / "undial_cli" / "configs"
    )
    words = ["-m", "undial_cli.cli", "unlearn", *HURRIED, "train.max_steps=2", "name=first"]
    assert "everything is in" in call(*words, cwd=empty, **environment)
    folder = empty / "outputs" / "unlearn" / "first"
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    assert (folder / "checkpoint" / "model.safetensors").is_file()
    assert json.loads((folder / "environment.json").read_text())["commit"] is None
    call("-c", TYPE_ALL, *FURTHER, cwd=empty, **environment)
    assert (empty / "data.html").is_file()
    assert (empty / "answers.jsonl").is_file()
    assert list((empty / "exported").glob("*.gguf"))


def test_the_version_stands_in_one_file(wheel: Path) -> None:
    import undial_cli

    assert wheel.name == f"undial-{undial_cli.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as files:
        (metadata,) = (name for name in files.namelist() if name.endswith("/METADATA"))
        assert f"\nVersion: {undial_cli.__version__}\n" in files.read(metadata).decode()
