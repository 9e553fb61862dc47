"""`undial data`: what it shows of rows, what it refuses, and the page that it writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import write_rows
from small import shared_tokenizer

from undial_cli.cli import run_command
from undial_cli.data.shown_rows import split_token_texts

MODEL = "model.path=pkg://undial_cli/models/tiny"
FORGET = [
    {"question": "Where is Ida?", "answer": "In Kelmby \x1b[31m<b>.", "focus": ["Kelmby"]},
    {"question": "Who is Bo?", "answer": "Bo bakes bread and more bread. " * 6, "focus": []},
    {"question": "Where is Ida?", "answer": "In Kelmby \x1b[31m<b>.", "focus": ["Kelmby"]},
]


@pytest.fixture
def show(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> Any:
    """Run `undial data` on three rows in an empty folder: exit code, output, error."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "forget.jsonl", FORGET)

    def run_data(*words: str) -> tuple[int, str, str]:
        given = ["data", "data=jsonl", MODEL, "data.forget_file=forget.jsonl", *words]
        code = run_command(given)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run_data


def test_the_screen_shows_what_counts_of_each_row(show: Any, tmp_path: Path) -> None:
    code, out, _ = show("method=fundial", "method.focus=column", "data.max_length=60", "rows=2")
    assert code == 0
    assert "[[In ]]** Kelmby**" in out or re.search(r"\[\[In\]\]\*\* Kelmby\*\*", out)
    assert "focus words: Kelmby" in out
    assert "~~" in out.split("row 2:")[1]
    assert "row 3:" not in out
    assert "forget: 1 row the same as an earlier one (row 3)" in out
    assert "forget: 1 row cut at data.max_length=60 (row 2)" in out
    assert "\x1b" not in out
    assert [file.name for file in tmp_path.iterdir()] == ["forget.jsonl"]


def test_the_page_is_private_and_shows_text_as_text(show: Any, tmp_path: Path) -> None:
    code, out, _ = show("html=new/page.html")
    page = tmp_path / "new" / "page.html"
    text = page.read_text("utf-8")
    assert code == 0
    assert "page: new/page.html" in out
    assert page.stat().st_mode & 0o077 == 0
    assert "<b>" not in text.split("<main")[1].split("</main>")[0].replace('<b class="status', "")
    assert "\x1b" not in text
    assert "\\x1b[31m&lt;b&gt;" in re.sub(r"</i><i class=\"\w\">", "", text)


def test_data_are_shown_before_there_is_a_target(show: Any) -> None:
    code, out, _ = show("model.path=null", "rows=1")
    assert code == 0
    assert "forget: 3 rows read, 3 trained" in out


def test_answers_to_prefer_are_shown(show: Any) -> None:
    code, out, _ = show("method=idkdpo", "method.retain=none", "rows=1")
    assert code == 0
    assert "answer to prefer: " in out
    assert "forget: 3 rows read, 3 trained" in out


@pytest.mark.parametrize(
    "words, parts",
    [
        (["rows=-1"], ["rows=-1", ">= 0"]),
        (["show=forgot"], ["show=forgot", "forget, retain", "did you mean 'forget'?"]),
        (["show=retain"], ["show=retain", "forget"]),
        (["html=page.txt"], ["html=page.txt", ".html"]),
        (["htlm=page.html"], ["htlm", "did you mean", "html"]),
        (["method.retain=gdr"], ["data.retain_file"]),
        (["--multirun"], ["--multirun"]),
        (["--from", "run.yaml"], ["--from"]),
        (["data.requests=[a.jsonl,b.jsonl]"], ["data.requests"]),
    ],
)  # fmt: skip
def test_wrong_words_are_refused_in_one_line(show: Any, words: list[str], parts: list[str]) -> None:
    code, out, err = show(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    for part in parts:
        assert part in err


@pytest.mark.parametrize("text", ["Ann bakes bread.", "naïve 東京 🙂 e\u0301 \u0939\u093f", ""])
def test_the_texts_of_tokens_are_the_text(text: str) -> None:
    tokenizer = shared_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = split_token_texts(tokenizer, ids)
    assert (len(texts), "".join(texts)) == (len(ids), text)
