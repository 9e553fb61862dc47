"""Any text as an override, as JSONL or as a run.yaml: taken, or refused in one line.

Texts are drawn by Hypothesis from fixed seeds; many of them with the slow tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small import bundled_encoder

from undial_cli.config.datasets import DataConfig
from undial_cli.config.schema import Run
from undial_cli.data import samples
from undial_cli.data.load import load_rows
from undial_cli.errors import UserError
from undial_cli.runs.compose import compose_run
from undial_cli.runs.known_keys import list_known_keys
from undial_cli.runs.run_yaml import dump_run_yaml, parse_run_yaml

FEW, MANY = 20, 200


def drawn(strategy: st.SearchStrategy[Any], examples: int) -> Callable[..., Any]:
    """A test of texts that are the same each time."""

    def decorate(test: Callable[..., Any]) -> Callable[..., Any]:
        fixed = settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=20_000,
            suppress_health_check=list(HealthCheck),
        )
        return fixed(given(strategy)(test))

    return decorate


def expect_an_answer(call: Callable[[], object]) -> object | None:
    """What the call returns, or None where it refuses in words."""
    try:
        return call()
    except UserError as error:
        if not str(error).strip():
            raise AssertionError("refused without a word") from error
        return None


KEYS = sorted(list_known_keys("unlearn"))
VALUES = st.one_of(
    st.text(max_size=12),
    st.text("[]{}():,=$'\"\\ ab1.-+~?!*&|<>%#@", max_size=12),
    st.sampled_from([
        "null", "true", "inf", "-inf", "nan", "1e999", "-1", "0", "1", "[]", "{}", "[[]]", "{a:1}",
        "???", "${seed}", "${nosuch}", "${oc.env:HOME}", "range(3)", "choice(1,2)", "a,b", "'", '"',
        "glob(*)", "[1,[2,[3]]]", "{a:{b:c}}", "1_000", "0x10", "0b1", "１", "∞", "\u202e", "\0",
    ]),
)  # fmt: skip
WORDS = st.one_of(
    st.builds("{}={}".format, st.sampled_from(KEYS), VALUES),
    st.builds("{}{}={}".format, st.sampled_from(["+", "++", "~", ""]), st.text(max_size=8), VALUES),
    st.text(max_size=20),
)  # fmt: skip
# What may stand in a file of values: scalars, lists, dictionaries with known and unknown keys.
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = ["question", "answer", "text", "messages", "prompt", "completion", "role", "content"]
ROWS = st.one_of(
    st.text(max_size=30),
    st.dictionaries(st.one_of(st.sampled_from(FIELDS), st.text(max_size=4)), TREES, max_size=4).map(
        json.dumps
    ),
    st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": TREES}),
        max_size=3,
    ).map(lambda messages: json.dumps({"messages": messages})),
)  # fmt: skip


def compose_word(word: str) -> Run | None:
    return expect_an_answer(lambda: compose_run("unlearn", [word]))  # type: ignore[return-value]


@drawn(WORDS, FEW)
def test_any_word_is_taken_or_refused(word: str) -> None:
    compose_word(word)


@pytest.mark.slow
@drawn(WORDS, MANY)
def test_many_words_are_taken_or_refused(word: str) -> None:
    run = compose_word(word)
    if run is not None:
        assert parse_run_yaml(dump_run_yaml(run)) == run or "nan" in dump_run_yaml(run)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that each text is written to in turn."""
    return tmp_path_factory.mktemp("texts")


def write_any_text(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))


ENCODER = bundled_encoder()


def read_any_rows(folder: Path, text: str) -> None:
    """Read a file of rows and encode them."""
    file = folder / "rows.jsonl"
    write_any_text(file, text)
    data = DataConfig(forget_file=str(file))

    def read() -> None:
        rows = load_rows(data, [str(file)], "data.forget_file")
        samples.encode_training_set(ENCODER, rows, "forget")

    expect_an_answer(read)


@drawn(st.data(), FEW)
def test_any_rows_are_encoded_or_refused(scratch: Path, data: Any) -> None:
    read_any_rows(scratch, "\n".join(data.draw(st.lists(ROWS, max_size=3))))


@pytest.mark.slow
@drawn(st.data(), MANY)
def test_many_rows_are_encoded_or_refused(scratch: Path, data: Any) -> None:
    read_any_rows(scratch, "\n".join(data.draw(st.lists(ROWS, max_size=3))))


RUN_YAML = dump_run_yaml(compose_run("unlearn", []))
# A run.yaml with a value that is another, with a line that is gone, or with one in between.
CHANGES = st.tuples(
    st.integers(0, RUN_YAML.count("\n") - 1), st.sampled_from(["value", "gone", "before"]), VALUES
)


def change_run_yaml(change: tuple[int, str, str]) -> str:
    number, kind, text = change
    lines = RUN_YAML.splitlines()
    if kind == "gone":
        del lines[number]
    elif kind == "before":
        lines.insert(number, text)
    else:
        lines[number] = f"{lines[number].partition(':')[0]}: {text}"
    return "\n".join(lines)


def read_any_run(text: str) -> None:
    expect_an_answer(lambda: parse_run_yaml(text))


@drawn(CHANGES, FEW // 2)
def test_any_change_of_a_run_yaml_is_read_or_refused(change: tuple[int, str, str]) -> None:
    read_any_run(change_run_yaml(change))


@pytest.mark.slow
@drawn(st.one_of(CHANGES.map(change_run_yaml), st.text(max_size=40)), MANY // 3)
def test_many_run_yamls_are_read_or_refused(text: str) -> None:
    read_any_run(text)
