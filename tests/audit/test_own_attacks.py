"""An attack of the user's own: a file in a folder of theirs, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import read_jsonl, refused
from small import random_llama, shared_tokenizer

from undial_cli.cli import run_command
from undial_cli.runs.compose import compose_run

OWN = """# The question whispered.
kind: ask
title: whispered
score: rouge
templates: ["Psst! {question}"]
prefills: ["Well,"]
budgets:
  quick: {rows: 3}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with their configs in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "attack").mkdir(parents=True)
    (tmp_path / "mine" / "attack" / "whisper.yaml").write_text(OWN)
    random_llama(vocab=len(shared_tokenizer())).save_pretrained(tmp_path / "model")
    shared_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path


def test_an_attack_of_ones_own_is_a_file_in_a_folder_of_ones_own(folder: Path) -> None:
    words = [
        "audit", "--config-dir", "mine", "model.path=model", "audit.target=none",
        "audit.retain_model=none", "audit=quick", "audit.attacks=[whisper]", "audit.retain_rows=2",
        "eval.max_new_tokens=4", "hardware=cpu", "report=false", "name=own",
    ]  # fmt: skip
    assert run_command(words) == 0
    written = folder / "outputs" / "audit" / "own" / "audit"
    attack = json.loads((written / "audit.json").read_text())["attacks"]["whisper"]
    assert (attack["title"], attack["kind"], attack["rows"]) == ("whispered", "ask", 3)
    assert attack["scores"]["rouge"]["attacked"]["unlearned"] is not None
    answers = [a for a in read_jsonl(written / "answers.jsonl") if a["attack"] == "whisper"]
    assert len(answers) == 3
    for answer in answers:
        assert answer["prompt"]["unlearned"] == f"Psst! {answer['question']} Well,"


def test_it_is_tried_wherever_its_budget_says_so(folder: Path) -> None:
    for budget, holds in (("quick", True), ("standard", False)):
        run = compose_run("audit", [f"audit={budget}"], "mine")
        assert ("whisper" in run.audit.attack) is holds  # type: ignore[attr-defined]
        assert "whisper" not in compose_run("audit", [f"audit={budget}"]).audit.attack  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "line, parts",
    [
        ("template: [a]", ["whisper.template", "did you mean 'templates'"]),
        ("shots: -1", ["audit.attack.whisper.shots=-1", ">= 0"]),
        ("rewrites: [no mark in it]", ["audit.attack.whisper.rewrites=no mark", "{question}"]),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_wrong_line_in_it_is_refused(line: str, parts: list[str], folder: Path) -> None:
    with (folder / "mine" / "attack" / "whisper.yaml").open("a") as file:
        file.write(line + "\n")
    refused(lambda: compose_run("audit", ["audit=quick"], "mine"), *parts)
