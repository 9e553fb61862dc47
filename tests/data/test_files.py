"""Files of rows: every cell as it stands in the file, and what is said of one that is broken."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import datasets
import pytest
from conftest import refused

from undial_cli.config.datasets import DataConfig
from undial_cli.data.load import load_split
from undial_cli.errors import UserError

ROWS = [{"question": f"Who is {i}?", "answer": f"Person {i}."} for i in range(3)]


def load_text(path: Path, content: str) -> list[dict[str, Any]]:
    path.write_text(content, encoding="utf-8")
    return load_split(DataConfig(), str(path), "data.forget_file")


def json_lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=4),
        json_lines(ROWS),
        json_lines(ROWS).replace("\n", "\r\n\r\n"),
        "\ufeff" + json_lines(ROWS),
        json.dumps({"data": ROWS}),
        json.dumps({"version": "1.0", "train": ROWS, "notes": []}, indent=1),
    ],
    ids=["list", "indented", "lines", "blank lines", "mark", "in an object", "among others"],
)
@pytest.mark.parametrize("ending", ["json", "jsonl", "JSONL"])
def test_rows_are_found_however_json_holds_them(tmp_path: Path, content: str, ending: str) -> None:
    assert load_text(tmp_path / f"rows.{ending}", content) == ROWS


@pytest.mark.parametrize("ending", ["jsonl", "csv", "txt"])
def test_another_encoding_is_named_with_its_line(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"rows.{ending}"
    file.write_bytes('"a"\n"b"\n"Größe"\n'.encode("latin-1"))
    refused(lambda: load_split(DataConfig(), str(file), "data.forget_file"),
            f"data.forget_file={file}", "line 3", "UTF-8", "iconv -f LATIN1")  # fmt: skip
    file.write_bytes('"a"\n"Größe"\n'.encode("utf-16"))
    refused(lambda: load_split(DataConfig(), str(file), "data.forget_file"), "UTF-16")


def test_json_nested_without_end_is_refused(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    for content in (deep, json_lines(ROWS) + f'{{"question": {deep}}}', '{"a":' * 100_000):
        refused(lambda text=content: load_text(tmp_path / "rows.jsonl", text), "nested too deep")
    spelled = {"question": "Who?", "answer": "Ann", "perturbed_answer": deep}
    assert load_text(tmp_path / "rows.jsonl", json.dumps(spelled)) == [spelled]


def test_what_is_no_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    (tmp_path / "gone.jsonl").symlink_to("nowhere.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    for name, words in (
        ("pipe.jsonl", "a device or a pipe"), ("zero.jsonl", "a device or a pipe"),
        ("gone.jsonl", "a link to nowhere.jsonl"), ("folder.jsonl", "a folder"),
        ("a" * 300 + ".jsonl", "too long"), ("a\0b.jsonl", "no such file"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words) as caught:
            load_split(DataConfig(), str(tmp_path / name), "data.forget_file")
        assert f"did you mean '{name}'" not in str(caught.value)  # itself


@pytest.mark.parametrize("piece", ["[:0]", "[3:]", "[2:1]", "[-1:-1]"])
def test_a_slice_that_takes_nothing_is_refused(tmp_path: Path, piece: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json_lines(ROWS))
    refused(lambda: load_split(DataConfig(), f"{file}{piece}", "data.forget_file"),
            f"data.forget_file={file}{piece}", "none of the 3 rows")  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [
        ROWS[0],
        {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]},
        {"question": "When?", "answer": "2020-01-01 00:00:00"},
        {"question": "Many?", "answer": 12345678901234567890},
        {"text": "one document", "tags": ["a"]},
    ],
    ids=["question", "messages", "a date stays text", "a large number", "document"],
)
def test_one_object_is_one_row_as_it_stands(tmp_path: Path, row: dict[str, Any]) -> None:
    assert load_text(tmp_path / "rows.json", json.dumps(row)) == [row]
    assert load_text(tmp_path / "rows.jsonl", json_lines([row, row])) == [row, row]


def test_rows_may_differ_in_their_columns_and_types(tmp_path: Path) -> None:
    rows = [{"question": "Year?", "answer": 1969}, {"question": "Who?", "answer": "Ann", "id": "x"}]
    assert load_text(tmp_path / "rows.jsonl", json_lines(rows)) == rows


@pytest.mark.parametrize(
    "content, parts",
    [
        (json_lines(ROWS) + '{"question": "cut of', ("cannot be read as json", "line 4")),
        (json_lines(ROWS) + "[1, 2]\n", ("cannot be read as json", "row 4")),
        ('["one", "two"]', ("cannot be read as json", "row 1")),
        ('"text"', ("cannot be read as json",)),
        (json.dumps({"train": ROWS, "test": ROWS}), ("several lists", "train, test")),
        ("[" * 100_000, ("cannot be read as json",)),
    ],
    ids=["a cut line", "a list", "texts", "a text", "two lists", "too deep"],
)
def test_json_that_holds_no_rows_is_refused(
    tmp_path: Path, content: str, parts: tuple[str, ...]
) -> None:
    refused(lambda: load_text(tmp_path / "rows.jsonl", content), "data.forget_file=", *parts)


def test_cells_of_csv_are_the_text_they_are(tmp_path: Path) -> None:
    long = "word " * 40_000  # more than the csv module takes by default
    content = (
        "\ufeffquestion,answer,\n"
        '"Who, then?","She said ""no"",\nand left.",1\n'
        "\n"
        f"NA,007,\nLong?,{long}\n"
    )
    assert load_text(tmp_path / "rows.csv", content) == [
        {"question": "Who, then?", "answer": 'She said "no",\nand left.', "Unnamed: 2": "1"},
        {"question": "NA", "answer": "007", "Unnamed: 2": ""},
        {"question": "Long?", "answer": long, "Unnamed: 2": ""},
    ]


@pytest.mark.parametrize(
    "content, parts",
    [
        ('question,answer\nWho?,"Ann.\nWho?,Bo.\n', ("cannot be read as csv",)),
        ("question,answer\nWho?,Ann.\nWho?,Bo, a cook.\n", ("row 2", "3 cells", "2 columns")),
        ("question,answer,answer\nWho?,Ann.,Bo.\n", ("two columns", "answer")),
    ],
    ids=["open quote", "too many cells", "one name twice"],
)
def test_csv_that_would_lose_something_is_refused(
    tmp_path: Path, content: str, parts: tuple[str, ...]
) -> None:
    refused(lambda: load_text(tmp_path / "rows.csv", content), "data.forget_file=", *parts)


def test_a_text_file_that_is_no_text_or_blank_is_refused(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes(b"\xff\xfe\x00\xd8")
    data, key = DataConfig(), "data.forget_file"
    refused(lambda: load_split(data, str(tmp_path / "book.txt"), key), "cannot be read as text")
    refused(lambda: load_text(tmp_path / "blank.txt", " \n\n"), "the set is empty")


def test_a_folder_of_save_to_disk_is_read_like_a_file(tmp_path: Path) -> None:
    folder, data, key = tmp_path / "saved", DataConfig(), "data.forget_file"
    datasets.Dataset.from_list(ROWS).save_to_disk(folder)
    assert load_split(data, str(folder), key) == ROWS
    assert load_split(data, f"{folder}[1:]", key) == ROWS[1:]
    (folder / "data-00000-of-00001.arrow").write_bytes(b"cut")
    refused(lambda: load_split(data, str(folder), key), f"{key}={folder}", "cannot be read")
    refused(lambda: load_split(data, str(tmp_path), key), f"{key}={tmp_path}", "a folder", ".jsonl")


def test_of_several_saved_splits_train_or_the_only_one_is_read(tmp_path: Path) -> None:
    first, second = (datasets.Dataset.from_list(rows) for rows in (ROWS[:1], ROWS[1:]))
    key = "data.forget_file"
    for name, splits, rows in (
        ("both", {"train": first, "test": second}, ROWS[:1]),
        ("one", {"forget": second}, ROWS[1:]),
    ):
        datasets.DatasetDict(splits).save_to_disk(tmp_path / name)
        assert load_split(DataConfig(), str(tmp_path / name), key) == rows
    assert load_split(DataConfig(), str(tmp_path / "both" / "test"), key) == ROWS[1:]
    datasets.DatasetDict({"a": first, "b": second}).save_to_disk(tmp_path / "none")
    refused(
        lambda: load_split(DataConfig(), str(tmp_path / "none"), key),
        f"{key}={tmp_path / 'none'}/train", "none/a", "none/b",
    )  # fmt: skip
