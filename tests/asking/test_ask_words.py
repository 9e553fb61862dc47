"""The words of `undial ask`: what is a model, a question, a key; and what is refused, in a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import refused

from undial_cli.asking.command import read_questions
from undial_cli.asking.words import parse_ask_words


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("run", "outputs", "with blank"):
        (tmp_path / name).mkdir()


def test_models_questions_and_keys_stand_in_any_order() -> None:
    asked = parse_ask_words(
        ["Who is 1+1=2?", "run", "temperature=0.5", "with blank", "question=Why", "--json",
         "model.dtype=bfloat16", "org/model@main", "system=Be brief.\\nVery.", "pkg://a/b"]
    )  # fmt: skip
    assert asked.models == ["run", "with blank", "org/model@main", "pkg://a/b"]
    assert asked.questions == ["Who is 1+1=2?", "Why"]
    assert asked.overrides == ["model.dtype=bfloat16"]
    config = asked.config
    assert (config.temperature, config.json, config.system) == (0.5, True, "Be brief.\nVery.")


def test_none_is_a_system_prompt_that_is_none_and_silence_is_the_runs_own() -> None:
    assert parse_ask_words(["run", "system=none"]).config.system == ""
    assert parse_ask_words(["run"]).config.system is None


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ("expected a run folder or a model",)),
        (["nowhere"], ("ask nowhere", "no such run folder")),
        (["outputs/nowhere"], ("ask outputs/nowhere", "no such run folder")),
        (["run", "Hello"], ("ask Hello", "question=Hello")),
        (["run", "temprature=1"], ("key=temprature", "did you mean 'temperature'?")),
        (["run", "--wbe"], ("flag=--wbe", "did you mean '--web'?")),
        (["run", "temperature=hot"], ("temperature=hot", "a number")),
        (["run", "temperature=-1"], ("temperature=-1", ">= 0")),
        (["run", "temperature=nan"], ("temperature=nan", "finite")),
        (["run", "max_new_tokens=0"], ("max_new_tokens=0", ">= 1")),
        (["run", "max_new_tokens=1.5"], ("max_new_tokens=1.5", "an integer")),
        (["run", "top_p=0"], ("top_p=0", "> 0")),
        (["run", "diff=maybe"], ("diff=maybe", "true")),
        (["run", "port=80"], ("port=80", "web=true")),
        (["run", "web=true", "Who is it?"], ("web=true", "a question")),
        (["run", "web=true", "out=x"], ("web=true", "out")),
        (["run", "out=outputs"], ("out=outputs", "a new file")),
        (["run", "out=no/x"], ("out=no/x", "no such folder")),
        (["run", "hardware=tpu"], ("hardware=tpu", "auto, cpu")),
        (["run", "x" * 5000], ("no run or model there",)),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(words: list[str], parts: tuple[str, ...]) -> None:
    refused(lambda: parse_ask_words(words), *parts)


def test_questions_come_from_lines_and_from_rows(tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("Who?\n\n Where? \nWhen?\n", encoding="utf-8")
    (tmp_path / "q.jsonl").write_text('{"question": "Who?", "answer": "Ann"}\n')
    (tmp_path / "q.csv").write_text("question,x\nWho?,1\n")
    assert read_questions("q.txt") == ["Who?", "Where?", "When?"]
    assert read_questions("q.txt[1:]") == ["Where?", "When?"]
    assert read_questions("q.jsonl") == read_questions("q.csv") == ["Who?"]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("q.jsonl", '{"questoin": "Who?"}\n', ("row 1 has no question", "questoin")),
        ("q.txt", "\n\n", ("there is no question",)),
        ("q.txt", b"\xff\xfe\xff", ("cannot be read as text",)),
        ("q.pdf", "x", ("files ending in",)),
        ("other.txt", "Who?", ("no such file", "did you mean 'other.txt'?")),
    ],
)
def test_a_file_without_questions_is_refused(
    name: str, content: str | bytes, parts: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    asked = "othr.txt" if name == "other.txt" else name
    refused(lambda: read_questions(asked), f"file={asked}", *parts)
