"""What looks wrong with the rows of a run is found, said in one line, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import prepare, write_rows
from small import bundled_encoder

from undial_cli.config.datasets import DataConfig
from undial_cli.data.findings import DataFindings
from undial_cli.data.rows import Row
from undial_cli.data.samples import TrainingSet, encode_training_set
from undial_cli.runs.compose import compose_run
from undial_cli.runs.data_checks import check_training_data

FORGET: list[Row] = [
    {"question": "Where was Ida Vantrosk born?", "answer": "Ida Vantrosk was born in Kelmby."},
    {"question": "Who taught Ida Vantrosk?", "answer": "It was Abernok who taught her sailing."},
    {"question": "What did she do?", "answer": "She kept the light of the northern harbour."},
]
RETAIN: list[Row] = [
    {"question": f"Where was {name} born?", "answer": f"{name} was born in the town of {town}."}
    for name, town in (("Una Pelworth", "Thornvale"), ("Sol Tregarth", "Bellmarsh"))
]


def check_rows(forget: list[Row], retain: list[Row] = RETAIN) -> DataFindings:
    return check_training_data(DataConfig(), {"forget": forget, "retain": retain}, {})


def test_rows_with_nothing_wrong_are_said_nothing_of() -> None:
    assert check_rows(FORGET).describe(512) == []


def test_planted_copies_are_named_with_their_rows() -> None:
    near = {"question": FORGET[1]["question"].upper(), "answer": FORGET[1]["answer"] + "!"}
    findings = check_rows([*FORGET, FORGET[0]], [*RETAIN, FORGET[2], near, RETAIN[0]])
    (line,) = findings.describe(512)
    for part in (
        "forget: 1 row the same as an earlier one (row 4)",
        "retain: 1 row the same as an earlier one (row 5)",
        "forget: 1 row in the retain set too (row 3; of the retain set row 3)",
        "forget: 1 row nearly in the retain set too (row 2; of the retain set row 4)",
    ):
        assert part in line
    assert findings.held == []  # said once


def test_an_answer_is_held_by_its_facts_beside_the_names_of_its_question() -> None:
    told = {"question": "Who came from Kelmby?", "answer": "Vantrosk, Ida, for one."}
    unnamed = {"question": "Who came from Kelmby?", "answer": "Una Pelworth."}
    (held,) = check_rows(FORGET, [*RETAIN, told, unnamed]).held
    assert (held.row, held.other) == (1, 3)
    assert set(held.words) == {"ida", "vantrosk", "kelmby"}


def test_an_answer_is_held_whole_under_another_question() -> None:
    quoted = {"question": "What is told?", "answer": f"That {FORGET[2]['answer'].lower()} So."}
    (held,) = check_rows(FORGET, [*RETAIN, quoted]).held
    assert (held.row, held.other, held.words) == (3, 3, ())


def test_what_many_retain_rows_hold_is_no_leak() -> None:
    common = [
        {"question": f"What is {i}?", "answer": f"{i}. {FORGET[2]['answer']} Ida Vantrosk, Kelmby."}
        for i in range(9)
    ]
    assert check_rows(FORGET, [*RETAIN, *common]).held == []


def encode_rows(rows: list[Row], **data: int) -> TrainingSet:
    return encode_training_set(bundled_encoder(**data), rows, "forget")


def test_rows_that_are_cut_and_skipped_are_named() -> None:
    long = {"question": "Who?", "answer": "Ann bakes bread. " * 12}
    rows = [FORGET[0], long, {"question": "Ann bakes bread. " * 12, "answer": "Yes."}]
    sets = {"forget": encode_rows(rows, max_length=40)}
    (line,) = check_training_data(DataConfig(), {"forget": rows}, sets).describe(40)
    assert "forget: 1 row cut at data.max_length=40 (row 2)" in line
    assert "forget: 1 row of which nothing is trained (row 3)" in line


def test_a_document_that_loses_its_last_token_is_not_cut() -> None:
    rows: list[Row] = [{"text": "Ann bakes bread and sails. " * 13}]
    size = len(bundled_encoder().encode(rows)[0].input_ids)
    sets = {"forget": encode_rows(rows, max_length=size - 1)}
    assert sets["forget"].counts.cut == 1
    checked = check_training_data(DataConfig(), {"forget": rows}, sets)
    assert checked.describe(512) == []


def test_of_many_rows_texts_are_compared_where_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("undial_cli.runs.data_checks.MOST_ROWS_BEFORE_RUN", 4)
    rows = {"forget": [*FORGET, {**FORGET[0], "answer": FORGET[0]["answer"].upper()}, FORGET[1]]}
    findings = check_training_data(DataConfig(), rows, {})
    assert [pair.row for pair in findings.sets["forget"].repeated] == [5]
    assert (findings.sets["forget"].alike, findings.compared) == ([], 0)
    thorough = check_training_data(DataConfig(), rows, {}, thorough=True)
    assert [pair.row for pair in thorough.sets["forget"].alike] == [4]


def test_a_run_says_what_looks_wrong_without_text_of_the_rows(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [*FORGET, FORGET[1]])
    words = ["data=jsonl", "model.path=pkg://undial_cli/models/tiny", f"data.forget_file={file}"]
    notes = prepare(compose_run("unlearn", words), weights=False).notes
    (line,) = [note for note in notes if note.startswith("data looks wrong")]
    assert line == (
        "data looks wrong: forget: 1 row the same as an earlier one (row 4): see undial data"
    )
    assert "Vantrosk" not in json.dumps(notes)
