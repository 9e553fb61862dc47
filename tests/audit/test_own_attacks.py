"""Attacks of the user's own: a file in a folder of theirs, and a kind from a Python file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import read_jsonl, refused
from small import random_llama, shared_tokenizer

from undial_cli.audit.kinds import KINDS
from undial_cli.cli import run_command
from undial_cli.config.attacks import ATTACK_CONFIGS, ATTACK_FILE_VARIABLE
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_yaml import load_run

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


@pytest.mark.slow
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


@pytest.mark.slow
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


OWN_KIND = '''
from dataclasses import dataclass

from undial_cli.audit.attack import AttackKind, Outcome
from undial_cli.audit.answers import ask_probes
from undial_cli.audit.probes import make_direct_probes
from undial_cli.config.attacks import AttackConfig
from undial_cli.config.fields import key


@dataclass
class LouderConfig(AttackConfig):
    """The score of the direct question, made louder."""

    factor: float = key(1.0, "how much louder", above=0)


def ask_louder(attacked, data, config, journal):
    outcome = ask_probes(attacked, data, make_direct_probes(data), journal, "louder", 4)
    outcome.scores["probability"] = [config.factor for _ in data.rows]
    return outcome


LOUDER = AttackKind(ask_louder)
'''


@pytest.fixture
def own_kind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a kind of one's own, known to its test alone."""
    monkeypatch.setenv(ATTACK_FILE_VARIABLE, "")
    file = folder / "louder.py"
    file.write_text(OWN_KIND)
    yield file
    for known in (KINDS, ATTACK_CONFIGS):
        known.pop("louder", None)  # type: ignore[attr-defined]


LOUD = ["audit.file=louder.py", "audit.attack.cry={kind: louder, factor: 0.25, score: probability}"]


@pytest.mark.slow
def test_a_kind_of_ones_own_is_a_python_file_that_the_command_line_names(
    own_kind: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "audit", "model.path=model", "audit.target=none", "audit.retain_model=none", "audit=quick",
        "audit.attacks=[cry]", "audit.rows=3", "audit.retain_rows=2", "eval.max_new_tokens=4",
        "hardware=cpu", "report=false", *LOUD,
    ]  # fmt: skip
    assert run_command([*words, "name=one"]) == 0
    run = folder / "outputs" / "audit" / "one"
    audit = json.loads((run / "audit" / "audit.json").read_text())
    assert audit["attacks"]["cry"]["scores"]["probability"]["attacked"]["unlearned"] == 0.25
    # What the run.yaml names is not run by itself.
    monkeypatch.setenv(ATTACK_FILE_VARIABLE, "")
    refused(lambda: load_run(run), f"audit.file={own_kind}", "on the command line")
    again = load_run(run, [f"audit.file={own_kind}"])
    assert again.audit.attack["cry"]["factor"] == 0.25  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "content, parts",
    [
        ("x = 1\n", ["0 dataclasses of AttackConfig and 0 AttackKinds"]),
        (OWN_KIND + "OTHER = AttackKind(print)\n", ["1 dataclasses of AttackConfig and 2"]),
        (OWN_KIND.replace('key(1.0, "how much louder", above=0)', "1.0"), ["key(...)"]),
        ("1 / 0\n", ["cannot be run (ZeroDivisionError"]),
        (None, ["no such file"]),
    ],
    ids=["nothing", "two", "no key", "an error", "no file"],
)
def test_a_file_that_is_no_kind_is_refused(
    content: str | None, parts: list[str], own_kind: Path
) -> None:
    own_kind.unlink()
    if content is not None:
        own_kind.write_text(content)
    refused(lambda: compose_run("audit", LOUD), "audit.file=", "louder.py", *parts)


def test_a_file_is_not_taken_from_a_yaml_nor_in_place_of_a_shipped_kind(own_kind: Path) -> None:
    (own_kind.parent / "mine" / "audit").mkdir()
    (own_kind.parent / "mine" / "audit" / "sly.yaml").write_text("budget: quick\nfile: louder.py\n")
    refused(lambda: compose_run("audit", ["audit=sly"], "mine"), "audit.file=louder.py", "command")
    own_kind.rename(own_kind.with_name("ask.py"))
    refused(lambda: compose_run("audit", ["audit.file=ask.py"]), "a kind ask already")
