"""notebooks/first_run.ipynb: a notebook of format 4.5 without outputs, whose commands are taken."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import HURRIED

from undial_cli.cli import run_command
from undial_cli.runs.compose import compose_run

FILE = Path(__file__).parents[2] / "notebooks" / "first_run.ipynb"
BOOK = json.loads(FILE.read_text(encoding="utf-8"))
CELLS = ["".join(cell["source"]) for cell in BOOK["cells"] if cell["cell_type"] == "code"]
WORD_COMMANDS = {"doctor", "ask"}


def read_commands(cell: str) -> list[list[str]]:
    """The words of every `!undial` of a cell."""
    return [
        shlex.split(line) for line in re.findall(r"^!undial (.*)", cell.replace("\\\n", " "), re.M)
    ]


def is_python(cell: str) -> bool:
    return not cell.startswith("!") and "%pip" not in cell


def test_it_is_a_notebook_without_outputs() -> None:
    assert (BOOK["nbformat"], BOOK["nbformat_minor"]) == (4, 5)
    assert BOOK["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in BOOK["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in BOOK["cells"]:
        shared = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert cell.keys() == shared | {"execution_count", "outputs"}
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
        else:
            assert cell["cell_type"] == "markdown"
            assert cell.keys() == shared


@pytest.mark.slow
def test_its_commands_compose_and_its_first_cells_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "%pip install" in CELLS[0]
    names: dict[str, Any] = {}
    ran = []
    for cell in CELLS[1:]:
        if is_python(cell):
            exec(compile(cell, str(FILE), "exec"), names)
        for command, *words in read_commands(cell):
            if command not in WORD_COMMANDS:
                compose_run(command, [word for word in words if "=" in word])
            if command == "ask" or words == ["name=first"] or "data=jsonl" in words:
                short = [*HURRIED, "train.max_steps=2"] if command == "unlearn" else []
                assert run_command([command, *words, *short]) == 0
                ran.append(command)
    assert ran == ["unlearn", "ask", "unlearn"]
    assert re.search(r"model_utility +0\.\d{3} +0\.\d{3} +0\.\d{3}", capsys.readouterr().out)
