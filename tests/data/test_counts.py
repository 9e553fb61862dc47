"""What became of the rows of a set: whatever is in it, the counts add up and are the true ones."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conftest import refused, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from small import bundled_encoder, shared_tokenizer

from undial_cli.cli import run_command
from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.data.counts import RowCounts
from undial_cli.data.encode import Encoder
from undial_cli.data.example import Example
from undial_cli.data.load import load_rows
from undial_cli.data.rows import Row
from undial_cli.data.samples import encode_preference_pairs, encode_row, encode_training_set
from undial_cli.data.schedule import Schedule, deal_rows
from undial_cli.errors import RowError, UserError

TOKENIZER = shared_tokenizer()
SIZE = 40
LONG = "Ann bakes bread and sails. " * 12


def qa_row(text: str, answer: str) -> Row:
    return {"question": text, "answer": answer}


def message_row(*texts: str) -> Row:
    roles = ["user", "assistant"] * len(texts)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]}


USABLE = [
    qa_row("Who?", "Ann."),
    qa_row("誰ですか?", "アンはパン屋です。"),
    qa_row("Кто?", "Анна печёт хлеб 😀."),
    qa_row("Who?", LONG),
    qa_row(LONG, "Ann."),
    message_row("Who?", "Ann."),
    message_row("Who?", "Ann.", "And Bo?", "A cook."),
    message_row("Who?", "Ann.", LONG, "Bo."),
    {"prompt": "Dee: ", "completion": "bakes."},
    {"text": "Ann is a baker."},
    {"text": LONG},
    {"text": ""},
    {"text": "a"},
    {"input_ids": [5, 6, 7]},
    {"input_ids": [5]},
]
MALFORMED = [
    qa_row("Who?", ""),
    {"question": "Who?", "answer": None},
    {"question": "Who?", "answer": ["Ann."]},
    message_row("Who?"),
    {"messages": "Who?"},
    {"unknown": "column"},
    {},
]


def count_by_hand(row: Row) -> tuple[int, int, int]:
    """Trained and lost targets of a row, and its sequences, by cutting it uncut: (3 counts)."""
    kept, lost, sequences = 0, 0, 0
    for whole in bundled_encoder(max_length=10_000).encode([row]):
        is_answer = "text" not in row and "input_ids" not in row
        starts = [0] if is_answer else range(0, len(whole.labels), SIZE)
        for start in starts:
            targets = [y != -100 for y in whole.labels[start:]]
            inside = sum(targets[1:SIZE])
            kept, sequences = kept + inside, sequences + (inside > 0)
            lost += sum(targets[SIZE:]) if is_answer else 0
    return kept, lost if kept else 0, sequences


def read_through_a_file(rows: list[Row]) -> list[Row]:
    """Rows by way of a file."""
    with tempfile.TemporaryDirectory() as folder:
        return load_rows(
            DataConfig(), [write_rows(Path(folder, "rows.jsonl"), rows)], "data.forget_file"
        )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(USABLE), min_size=1, max_size=9))
def test_read_is_trained_and_skipped_whatever_is_in_a_set(rows: list[Row]) -> None:
    each = [count_by_hand(row) for row in rows]
    if not any(kept for kept, _, _ in each):
        refused(
            lambda: encode_training_set(
                bundled_encoder(max_length=SIZE), read_through_a_file(rows), "forget"
            ),
            "forget set",
        )
        return
    encoded = encode_training_set(
        bundled_encoder(max_length=SIZE), read_through_a_file(rows), "forget"
    )
    counts = encoded.counts
    assert counts.read == counts.trained + len(counts.skipped) == len(rows)
    assert set(counts.skipped) == {n for n, (kept, _, _) in enumerate(each, 1) if not kept}
    assert counts.tokens == sum(kept for kept, _, _ in each)
    assert counts.tokens == sum(e.num_targets for e in encoded.examples)
    assert counts.lost == sum(lost for _, lost, _ in each)
    assert counts.cut == sum(lost > 0 for _, lost, _ in each)
    assert counts.sequences == sum(made for _, _, made in each) == len(encoded.examples)
    assert counts.documents == sum("text" in row or "input_ids" in row for row in rows)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(USABLE), max_size=4),
    st.sampled_from(MALFORMED),
    st.lists(st.sampled_from(USABLE + MALFORMED), max_size=3),
)
def test_the_first_malformed_row_is_named_wherever_it_stands(
    before: list[Row], malformed: Row, after: list[Row]
) -> None:
    rows = [*before, malformed, *after]
    refused(lambda: read_through_a_file(rows), "data.forget_file=", f"row {len(before) + 1}")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(USABLE[:6]), min_size=1, max_size=6))
def test_pairs_are_counted_like_the_rows_they_are_made_of(rows: list[Row]) -> None:
    answers = [[["No.", "Never."]] for _ in rows]
    each = [count_by_hand(row) for row in rows]
    if not any(kept for kept, _, _ in each):
        refused(
            lambda: encode_preference_pairs(
                bundled_encoder(max_length=SIZE), rows, "forget", answers
            ),
            "forget set",
        )
        return
    encoded = encode_preference_pairs(bundled_encoder(max_length=SIZE), rows, "forget", answers)
    counts = encoded.counts
    assert counts.read == counts.trained + len(counts.skipped) == len(rows)
    assert counts.trained == len(encoded.samples) == len({s[0][0] for s in encoded.samples})
    assert counts.tokens == sum(kept for kept, _, _ in each)


class Picky(Encoder):
    """An encoder that cannot render an odd row, as a chat template may be."""

    def encode_each(self, rows: list[Row], spans: Any = None) -> list[list[Example] | UserError]:
        refusal = RowError("the template refuses it")
        encoded = zip(rows, super().encode_each(rows, spans), strict=True)
        return [refusal if "odd" in str(row) else part for row, part in encoded]


def test_a_row_that_cannot_be_encoded_is_skipped_with_its_reason() -> None:
    picky = Picky(TOKENIZER, TemplateConfig(), DataConfig(max_length=SIZE))
    rows = [qa_row("odd?", "Ann."), qa_row("Who?", "Bo."), qa_row(LONG, "Cy.")]
    too_long = f"no answer token within data.max_length={SIZE}"
    for encoded in (
        encode_training_set(picky, rows, "retain"),
        encode_preference_pairs(picky, rows, "forget", [[["No."]]] * 3),
    ):
        assert encoded.counts.skipped == {1: "the template refuses it", 3: too_long}
    pairs = encode_preference_pairs(picky, rows[1:2], "forget", [[["No.", "odd."]]])
    assert (len(pairs.samples[0]), pairs.counts.unpaired) == (1, 1)
    refused(
        lambda: encode_training_set(picky, rows[:1] * 2, "forget"),
        "forget",
        "none of its 2 rows",
        "refuses",
    )
    assert encode_row(picky, rows[1])[1] == ""


def test_the_line_names_every_count_and_no_text() -> None:
    skipped = dict.fromkeys([7, *range(20, 30)], "no answer") | {9: "odd"}
    counts = RowCounts(1040, 0, 2950, 1028, 3, 120, skipped, 2, 5, 1)
    assert counts.describe("forget", 256) == (
        "forget: 1,040 rows read, 1,028 trained (2,950 tokens), 3 cut at data.max_length=256 (120 "
        "answer tokens lost), 12 skipped (rows 7, 20, 21, 22, 23 and 6 more: no answer; row 9: "
        "odd), 2 answers to prefer left out (nothing within data.max_length=256), 1 saying the "
        "same as an earlier one, 5 not read (beyond data.limit=1040)"
    )
    assert RowCounts(1, 1, 8, 3).describe("retain", 4) == (
        "retain: 1 row read (1 as documents), 1 trained in 3 sequences (8 tokens)"
    )
    record = json.loads(json.dumps(counts.record()))
    assert record["trained"] + len(record["skipped"]) == record["read"] == 1040


def test_joined_documents_are_counted_by_row_and_need_documents_alone() -> None:
    joined = bundled_encoder(max_length=SIZE, joined=True)
    rows = [{"text": LONG}, {"text": " "}, {"text": "Bo is a cook."}]
    counts = encode_training_set(joined, rows, "forget").counts
    assert (counts.read, counts.trained, counts.skipped) == (3, 2, {2: "no text"})
    for mixed in ([*rows, qa_row("Who?", "Ann.")], [qa_row("Who?", "Ann."), *rows]):
        refused(
            lambda mixed=mixed: encode_training_set(joined, mixed, "forget"),
            "data.joined=true",
            "row",
        )


def test_sequences_that_the_steps_do_not_reach_are_counted() -> None:
    sets = {}
    for name, count in (("forget", 7), ("retain", 5)):
        rows = [qa_row("Who?", f"{i}.") for i in range(count)]
        sets[name] = encode_training_set(bundled_encoder(max_length=SIZE), rows, name).examples

    def unseen(steps: int) -> list[str]:
        return Schedule(sets, "forget", 2, deal_rows(2, 1, None), 1, steps, 0).describe_unseen()

    assert unseen(4) == []
    assert unseen(3) == ["forget: 6 of 7 sequences are seen in 3 steps"]
    assert unseen(1) == [
        "forget: 2 of 7 sequences are seen in 1 steps",
        "retain: 2 of 5 sequences are seen in 1 steps",
    ]


@pytest.mark.slow
def test_the_command_says_and_records_what_became_of_every_row(
    random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", USABLE)
    words = ["unlearn", "data=jsonl", f"data.forget_file={file}", f"data.max_length={SIZE}",
             f"model.path={random_model}", "eval=none", "hardware=cpu", "train.max_steps=1",
             "train.batch_size=4", "report=false", f"output_dir={tmp_path}"]  # fmt: skip
    assert run_command([*words, "name=mixed"]) == 0
    each = [count_by_hand(row) for row in USABLE]
    skipped = [str(n) for n, (kept, _, _) in enumerate(each, 1) if not kept]
    trained = len(USABLE) - len(skipped)
    folder = tmp_path / "unlearn" / "mixed"
    for text in (capsys.readouterr().out, (folder / "log.txt").read_text()):
        assert f"forget: {len(USABLE)} rows read (6 as documents), {trained} trained" in text
        assert f"{len(skipped)} skipped" in text
        assert "sequences are seen in 1 steps" in text
    record = json.loads((folder / "inputs.json").read_text())["rows"]["forget"]
    assert record["tokens"] == sum(kept for kept, _, _ in each)
    assert sorted(record["skipped"]) == sorted(skipped)
    write_rows(tmp_path / "rows.jsonl", [*USABLE, MALFORMED[0]])
    assert run_command([*words, "name=other"]) == 2
    assert f"row {len(USABLE) + 1}" in capsys.readouterr().err
    assert not (folder.parent / "other").exists()


def test_an_error_of_the_config_is_not_taken_for_one_of_a_row() -> None:
    class Broken(Encoder):
        def encode_each(self, rows: list[Row], spans: Any = None) -> list[Any]:
            return [UserError("model.template.chat=true: no template") for _ in rows]

    broken = Broken(TOKENIZER, TemplateConfig(), DataConfig())
    refused(
        lambda: encode_training_set(broken, [qa_row("Who?", "Ann.")], "forget"),
        "model.template.chat",
    )
