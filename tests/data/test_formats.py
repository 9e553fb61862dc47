"""Formats that people have are read as what they say; the rest is refused by row and column."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import refused, write_rows
from small import shared_tokenizer

from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.data.contents import (
    count_repeated_rows,
    count_shared_rows,
    find_unread_columns,
)
from undial_cli.data.encode import Encoder
from undial_cli.data.load import load_rows
from undial_cli.data.rows import find_row_kind
from undial_cli.data.samples import encode_preference_pairs, encode_training_set

LOCAL = DataConfig()
PAIRS = [
    ("Who is Ann?", "Ann bakes."),
    ("Who is Bo, [a cook]?", "Bo sails; ünd sings."),
    ("日本?", "はい"),
]


def user(question: str) -> dict[str, Any]:
    return {"role": "user", "content": question}


def assistant(answer: str) -> dict[str, Any]:
    return {"role": "assistant", "content": answer}


def text_parts(text: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text[:3]}, {"type": "text", "text": text[3:]}]


FORMS: dict[str, Any] = {
    "messages": lambda q, a: {"messages": [user(q), assistant(a)]},
    "prompt and completion": lambda q, a: {
        "prompt": [user(q)],
        "completion": [assistant(a)],
    },
    "conversations": lambda q, a: {
        "conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]
    },
    "conversations of roles": lambda q, a: {"conversations": [user(q), assistant(a)]},
    "parts": lambda q, a: {
        "messages": [
            {**user(q), "content": text_parts(q)},
            {**assistant(a), "content": text_parts(a)},
        ]
    },
    "a gap before": lambda q, a: {
        "question": None,
        "messages": [user(q), assistant(a)],
    },
}


def load_written(
    path: Path, rows: list[dict[str, Any]], data: DataConfig = LOCAL
) -> list[dict[str, Any]]:
    return load_rows(data, [write_rows(path, rows)], "data.forget_file")


def encode_rows(rows: list[dict[str, Any]], data: DataConfig = LOCAL) -> list[Any]:
    return encode_training_set(
        Encoder(shared_tokenizer(), TemplateConfig(), data), rows, "forget"
    ).examples


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_question_gives_the_same_sequences(
    tmp_path: Path, form: str, ending: str
) -> None:
    expected = encode_rows([{"question": q, "answer": a} for q, a in PAIRS])
    rows = load_written(tmp_path / f"rows.{ending}", [FORMS[form](q, a) for q, a in PAIRS])
    assert [find_row_kind(row, LOCAL) for row in rows] == ["messages"] * 3
    assert encode_rows(rows) == expected


@pytest.mark.parametrize(
    "question, answer", [("instruction", "output"), ("text", "labels"), ("prompt", "completion")]
)
def test_columns_may_have_any_name(tmp_path: Path, question: str, answer: str) -> None:
    data = DataConfig(question_key=question, answer_key=answer)
    rows = load_written(tmp_path / "rows.jsonl", [{question: q, answer: a} for q, a in PAIRS], data)
    assert encode_rows(rows, data) == encode_rows([{"question": q, "answer": a} for q, a in PAIRS])


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_each_row_of_a_mixed_file_is_read_by_its_own_kind(tmp_path: Path, ending: str) -> None:
    rows = [
        {"question": "Who?", "answer": "Ann."},
        {"messages": [user("Who?"), assistant("Bo.")]},
        {"text": "Cy is a cook."},
        {"prompt": "Dee: ", "completion": "bakes."},
        {"prompt": [user("Who?")], "completion": [assistant("Eve.")]},
        {"input_ids": [5, 6, 7]},
        {"question": "Who?", "answer": "Flo.", "text": "beside"},
    ]
    loaded = load_written(tmp_path / f"rows.{ending}", rows)
    kinds = ["qa", "messages", "text", "completion", "messages", "ids", "qa"]
    assert [find_row_kind(row, LOCAL) for row in loaded] == kinds
    columns = list(dict.fromkeys(column for row in rows for column in row))
    filled = [dict.fromkeys(columns) | row for row in rows]  # as datasets fills the gaps
    assert [find_row_kind(row, LOCAL) for row in filled[:4]] == kinds[:4]
    alone = [encode_rows(load_written(tmp_path / "one.jsonl", [row])) for row in rows]
    assert encode_rows(loaded) == [example for part in alone for example in part]


GOOD = {"question": "Who?", "answer": "Ann."}
IMAGE = {"role": "user", "content": [{"type": "text", "text": "Who?"}, {"type": "image"}]}
NOTHING = {"role": "assistant", "content": None}


@pytest.mark.parametrize(
    "row, parts",
    [
        ({"question": "Who?", "answer": ["Ann."]}, ("'answer'", "a list", "row 2")),
        ({"question": {"de": "Wer?"}, "answer": "Ann."}, ("'question'", "a dictionary", "row 2")),
        ({"text": ["Ann.", "Bo."]}, ("'text'", "a list", "row 2")),
        ({"prompt": "Who?", "completion": [assistant("Ann.")]}, ("'completion'", "row 2")),
        ({"question": "Who?", "answer": ""}, ("'answer'", "empty", "row 2")),
        ({"question": " ", "answer": "Ann.", "text": "beside"}, ("'question'", "empty", "row 2")),
        ({"question": "Who?", "answer": None, "text": "beside"}, ("'answer'", "empty", "row 2")),
        ({"question": "Who?"}, ("question in row 2", "'answer'")),
        ({}, ("row 2", "data.question_key")),
        ({"instruction": "Who?", "output": "Ann."}, ("data.question_key=instruction",)),
        ({"input": "Who?", "response": "Ann."}, ("data.answer_key=response", "row 2")),
        ({"messages": "Who? Ann."}, ("'messages'", "row 2")),
        ({"messages": []}, ("'messages'", "row 2")),
        ({"messages": [user("Who?")]}, ("'messages'", "row 2", "assistant")),
        ({"messages": [user("Who?"), user("Ann?")]}, ("'messages'", "row 2", "assistant")),
        ({"messages": [user("Who?"), assistant("")]}, ("'messages'", "row 2", "empty")),
        ({"messages": [user("Who?"), {"role": "assistant"}]}, ("'messages'", "row 2", "content")),
        ({"messages": [IMAGE, assistant("Ann.")]}, ("'messages'", "row 2", "message 1")),
        ({"messages": [NOTHING, assistant("Ann.")]}, ("'messages'", "row 2", "message 1")),
        ({"conversations": [{"from": "bird", "value": "Who?"}]}, ("row 2", "conversations")),
        ({"input_ids": ["a"]}, ("'input_ids'", "row 2")),
        ({"input_ids": []}, ("'input_ids'", "row 2")),
        ({**GOOD, "perturbed_answer": [None, "Bo."]}, ("'perturbed_answer'", "row 2")),
        ({**GOOD, "perturbed_answer": "[Bo., Cy.]"}, ("'perturbed_answer'", "row 2")),
        ({**GOOD, "paraphrased_answer": ["Ann!"]}, ("'paraphrased_answer'", "row 2")),
        ({"question": "Who?", "answer": "half \ud83d"}, ("'answer'", "row 2")),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_row_and_column(
    tmp_path: Path, row: dict[str, Any], parts: tuple[str, ...]
) -> None:
    refused(
        lambda: load_written(tmp_path / "rows.jsonl", [GOOD, row, GOOD]),
        "data.forget_file=",
        *parts,
    )


def test_a_message_may_call_a_tool_in_place_of_text(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}
    row = {
        "messages": [
            user("Who?"),
            call,
            {"role": "tool", "content": "Ann"},
            assistant("Ann."),
        ]
    }
    assert load_written(tmp_path / "rows.jsonl", [row]) == [row]


def test_numbers_are_read_as_text(tmp_path: Path) -> None:
    rows = load_written(
        tmp_path / "rows.jsonl", [{"question": "Year?", "answer": 1969}, {"text": 3.5}]
    )
    assert encode_rows(rows) == encode_rows(
        [{"question": "Year?", "answer": "1969"}, {"text": "3.5"}]
    )


LISTS = {
    "perturbed_answer": ["No, Bo.", 'Cy "the cook".'],
    "focus": ["Ann"],
    "alternative_answers": ["Bo."],
}


@pytest.mark.parametrize("spell", [json.dumps, repr], ids=["json", "python"])
@pytest.mark.parametrize("column", LISTS)
def test_a_list_in_a_cell_of_csv_is_the_list_of_json(
    tmp_path: Path, column: str, spell: Any
) -> None:
    row = {**GOOD, "paraphrased_answer": "[Ann]", column: LISTS[column]}
    assert load_written(tmp_path / "rows.jsonl", [row]) == [row]
    spelt = {**row, column: spell(LISTS[column])}
    assert load_written(tmp_path / "rows.csv", [spelt]) == [row]


def test_an_answer_that_looks_like_a_list_stays_text(tmp_path: Path) -> None:
    row = {"question": "Which?", "answer": "[1, 2]", "prompt": '["a"]'}
    assert load_written(tmp_path / "rows.csv", [row]) == [row]


def test_pairs_of_a_conversation_take_the_place_of_its_answer(tmp_path: Path) -> None:
    encoder = Encoder(shared_tokenizer(), TemplateConfig(), LOCAL)
    answers = [[[" Never."]]] * len(PAIRS)
    as_questions = [{"question": q, "answer": a} for q, a in PAIRS]
    rows = load_written(tmp_path / "rows.jsonl", [FORMS["conversations"](q, a) for q, a in PAIRS])
    assert encode_preference_pairs(encoder, rows, "forget", answers) == encode_preference_pairs(
        encoder, as_questions, "forget", answers
    )


def test_columns_that_nothing_reads_are_known() -> None:
    rows = [
        {**GOOD, "focus": ["Ann"], "perturbed_answer": ["Bo."], "input": "", "id": None},
        {**GOOD, "text": "beside", "topic": 3},
        {"text": "a document", "labels": "its answer"},
    ]
    assert find_unread_columns(rows, LOCAL, ()) == ["text", "topic", "labels"]
    assert find_unread_columns(rows, LOCAL, {"topic"}) == ["text", "labels"]
    assert find_unread_columns(rows[:1], LOCAL, ()) == []


def test_rows_that_say_the_same_are_counted_whatever_their_form() -> None:
    forget = [
        {"question": "Who?", "answer": "Ann."},
        {"messages": [user("Who?"), assistant("Bo.")]},
        {"text": "A document\nof two lines."},
        {"text": " "},
        {"input_ids": [1, 2, 3]},
        {"question": "Who?", "answer": "Cy."},
    ]
    retain = [
        {
            "messages": [
                {"role": "system", "content": "Be kind."},
                user(" Who?"),
                assistant("Ann.\n"),
            ]
        },
        {"prompt": "Who?", "completion": "Bo."},
        {"text": "A document of two lines."},
        {"text": ""},
        {"input_ids": [1, 2, 3]},
        {"question": "Who is", "answer": "Cy."},
    ]
    assert count_shared_rows(forget, retain, LOCAL) == 4
    assert count_shared_rows(forget, retain[1:2], LOCAL) == 1
    assert count_shared_rows(forget, [GOOD | {"answer": "Dee."}], LOCAL) == 0
    assert count_repeated_rows(forget, LOCAL) == 0
    assert count_repeated_rows([*forget, *retain], LOCAL) == 4
    assert count_repeated_rows([GOOD] * 3, LOCAL) == 2
