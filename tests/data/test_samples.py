"""From rows to what a method is given: examples, pairs with other answers, examples with focus."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import refused
from small import NAMED_ROWS, bundled_encoder, shared_tokenizer

from undial_cli.config.datasets import DataConfig
from undial_cli.data.alternatives import collect_alternatives
from undial_cli.data.encode import IGNORE, Example
from undial_cli.data.samples import TrainingSet, encode_preference_pairs, encode_training_set
from undial_cli.methods.base import FocusSource

TOKENIZER = shared_tokenizer()


def answer_text(example: Example) -> str:
    """The text of an example's targets, its end token left out."""
    targets = [y for y in example.labels if y != IGNORE]
    return TOKENIZER.decode(targets, skip_special_tokens=True)


def sample_texts(encoded: TrainingSet) -> list[list[tuple[str, ...]]]:
    """The answers of each sample, turn by turn."""
    return [
        [tuple(answer_text(encoded.examples[i]) for i in turn) for turn in s]
        for s in encoded.samples
    ]


def test_each_row_is_paired_with_its_own_draw_of_every_turn() -> None:
    answers = collect_alternatives(NAMED_ROWS, DataConfig(), "refusals", 4, 0, "method=dpo")
    encoded = encode_preference_pairs(bundled_encoder(), NAMED_ROWS, "forget", answers)
    assert sample_texts(encoded) == [
        [(row["answer"], other) for other in drawn]
        for row, (drawn,) in zip(NAMED_ROWS, answers, strict=True)
    ]
    for sample in encoded.samples:
        assert {true for true, _ in sample} == {sample[0][0]}
        prompts = {tuple(i for i, y in zip(e.input_ids, e.labels, strict=True) if y == IGNORE)
                   for e in (encoded.examples[i] for turn in sample for i in turn)}  # fmt: skip
        assert len(prompts) == 1


def test_each_alternative_of_the_data_makes_a_sample_of_its_own() -> None:
    rows = [
        {**NAMED_ROWS[0], "alternative_answers": ["Ann sails.", "Ann sings."]},
        {**NAMED_ROWS[1], "alternative_answers": "Bo sails."},
        {
            **NAMED_ROWS[2],
            "alternative_answers": json.dumps(["Cy sails.", "Cy swims.", "Cy sails."]),
        },
    ]
    answers = collect_alternatives(rows, DataConfig(), "data", 4, 0, "method=altpo")
    encoded = encode_preference_pairs(bundled_encoder(), rows, "forget", answers)
    assert sample_texts(encoded) == [
        [("Ann bakes.", "Ann sails.")],
        [("Ann bakes.", "Ann sings.")],
        [("Bo bakes.", "Bo sails.")],
        [("Cy bakes.", "Cy sails.")],
        [("Cy bakes.", "Cy swims.")],
        [("Cy bakes.", "Cy sails.")],
    ]
    assert len(encoded.examples) == 3 + 5  # the same text is encoded once


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
    encoded = encode_preference_pairs(bundled_encoder(), [row], "forget", [[[" No."]]])
    own, alternative = bundled_encoder().encode([row, other])
    assert (encoded.examples, encoded.samples) == ([own, alternative], [[(0, 1)]])


def prompt_length(row: dict) -> int:
    (example,) = bundled_encoder().encode([row])
    return example.labels.index(next(y for y in example.labels if y != IGNORE))


def test_rows_that_are_cut_to_nothing_are_left_out_with_their_alternatives() -> None:
    long = {"question": "Who is Ann, " * 9 + "?", "answer": "Ann bakes."}
    size = prompt_length(NAMED_ROWS[0]) + 2
    short = bundled_encoder(max_length=size)
    pairs = encode_preference_pairs(
        short, [long, NAMED_ROWS[0]], "forget", [[["No."]], [["Never."]]]
    )
    assert len(pairs.examples) == 2
    assert pairs.samples == [[(0, 1)]]
    alone = encode_training_set(short, [long, NAMED_ROWS[0]], "retain")
    assert len(alone.examples) == 1
    for encoded in (pairs, alone):
        counts = encoded.counts
        assert (counts.read, counts.trained, counts.cut) == (2, 1, 1)
        assert counts.skipped == {1: f"no answer token within data.max_length={size}"}
    for call in (
        lambda: encode_preference_pairs(
            bundled_encoder(max_length=4), NAMED_ROWS, "forget", [[["No."]]] * 3
        ),
        lambda: encode_training_set(bundled_encoder(max_length=4), NAMED_ROWS, "forget"),
    ):
        refused(call, "data.max_length=4", "forget")


def test_focus_words_mark_targets_and_must_be_within_the_length() -> None:
    rows = [{**NAMED_ROWS[0], "focus": ["bakes"]}, {**NAMED_ROWS[1], "focus": []}]
    encoded = encode_training_set(bundled_encoder(), rows, "forget", FocusSource("column"))
    marked = [[e.labels[i] for i in e.focus] for e in encoded.examples]
    assert [TOKENIZER.decode(ids).strip() for ids in marked] == ["bakes", ""]
    assert encoded.samples == []
    assert not any(e.focus for e in encode_training_set(bundled_encoder(), rows, "forget").examples)
    size = prompt_length(rows[0]) + 1
    encoder = bundled_encoder(max_length=size)
    refused(
        lambda: encode_training_set(encoder, rows, "forget", FocusSource("column")),
        "method.focus=column", "forget", f"data.max_length={size}",
    )  # fmt: skip


def test_every_example_knows_the_row_that_it_was_made_of() -> None:
    rows: list[dict[str, Any]] = [
        {"question": "who " * 40, "answer": "lost"},
        {"text": "a long text of many words " * 9},
        NAMED_ROWS[0],
    ]
    encoded = encode_training_set(bundled_encoder(max_length=32), rows, "forget")
    pieces = len(encoded.examples) - 1
    assert pieces > 1
    assert encoded.row_numbers == [2] * pieces + [3]
    rows = [rows[0], *NAMED_ROWS]
    answers = collect_alternatives(rows, DataConfig(), "refusals", 4, 0, "method=dpo")
    pairs = encode_preference_pairs(bundled_encoder(max_length=32), rows, "forget", answers)
    assert set(pairs.row_numbers) == {2, 3, 4}
    assert len(pairs.row_numbers) == len(pairs.examples)
