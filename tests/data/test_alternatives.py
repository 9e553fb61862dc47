"""Answers to prefer: refusals drawn by seed and row, a row's own, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import refused, write_rows
from small import NAMED_ROWS

from undial_cli.config.datasets import DataConfig
from undial_cli.data.alternatives import collect_alternatives, read_refusals
from undial_cli.runs.compose import compose_run
from undial_cli.runs.inputs import collect_preferred_answers, load_training_rows
from undial_cli.runs.resolved import ResolvedRun


def draw_refusals(rows: list[dict], turns: int = 4, seed: int = 0) -> list[list[list[str]]]:
    return collect_alternatives(rows, DataConfig(), "refusals", turns, seed, "method=dpo")


def test_refusals_are_drawn_by_seed_and_row_alone() -> None:
    answers = draw_refusals(NAMED_ROWS * 9, turns=20)
    assert answers == draw_refusals(NAMED_ROWS * 9, turns=20)
    assert answers != draw_refusals(NAMED_ROWS * 9, turns=20, seed=1)
    assert [drawn[:7] for (drawn,) in draw_refusals(NAMED_ROWS, turns=7)] == [
        d[:7] for (d,) in answers[:3]
    ]
    assert all(len(set(drawn)) > 10 for (drawn,) in answers)
    assert len({tuple(drawn) for (drawn,) in answers}) == 27
    assert {text for (drawn,) in answers for text in drawn} <= set(read_refusals(DataConfig()))


def test_refusals_are_taken_from_ones_own_file(tmp_path: Path) -> None:
    file = tmp_path / "no.txt"
    file.write_text("No.\n\n  Never.  \n")
    data = DataConfig(refusals=str(file))
    answers = collect_alternatives(NAMED_ROWS, data, "refusals", 30, 0, "method=dpo")
    assert {text for (drawn,) in answers for text in drawn} == {"No.", "Never."}
    file.write_text(" \n")
    refused(lambda: read_refusals(data), f"data.refusals={file}", "no line")
    refused(lambda: read_refusals(DataConfig(refusals="nowhere")), "data.refusals=nowhere")


@pytest.mark.parametrize("value", [3, [], ["fine", 3], ["fine", " "], "", "[]", {"a": "b"}, None])
def test_an_alternative_that_is_no_text_is_refused(value: object) -> None:
    rows = [
        {**NAMED_ROWS[0], "alternative_answers": ["x"]},
        {**NAMED_ROWS[1], "alternative_answers": value},
    ]
    refused(
        lambda: collect_alternatives(rows, DataConfig(), "data", 2, 0, "method=altpo"),
        "data.alternative_key=alternative_answers", "method=altpo", "row 2",
    )  # fmt: skip


def test_a_column_of_alternatives_that_is_not_there_is_named_with_those_that_are() -> None:
    data = DataConfig(alternative_key="other")
    refused(
        lambda: collect_alternatives(NAMED_ROWS, data, "data", 2, 0, "method=altpo"),
        "data.alternative_key=other", "row 1", "question, answer",
    )  # fmt: skip


@pytest.mark.parametrize("row", [{"text": "Ann bakes."}, {"input_ids": [5, 6, 7]}], ids=str)
@pytest.mark.parametrize("source", ["refusals", "data"])
def test_plain_text_has_no_answer_to_replace(row: dict, source: str) -> None:
    refused(
        lambda: collect_alternatives([row], DataConfig(), source, 2, 0, "method=dpo"),
        "method=dpo", "plain text", "questions",
    )  # fmt: skip


@pytest.mark.parametrize(
    "words, passes",
    [([], 3), (["data.anchor=retain"], 3 * 180 / 20), (["train.max_steps=40"], 40 * 10 / 20)],
    ids=str,
)
def test_there_is_a_draw_for_every_time_that_a_row_is_seen(words: list[str], passes: float) -> None:
    run = compose_run("unlearn", ["method=dpo", "train.epochs=3", "train.batch_size=10", *words])
    method = ResolvedRun(run).method
    assert method is not None
    rows = {name: load_training_rows(run.data, name) for name in method.terms()}
    assert {name: len(part) for name, part in rows.items()} == {"forget": 20, "retain": 180}
    assert all(
        len(drawn) == passes + 1 for (drawn,) in collect_preferred_answers(run, method, rows)
    )


def test_answers_of_a_file_belong_to_the_rows_that_say_the_same(tmp_path: Path) -> None:
    answered = [
        {**row, "alternative_answers": [f"{n}."]} for n, row in enumerate(reversed(NAMED_ROWS))
    ]
    data = DataConfig(path="hub/set", alternatives_file=write_rows(tmp_path / "a.jsonl", answered))
    answers = collect_alternatives(NAMED_ROWS, data, "data", 2, 0, "method=altpo")
    assert answers == [[["2."]], [["1."]], [["0."]]]
    other = [NAMED_ROWS[0], {"question": "Who is Di?", "answer": "Di bakes."}]
    refused(
        lambda: collect_alternatives(other, data, "data", 2, 0, "method=altpo"),
        "data.alternatives_file=", "row 2 of method=altpo", "undial alternatives",
    )  # fmt: skip
