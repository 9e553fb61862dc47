"""Loading splits, slices, files and folders, and what is said when one is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import prepare, refused, write_rows

from undial_cli.config.datasets import DataConfig
from undial_cli.data.columns import check_columns
from undial_cli.data.load import load_rows, load_split
from undial_cli.data.rows import find_row_kind
from undial_cli.runs.compose import compose_run

pytestmark = pytest.mark.usefixtures("datasets_cache")
ROWS = [{"question": f"Who is {i}? äß", "answer": f"Person, {i}"} for i in range(10)]
DEMO = "pkg://undial_cli/data/demo"
LOCAL = DataConfig(path=None)


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "parquet"])
def test_a_file_of_any_kind_gives_its_rows(tmp_path: Path, ending: str) -> None:
    file = write_rows(tmp_path / f"rows.{ending}", ROWS)
    assert load_split(LOCAL, file, "data.forget_file") == ROWS


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_text("First line.\n\nSecond ünit.\n", encoding="utf-8")
    (row,) = load_split(LOCAL, str(file), "data.forget_file")
    assert row["text"].strip() == "First line.\n\nSecond ünit."
    assert find_row_kind(row, LOCAL) == "text"


@pytest.mark.parametrize(
    "piece, expected",
    [
        ("[:3]", ROWS[:3]),
        ("[7:]", ROWS[7:]),
        ("[2:5]", ROWS[2:5]),
        ("[-2:]", ROWS[-2:]),
        ("[:50%]", ROWS[:5]),
        ("[:]", ROWS),
    ],
)
def test_a_slice_takes_those_rows(
    tmp_path: Path, piece: str, expected: list[dict[str, Any]]
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", ROWS)
    assert load_split(LOCAL, file + piece, "data.forget_file") == expected


def test_a_slice_of_a_data_set_in_hub_layout_takes_those_rows() -> None:
    data = DataConfig(path=DEMO)
    whole = load_split(data, "forget10", "data.forget_split")
    assert len(whole) == 20
    assert load_split(data, "forget10[5:8]", "data.forget_split") == whole[5:8]


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert load_split(LOCAL, write_rows(file, ROWS), "data.forget_file") == ROWS
    changed = [{**row, "answer": row["answer"].upper()} for row in ROWS]
    assert load_split(LOCAL, write_rows(file, changed), "data.forget_file") == changed


def test_a_folder_with_data_files_in_its_card_is_loaded_like_the_hub(tmp_path: Path) -> None:
    write_rows(tmp_path / "one.json", ROWS[:4])
    write_rows(tmp_path / "two.json", ROWS[4:])
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: one.json\n"
        "- config_name: two\n  data_files: two.json\n---\n"
    )
    data = DataConfig(path=str(tmp_path))
    assert load_split(data, "one", "data.forget_split") == ROWS[:4]
    assert load_rows(data, ["two", "one"], "data.train_split") == ROWS[4:] + ROWS[:4]


def test_limit_takes_the_first_rows_of_the_whole_set(tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.jsonl", ROWS[:6])
    second = write_rows(tmp_path / "b.jsonl", ROWS[6:])
    words = ["data=jsonl", f"data.train_file=[{first},{second}]", "data.limit=7", "eval=none"]
    inputs = prepare(compose_run("finetune", words))
    texts = [inputs.encoder.decode(e.input_ids) for e in inputs.sets["train"]]
    assert [row["answer"] in text for row, text in zip(ROWS, texts, strict=False)] == [True] * 7
    assert inputs.counts["train"].beyond == 3


def test_a_wrong_split_names_those_there_are_and_the_nearest() -> None:
    refused(
        lambda: load_split(DataConfig(path=DEMO), "forgett10[:3]", "data.forget_split"),
        "data.forget_split=forgett10", "retain90", "did you mean 'forget10'?",
    )  # fmt: skip


def test_a_misspelt_file_names_the_nearest(tmp_path: Path) -> None:
    write_rows(tmp_path / "people.jsonl", ROWS)
    refused(
        lambda: load_split(LOCAL, str(tmp_path / "poeple.jsonl"), "data.forget_file"),
        "data.forget_file=", "no such file", "did you mean 'people.jsonl'?",
    )  # fmt: skip


def test_a_missing_folder_is_named() -> None:
    refused(
        lambda: load_split(DataConfig(path="./no/such/folder"), "full", "data.forget_split"),
        "data.path=./no/such/folder", "no such folder",
    )  # fmt: skip


@pytest.mark.parametrize("content", ["", "\n", "[]"], ids=["no_bytes", "blank_line", "empty_list"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / ("rows.json" if content == "[]" else "rows.jsonl")
    file.write_text(content)
    refused(lambda: load_split(LOCAL, str(file), "data.forget_file"), "data.forget_file=")


def test_a_slice_that_takes_nothing_is_refused(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", ROWS)
    refused(lambda: load_split(LOCAL, file + "[3:3]", "data.forget_file"), "data.forget_file=")


def test_an_unknown_ending_names_those_allowed(tmp_path: Path) -> None:
    (tmp_path / "rows.xls").write_text("x")
    refused(
        lambda: load_split(LOCAL, str(tmp_path / "rows.xls"), "data.forget_file"),
        ".jsonl", ".csv", ".parquet", ".txt",
    )  # fmt: skip


def test_broken_json_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"question": "Who?", "answer": \n')
    refused(lambda: load_split(LOCAL, str(file), "data.forget_file"), "cannot be read as json")


def test_a_missing_column_names_the_columns_found_and_the_nearest(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.csv", [{"question": "Who?", "answers": "Ann"}])
    refused(
        lambda: load_rows(LOCAL, [file], "data.forget_file"),
        "data.forget_file=", "question, answers", "data.answer_key", "did you mean 'answers'?",
    )  # fmt: skip


@pytest.mark.parametrize("gap", [None, ""], ids=["null", "empty"])
@pytest.mark.parametrize("column", ["question", "answer"])
def test_a_row_with_an_empty_field_is_refused(column: str, gap: str | None) -> None:
    rows = [*ROWS, {**ROWS[0], column: gap}]
    refused(lambda: check_columns(rows, LOCAL, "data.forget_file=x"), column, "11")


def test_a_column_without_a_name_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(",text\n0,first\n1,second\n", encoding="utf-8")
    rows = load_split(LOCAL, str(tmp_path / "rows.csv"), "data.forget_file")
    assert [row["text"] for row in rows] == ["first", "second"]


def test_digits_in_a_csv_stay_the_text_they_are(tmp_path: Path) -> None:
    rows = [{"question": "Code?", "answer": "007"}, {"question": "Price?", "answer": "1.50"}]
    assert load_split(LOCAL, write_rows(tmp_path / "rows.csv", rows), "data.forget_file") == rows


@pytest.mark.parametrize(
    "row, kind",
    [
        ({"question": "q", "answer": "a", "text": "t"}, "qa"),
        ({"messages": [], "text": "t"}, "messages"),
        ({"prompt": "p", "completion": "c"}, "completion"),
        ({"text": "t"}, "text"),
        ({"question": "q"}, ""),
    ],
)
def test_the_kind_of_a_row_follows_its_columns(row: dict[str, Any], kind: str) -> None:
    assert find_row_kind(row, LOCAL) == kind
