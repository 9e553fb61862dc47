"""Lines that somebody types: questions, commands, Ctrl-C; in this process and at a terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from asked import QUESTION, open_engine, write_model
from conftest import read_jsonl, refused

from undial_cli.asking.engine import WHOLE, AskingEngine, ModelAnswer
from undial_cli.asking.interactive import COMMANDS, Dialogue
from undial_cli.asking.terminal import PARTING_STYLE, arrange_answers, write_answers
from undial_cli.asking.words import parse_ask_words
from undial_cli.cli import run_command
from undial_cli.config.asking import ASKING_KEYS
from undial_cli.ui import make_console


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two models that say different things."""
    folder = tmp_path_factory.mktemp("models")
    return [str(write_model(folder / name, seed=len(name))) for name in ("a", "bb")]


@pytest.fixture(scope="module")
def engine(models: list[str]) -> AskingEngine:
    return open_engine(*models)


@pytest.fixture
def dialogue(engine: AskingEngine) -> Dialogue:
    """A dialogue that has not begun."""
    return Dialogue(engine, parse_ask_words(["pkg://any", "max_new_tokens=6"]).config)


def test_commands_change_what_is_asked_next(
    dialogue: Dialogue, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in (":temperature 0.7", ":tokens 4", ":system Be brief.", ":chat", QUESTION, "Why?"):
        assert dialogue.take_line(line)
    config = dialogue.config
    assert (config.temperature, config.max_new_tokens, config.system) == (0.7, 4, "Be brief.")
    assert [record["turns"] for record in dialogue.records] == [0, 1]
    assert [record["question"] for record in dialogue.records] == [QUESTION, "Why?"]
    for line in (":new", ":again", "::quit", ":system none", "  "):
        assert dialogue.take_line(line)
    assert [record["turns"] for record in dialogue.records[2:]] == [0, 1]
    assert dialogue.records[3]["question"] == ":quit"
    assert dialogue.config.system == ""
    capsys.readouterr()
    dialogue.take_line(":help")
    said = capsys.readouterr().out
    assert all(f":{name}" in said for name in (*COMMANDS, *ASKING_KEYS))
    assert not dialogue.take_line(":quit")


def test_what_is_no_command_is_refused_in_a_line(dialogue: Dialogue, tmp_path: Path) -> None:
    for line, parts in {
        ":temprature 1": ("temprature", "did you mean 'temperature'?"),
        ":temperature hot": ("temperature=hot", "a number"),
        ":tokens 0": ("max_new_tokens=0", ">= 1"),
        ":again": (":again", "nothing was asked"),
        ":save": (":save", "a file"),
        f":save {tmp_path}": (":save=", "a new file"),
    }.items():
        refused(lambda line=line: dialogue.take_line(line), *parts)


def test_what_is_asked_may_be_written_as_it_comes(engine: AskingEngine, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    config = parse_ask_words(["pkg://any", f"out={file}", "max_new_tokens=2"]).config
    dialogue = Dialogue(engine, config)
    for question in ("Who?", "Where?"):
        dialogue.take_line(question)
        assert read_jsonl(file)[-1]["question"] == question


def test_what_is_saved_is_private_and_whole(dialogue: Dialogue, tmp_path: Path) -> None:
    dialogue.take_line(QUESTION)
    dialogue.take_line(f":save {tmp_path / 'answers.jsonl'}")
    assert read_jsonl(tmp_path / "answers.jsonl") == dialogue.records
    assert (tmp_path / "answers.jsonl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("width", [30, 120])
def test_no_answer_commands_the_terminal_and_none_is_cut(engine: AskingEngine, width: int) -> None:
    texts = ["\x1b]0;title\x07 [red]markup[/] " + "word " * 60, "plain words"]
    pairs = zip(engine.models, texts, strict=True)
    answers = [ModelAnswer(model, text, WHOLE, [1]) for model, text in pairs]
    file = io.StringIO()
    console = make_console(file)
    console.width = width
    console.print(arrange_answers(answers, width, marked=True))
    shown = file.getvalue()
    assert "\x1b" not in shown
    assert "\\x1b]0;title" in shown.replace("\n", "")
    assert (shown.count("word"), "[red]" in shown) == (61, True)
    assert max(map(len, shown.splitlines())) <= width


def test_parting_words_are_coloured(engine: AskingEngine) -> None:
    answers = [
        ModelAnswer(model, text, WHOLE)
        for model, text in zip(engine.models, ("born in Oslo", "born in Bergen"), strict=True)
    ]
    for text, word in zip(write_answers(answers, marked=True), ("Oslo", "Bergen"), strict=True):
        assert [str(text)[span.start : span.end] for span in text.spans
                if span.style == PARTING_STYLE] == [word]  # fmt: skip
    assert not any(text.spans for text in write_answers(answers, marked=False))


@pytest.mark.slow
def test_questions_of_a_file_are_answered_as_json(
    models: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    (tmp_path / "q.txt").write_text("Who?\nWhere?\n")
    out = tmp_path / "answers.jsonl"
    words = [f"file={tmp_path / 'q.txt'}", "json=true", f"out={out}", "max_new_tokens=3"]
    assert run_command(["ask", *models, *words, "hardware=cpu"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["question"] for record in printed] == ["Who?", "Where?"]
    assert read_jsonl(out) == printed
    monkeypatch.setattr(sys, "stdin", io.StringIO("\nWhen?\n"))
    words = [*models, f"retain={models[1]}", "json=true", "max_new_tokens=3", "hardware=cpu"]
    assert run_command(["ask", *words]) == 0  # nothing but the lines, whatever is said besides
    assert [json.loads(line)["question"] for line in capsys.readouterr().out.splitlines()] == [
        "When?"
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\nWhen?\n"))
    assert run_command(["ask", models[0], "max_new_tokens=3", "hardware=cpu"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("When?\n[a] ")
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert run_command(["ask", models[0], "hardware=cpu"]) == 2
    assert "no question came" in capsys.readouterr().err


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, words: list[str], cwd: Path) -> None:
        self.screen, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "undial_cli.cli", *words], cwd=cwd, stdin=theirs, stdout=theirs,
            stderr=theirs, env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.said = ""

    def wait_for(self, pattern: str, seconds: float = 120) -> str:
        """What was said up to a pattern; it is not seen again."""
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self.said)):
            assert time.monotonic() < end, self.said[-2000:]
            if select.select([self.screen], [], [], 0.5)[0]:
                self.said += os.read(self.screen, 1 << 16).decode(errors="replace")
        before, self.said = self.said[: match.end()], self.said[match.end() :]
        return before

    def type(self, line: str) -> None:
        os.write(self.screen, line.encode())

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)


@pytest.mark.slow
def test_ctrl_c_ends_an_answer_and_not_the_program(models: list[str], tmp_path: Path) -> None:
    terminal = Terminal(["ask", *models, "max_new_tokens=100000", "hardware=cpu"], tmp_path)
    try:
        terminal.wait_for("ask> ")
        terminal.type(f"{QUESTION}\n")
        terminal.wait_for("…")  # it answers
        terminal.interrupt()
        assert "stopped" in terminal.wait_for("ask> ")
        terminal.type("half a line")
        terminal.wait_for("half a line")
        time.sleep(0.5)  # readline hears a signal only once it waits for the next key
        terminal.interrupt()
        terminal.wait_for("ask> ")
        terminal.type(":tokens 5\n")
        terminal.wait_for("max_new_tokens=5")
        terminal.type("Where?\n")
        terminal.wait_for("5 tokens")
        terminal.type(":tmperature 1\n")
        terminal.wait_for("did you mean 'temperature'")
        terminal.wait_for("ask> ")
        terminal.type("\x04")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.process.kill()
        os.close(terminal.screen)
    history = Path(os.environ["UNDIAL_CACHE_DIR"]) / "ask" / "history.txt"
    lines = history.read_text().splitlines()
    assert QUESTION in lines
    assert ":tokens 5" in lines
    assert history.stat().st_mode & 0o077 == 0
