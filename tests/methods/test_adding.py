"""A method is added to a clean checkout by three files, and everything else learns it from them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import HURRIED
from recipes import read_recipe

from undial_cli.runs.hydra_configs import PACKAGE_FOLDER

ROOT = PACKAGE_FOLDER.parent
FOLDERS = ("undial_cli", "configs", "docs", "scripts", "tests")
FILES = read_recipe("A method")  # of docs/extending.md


def hashes(folder: Path) -> dict[str, str]:
    """What each file of a checkout holds, by its path."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if "__pycache__" not in file.parts
    }


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this one, with the files of one more method in it."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__", "outputs", ".*")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    before = hashes(folder)
    for name, content in FILES.items():
        (folder / name).write_text(content, encoding="utf-8")
    now = hashes(folder)
    assert {name for name in now if before.get(name) != now[name]} == set(FILES)
    assert len(FILES) == 3
    return folder


def python(checkout: Path, *words: str, cwd: Path | None = None) -> str:
    """What Python says in a process of its own, with the code of the checkout."""
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd or checkout, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(checkout), "COLUMNS": "200"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


LIGHT = """
import contextlib, io, sys
from pathlib import Path
import undial_cli
from undial_cli.cli import run_command
assert Path(undial_cli.__file__).parent.parent == Path({checkout!r}), undial_cli.__file__
assert run_command({words!r}) == 0
assert not {{"torch", "transformers"}} & set(sys.modules)
"""


@pytest.mark.slow
def test_help_and_config_know_it_and_import_no_torch(checkout: Path) -> None:
    light = lambda *words: python(  # noqa: E731
        checkout, "-c", LIGHT.format(checkout=str(checkout), words=[*words])
    )
    said = [" ".join(line.split()) for line in light("unlearn", "--help").splitlines()]
    assert "flatten Flattening: towards the teacher mixed with the uniform distribution." in said
    assert "method.share of the uniform distribution in what is learnt (flatten)" in said
    said = light("unlearn", "--cfg", "job", "method=flatten", "method.retain=gdr")
    for line in ("name: flatten", "share: 0.25", "retain: gdr"):
        assert f"  {line}\n" in said


COST = """
from undial_cli.runs.compose import compose_run
from undial_cli.planning.estimate import count_training_operations
import sys

for name in ("flatten", "ga"):
    run = compose_run("unlearn", [f"method={name}", "train.epochs=1"])
    print(count_training_operations(run, {"*": 10.0}, {"*": 1.0}))
assert "torch" not in sys.modules
"""


@pytest.mark.slow
def test_a_tables_cost_counts_its_teacher(checkout: Path) -> None:
    assert python(checkout, "-c", COST).split() == ["80.0", "60.0"]


@pytest.mark.slow
def test_it_runs_is_planned_and_stands_in_a_table(checkout: Path, tmp_path: Path) -> None:
    command = ("-m", "undial_cli.cli")
    words = ["unlearn", "method=flatten", "method.share=1", "train.max_steps=2", *HURRIED]
    said = python(checkout, *command, *words, cwd=tmp_path)
    assert "forget_probability" in said
    (folder,) = (tmp_path / "outputs" / "unlearn").iterdir()
    assert "share: 1" in (folder / "run.yaml").read_text(encoding="utf-8")
    said = python(checkout, *command, *words, "plan=true", cwd=tmp_path)
    assert "teacher" in said
    (tmp_path / "own" / "table").mkdir(parents=True)
    table = (checkout / "configs" / "table" / "demo_strength.yaml").read_text(encoding="utf-8")
    start = table.index("rows:")
    rows = "rows:\n  - {label: flatten, overrides: [method=flatten]}\n"
    (tmp_path / "own" / "table" / "flat.yaml").write_text(table[:start] + rows, encoding="utf-8")
    words = ["reproduce", "table=flat", "plan=true", "--config-dir", "own"]
    assert "flatten" in python(checkout, *command, *words, cwd=tmp_path)


ROWS = """
import sys
sys.path.insert(0, "scripts")
from make_method_table import METHODS, method_row
print(*map(method_row, METHODS), sep="\\n")
"""


def test_the_documented_table_is_made_of_the_files(checkout: Path) -> None:
    rows = python(checkout, "-c", ROWS).splitlines()
    documented = (checkout / "docs" / "methods.md").read_text(encoding="utf-8").splitlines()
    new = "Flattening: towards the teacher mixed with the uniform distribution"
    assert set(rows) - set(documented) == {f"| `flatten` | {new} | teacher |  |"}


@pytest.mark.slow
def test_all_other_tests_take_it_in(checkout: Path) -> None:
    shared = [
        "tests/methods/test_flatten.py",
        "tests/test_cli_errors.py::test_the_installed_command_says_one_line_and_exits_with_2",
        "tests/test_distributed.py::"
        "test_float64_runs_of_two_processes_that_accumulate_agree_to_1e_9[method=flatten]",
        "tests/methods/test_methods.py::test_every_method_has_a_yaml_file",
        "tests/methods/test_methods.py::"
        "test_every_method_and_retain_term_is_tested_here_or_in_a_file_of_its_own",
    ]
    python(checkout, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *shared)
