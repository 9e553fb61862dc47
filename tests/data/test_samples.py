"""From rows to what a method is given: examples, pairs with other answers, examples with focus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import refused
from small import bundled_tokenizer

from undial_cli.config.schema import DataConfig, TemplateConfig
from undial_cli.data import alternatives
from undial_cli.data.alternatives import collect_alternatives
from undial_cli.data.encode import IGNORE, Encoder, Example
from undial_cli.data.samples import TrainingSet, encode_preference_pairs, encode_training_set
from undial_cli.methods.base import FocusSource
from undial_cli.runs.compose import compose_run
from undial_cli.runs.inputs import collect_preferred_answers, load_training_rows
from undial_cli.runs.resolved import ResolvedRun

TOKENIZER = bundled_tokenizer()
ROWS = [{"question": f"Who is {name}?", "answer": f"{name} bakes."} for name in ("Ann", "Bo", "Cy")]


def encoder(**data: Any) -> Encoder:
    return Encoder(TOKENIZER, TemplateConfig(), DataConfig(**data))


def said(example: Example) -> str:
    """The text of an example's targets, its end token left out."""
    targets = [y for y in example.labels if y != IGNORE]
    return TOKENIZER.decode(targets, skip_special_tokens=True)


def texts(found: TrainingSet) -> list[list[tuple[str, ...]]]:
    """The answers of each sample, turn by turn."""
    return [[tuple(said(found.examples[i]) for i in turn) for turn in s] for s in found.samples]


def refusals_of(rows: list[dict], turns: int = 4, seed: int = 0) -> list[list[list[str]]]:
    return collect_alternatives(rows, DataConfig(), "refusals", turns, seed, "method=dpo")


def test_each_row_is_paired_with_its_own_draw_of_every_turn() -> None:
    answers = refusals_of(ROWS)
    found = encode_preference_pairs(encoder(), ROWS, "forget", answers)
    assert texts(found) == [
        [(row["answer"], other) for other in drawn]
        for row, (drawn,) in zip(ROWS, answers, strict=True)
    ]
    for sample in found.samples:
        assert {true for true, _ in sample} == {sample[0][0]}
        prompts = {tuple(i for i, y in zip(e.input_ids, e.labels, strict=True) if y == IGNORE)
                   for e in (found.examples[i] for turn in sample for i in turn)}  # fmt: skip
        assert len(prompts) == 1


def test_refusals_are_drawn_by_seed_and_row_alone() -> None:
    answers = refusals_of(ROWS * 9, turns=20)
    assert answers == refusals_of(ROWS * 9, turns=20)
    assert answers != refusals_of(ROWS * 9, turns=20, seed=1)
    assert [drawn[:7] for (drawn,) in refusals_of(ROWS, turns=7)] == [d[:7] for (d,) in answers[:3]]
    assert all(len(set(drawn)) > 10 for (drawn,) in answers)
    assert len({tuple(drawn) for (drawn,) in answers}) == 27
    assert {text for (drawn,) in answers for text in drawn} <= set(
        alternatives.read_refusals(DataConfig())
    )


def test_refusals_are_taken_from_ones_own_file(tmp_path: Path) -> None:
    file = tmp_path / "no.txt"
    file.write_text("No.\n\n  Never.  \n")
    data = DataConfig(refusals=str(file))
    found = collect_alternatives(ROWS, data, "refusals", 30, 0, "method=dpo")
    assert {text for (drawn,) in found for text in drawn} == {"No.", "Never."}
    file.write_text(" \n")
    refused(lambda: alternatives.read_refusals(data), f"data.refusals={file}", "no line")
    refused(
        lambda: alternatives.read_refusals(DataConfig(refusals="nowhere")), "data.refusals=nowhere"
    )


def test_each_alternative_of_the_data_makes_a_sample_of_its_own() -> None:
    rows = [
        {**ROWS[0], "alternative_answers": ["Ann sails.", "Ann sings."]},
        {**ROWS[1], "alternative_answers": "Bo sails."},
        {**ROWS[2], "alternative_answers": json.dumps(["Cy sails.", "Cy swims.", "Cy sails."])},
    ]
    answers = collect_alternatives(rows, DataConfig(), "data", 4, 0, "method=altpo")
    found = encode_preference_pairs(encoder(), rows, "forget", answers)
    assert texts(found) == [
        [("Ann bakes.", "Ann sails.")],
        [("Ann bakes.", "Ann sings.")],
        [("Bo bakes.", "Bo sails.")],
        [("Cy bakes.", "Cy sails.")],
        [("Cy bakes.", "Cy swims.")],
        [("Cy bakes.", "Cy sails.")],
    ]
    assert len(found.examples) == 3 + 5  # the same text is encoded once


@pytest.mark.parametrize(
    "row, other",
    [
        ({"prompt": "Ann:", "completion": " bakes."}, {"prompt": "Ann:", "completion": " No."}),
        (
            {"messages": [{"role": "user", "content": "Ann?"},
                          {"role": "assistant", "content": "Bakes."}]},
            {"messages": [{"role": "user", "content": "Ann?"},
                          {"role": "assistant", "content": " No."}]},
        ),
    ],
    ids=["completion", "messages"],
)  # fmt: skip
def test_rows_of_every_kind_with_an_answer_can_be_paired(row: dict, other: dict) -> None:
    found = encode_preference_pairs(encoder(), [row], "forget", [[[" No."]]])
    own, alternative = encoder().encode([row, other])
    assert (found.examples, found.samples) == ([own, alternative], [[(0, 1)]])


@pytest.mark.parametrize("value", [3, [], ["fine", 3], ["fine", " "], "", "[]", {"a": "b"}, None])
def test_an_alternative_that_is_no_text_is_refused(value: object) -> None:
    rows = [{**ROWS[0], "alternative_answers": ["x"]}, {**ROWS[1], "alternative_answers": value}]
    refused(
        lambda: collect_alternatives(rows, DataConfig(), "data", 2, 0, "method=altpo"),
        "data.alternative_key=alternative_answers", "method=altpo", "row 2",
    )  # fmt: skip


def test_a_column_of_alternatives_that_is_not_there_is_named_with_those_that_are() -> None:
    data = DataConfig(alternative_key="other")
    refused(
        lambda: collect_alternatives(ROWS, data, "data", 2, 0, "method=altpo"),
        "data.alternative_key=other", "row 1", "question, answer",
    )  # fmt: skip


@pytest.mark.parametrize("row", [{"text": "Ann bakes."}, {"input_ids": [5, 6, 7]}], ids=str)
@pytest.mark.parametrize("source", ["refusals", "data"])
def test_plain_text_has_no_answer_to_replace(row: dict, source: str) -> None:
    refused(
        lambda: collect_alternatives([row], DataConfig(), source, 2, 0, "method=dpo"),
        "method=dpo", "plain text", "questions",
    )  # fmt: skip


def prompt_length(row: dict) -> int:
    (example,) = encoder().encode([row])
    return example.labels.index(next(y for y in example.labels if y != IGNORE))


def test_rows_that_are_cut_to_nothing_are_left_out_with_their_alternatives() -> None:
    long = {"question": "Who is Ann, " * 9 + "?", "answer": "Ann bakes."}
    size = prompt_length(ROWS[0]) + 2
    short = encoder(max_length=size)
    pairs = encode_preference_pairs(short, [long, ROWS[0]], "forget", [[["No."]], [["Never."]]])
    assert len(pairs.examples) == 2
    assert pairs.samples == [[(0, 1)]]
    alone = encode_training_set(short, [long, ROWS[0]], "retain")
    assert len(alone.examples) == 1
    for encoded in (pairs, alone):
        counts = encoded.counts
        assert (counts.read, counts.trained, counts.cut) == (2, 1, 1)
        assert counts.skipped == {1: f"no answer token within data.max_length={size}"}
    for call in (
        lambda: encode_preference_pairs(encoder(max_length=4), ROWS, "forget", [[["No."]]] * 3),
        lambda: encode_training_set(encoder(max_length=4), ROWS, "forget"),
    ):
        refused(call, "data.max_length=4", "forget")


def test_focus_words_mark_targets_and_must_be_within_the_length() -> None:
    rows = [{**ROWS[0], "focus": ["bakes"]}, {**ROWS[1], "focus": []}]
    found = encode_training_set(encoder(), rows, "forget", FocusSource("column"))
    marked = [[e.labels[i] for i in e.focus] for e in found.examples]
    assert [TOKENIZER.decode(ids).strip() for ids in marked] == ["bakes", ""]
    assert found.samples == []
    assert not any(e.focus for e in encode_training_set(encoder(), rows, "forget").examples)
    size = prompt_length(rows[0]) + 1
    refused(
        lambda: encode_training_set(encoder(max_length=size), rows, "forget", FocusSource("column")),
        "method.focus=column", "forget", f"data.max_length={size}",
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


def test_every_example_knows_the_row_that_it_was_made_of() -> None:
    rows: list[dict[str, Any]] = [
        {"question": "who " * 40, "answer": "lost"},
        {"text": "a long text of many words " * 9},
        ROWS[0],
    ]
    found = encode_training_set(encoder(max_length=32), rows, "forget")
    pieces = len(found.examples) - 1
    assert pieces > 1
    assert found.row_numbers == [2] * pieces + [3]
    pairs = encode_preference_pairs(
        encoder(max_length=32), [rows[0], *ROWS], "forget", refusals_of([rows[0], *ROWS])
    )
    assert set(pairs.row_numbers) == {2, 3, 4}
    assert len(pairs.row_numbers) == len(pairs.examples)
