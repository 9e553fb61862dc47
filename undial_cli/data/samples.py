"""From rows to training samples: examples as they are, with focus words, or in pairs with another
answer.

Knows what a method can ask for, and no method.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from undial_cli.config.methods import FocusSource
from undial_cli.config.splits import name_training_set
from undial_cli.data import focus
from undial_cli.data.answers import replace_answer
from undial_cli.data.counts import RowCounts
from undial_cli.data.encode import Encoder
from undial_cli.data.example import Example
from undial_cli.data.prepared import open_entry
from undial_cli.data.rows import Row, find_row_kind, is_document
from undial_cli.data.schedule import TrainingSample
from undial_cli.data.spans import Span
from undial_cli.data.stored_examples import (
    ExampleWriter,
    StoredExamples,
    count_each_targets,
    has_focus,
)
from undial_cli.data.stored_rows import StoredRows, digest_rows
from undial_cli.data.tokens import use_all_cores
from undial_cli.errors import RowError, UserError

# What is encoded at once: enough that asking costs nothing beside the work, and little memory.
BATCH_ROWS, BATCH_CHARACTERS = 256, 2**19
# Rows of which the examples are kept in a file: fewer are encoded in a few seconds.
LEAST_STORED_ROWS = 10_000


@dataclass
class TrainingSet:
    """A training set: examples, the samples made of them (none: each is one by itself), counts.

    `row_numbers`: of each example, the row that it was made of, counted from 1.
    """

    examples: Sequence[Example]
    samples: list[TrainingSample] = field(default_factory=list)
    counts: RowCounts = field(default_factory=RowCounts)
    row_numbers: Sequence[int] | NDArray[Any] = field(default_factory=list)


def encode_training_set(
    encoder: Encoder, rows: Sequence[Row], name: str, words: FocusSource | None = None
) -> TrainingSet:
    """Rows as examples; those that keep no target token are skipped and counted.

    Of many rows the examples lie in a file of the cache, and are mapped.
    """
    counts, numbers = RowCounts(len(rows)), list[int]()
    examples: list[Example] | StoredExamples = []
    if is_joined_set(encoder, rows):
        # One long text: a piece may hold the end of a row and the beginning of the next.
        spans = find_row_spans(encoder, rows, words)
        examples = [e for e in encoder.encode(list(rows), spans) if e.num_targets]
        counts.documents, numbers = len(rows), [1] * len(examples)
        for number, row in enumerate(rows, 1):
            if not str(row[encoder.data.text_key]).strip():
                counts.skipped[number] = "no text"
    elif is_stored_set(rows, words):
        examples, counts = store_examples(encoder, rows, words)
    else:
        for number, example in encode_rows_apart(encoder, rows, words, counts):
            examples.append(example)
            numbers.append(number)
    check_any_example(encoder, name, counts, examples)
    if words is not None and not has_focus(examples):
        raise UserError(
            f"method.focus={words.source}: no focus word in any row of the {name} set is left "
            f"within data.max_length={encoder.data.max_length}"
        )
    counts.sequences = len(examples)
    counts.tokens = int(np.sum(count_each_targets(examples), dtype=np.int64))
    row_numbers = examples.rows if isinstance(examples, StoredExamples) else numbers
    return TrainingSet(examples, counts=counts, row_numbers=row_numbers)


def find_row_spans(
    encoder: Encoder, rows: Sequence[Row], words: FocusSource | None
) -> list[list[Span]] | None:
    """What to focus on in each row, where a method does."""
    if words is None:
        return None
    return focus.find_focus_spans(rows, encoder.data, words.source, words.pipeline)


def encode_rows_apart(
    encoder: Encoder, rows: Sequence[Row], words: FocusSource | None, counts: RowCounts
) -> Iterator[tuple[int, Example]]:
    """Each example with the number of its row; what becomes of the rows is counted."""
    spans = find_row_spans(encoder, rows, words)
    for number, (row, encoded) in enumerate(encode_in_batches(encoder, rows, spans), 1):
        examples, reason = sort_out_examples(encoder, row, encoded)
        counts.documents += is_document(row, encoder.data)
        if reason:
            counts.skipped[number] = reason
        count_cut_tokens(counts, examples)
        yield from ((number, example) for example in examples)


def is_stored_set(rows: Sequence[Row], words: FocusSource | None) -> bool:
    """Whether the examples of rows are kept in a file; what a spaCy pipeline says is no data's."""
    is_large = isinstance(rows, StoredRows) or len(rows) >= LEAST_STORED_ROWS
    return is_large and (words is None or words.source == "column")


def store_examples(
    encoder: Encoder, rows: Sequence[Row], words: FocusSource | None
) -> tuple[StoredExamples, RowCounts]:
    """The examples of rows, and what became of these, from the cache."""
    digest = rows.digest if isinstance(rows, StoredRows) else digest_rows(rows)
    content = ["examples", digest, encoder.fingerprint, words and dataclasses.asdict(words)]

    def write_examples(folder: Path) -> dict[str, Any]:
        writer, counts = ExampleWriter(folder), RowCounts(len(rows))
        for number, example in encode_rows_apart(encoder, rows, words, counts):
            writer.add(example, number)
        return {**writer.close(), "counts": vars(counts)}

    folder, record = open_entry(content, write_examples)
    counts = RowCounts(**record["counts"])
    counts.skipped = {int(number): reason for number, reason in counts.skipped.items()}
    return StoredExamples(folder, record), counts


def encode_preference_pairs(
    encoder: Encoder, rows: Sequence[Row], name: str, answers: list[list[list[str]]]
) -> TrainingSet:
    """Rows as pairs of an answer (of messages: the last) and another one that is to be preferred.

    Args:
        answers: what `collect_alternatives` gives for these rows.
    """
    # A pair differs in one answer: the turns before it are the prompt of both.
    encoder = dataclasses.replace(encoder, data=dataclasses.replace(encoder.data, turns="last"))
    examples: list[Example] = []
    samples: list[TrainingSample] = []
    row_numbers: list[int] = []
    counts = RowCounts(len(rows))
    for number, (row, others) in enumerate(zip(rows, answers, strict=True), 1):
        encoded, reason = encode_row(encoder, row)
        if reason:
            counts.skipped[number] = reason
            continue
        # The row's answer comes first, then each other answer once, however often it is drawn.
        true, positions = len(examples), dict[str, int | None]()
        pairs: list[TrainingSample] = []
        for turns in others:
            for text in turns:
                if text not in positions:
                    other, reason = encode_row(encoder, replace_answer(row, text, encoder.data))
                    positions[text] = None if reason else true + len(encoded)
                    encoded += other
            pairs.append([(true, i) for text in turns if (i := positions[text]) is not None])
        counts.unpaired += sum(i is None for i in positions.values())
        if not any(pairs):
            counts.skipped[number] = "nothing is left of its answers to prefer"
            continue
        examples += encoded
        row_numbers += [number] * len(encoded)
        samples += [sample for sample in pairs if sample]
        counts.tokens += encoded[0].num_targets
        count_cut_tokens(counts, encoded[:1])
    check_any_example(encoder, name, counts, examples)
    counts.sequences = counts.trained
    return TrainingSet(examples, samples, counts, row_numbers)


def encode_row(
    encoder: Encoder, row: Row, spans: list[Span] | None = None
) -> tuple[list[Example], str]:
    """The examples of a row that hold a target, or why there is none."""
    (encoded,) = encoder.encode_each([row], None if spans is None else [spans])
    return sort_out_examples(encoder, row, encoded)


def encode_in_batches(
    encoder: Encoder, rows: Sequence[Row], spans: list[list[Span]] | None
) -> Iterator[tuple[Row, list[Example] | UserError]]:
    """Each row with its examples, or with what is wrong with it, as many at once as pays."""
    start = 0
    with use_all_cores():
        for batch in cut_batches(rows):
            part = None if spans is None else spans[start : start + len(batch)]
            start += len(batch)
            yield from zip(batch, encoder.encode_each(batch, part), strict=True)


def cut_batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in groups of at most so many rows and, if not of one row, so many characters."""
    batch, size = list[Row](), 0
    for row in rows:
        length = sum(len(str(value)) for value in row.values())
        if batch and (len(batch) == BATCH_ROWS or size + length > BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += length
    if batch:
        yield batch


def sort_out_examples(
    encoder: Encoder, row: Row, encoded: list[Example] | UserError
) -> tuple[list[Example], str]:
    """Of what a row was encoded as the examples that hold a target, or why there is none.

    Raises:
        UserError: what is wrong is not this row's alone.
    """
    if isinstance(encoded, RowError):
        return [], str(encoded)
    if isinstance(encoded, UserError):
        raise encoded
    trainable = [e for e in encoded if e.num_targets]
    if trainable:
        return trainable, ""
    if is_document(row, encoder.data):
        return [], "fewer than two tokens"
    return [], f"no answer token within data.max_length={encoder.data.max_length}"


def count_cut_tokens(counts: RowCounts, examples: list[Example]) -> None:
    lost = sum(e.cut for e in examples)
    counts.cut, counts.lost = counts.cut + (lost > 0), counts.lost + lost


def is_joined_set(encoder: Encoder, rows: Sequence[Row]) -> bool:
    """Whether documents are joined before they are cut.

    Raises:
        UserError: some rows are no documents.
    """
    if not encoder.data.joined:
        return False
    kinds = [find_row_kind(row, encoder.data) for row in rows]
    if "text" not in kinds:
        return False
    for number, kind in enumerate(kinds, 1):
        if kind != "text":
            raise UserError(
                f"data.joined=true: row {number} of the set is no document (column "
                f"'{encoder.data.text_key}'), others are; allowed here is data.joined=false"
            )
    return True


def check_any_example(
    encoder: Encoder, name: str, counts: RowCounts, examples: Sequence[Example]
) -> None:
    if examples:
        return
    data = encoder.data
    known = any(getattr(data, f"{name}_{kind}", None) for kind in ("split", "file"))
    where = name_training_set(data, name) if known else f"the {name} set"
    if all("data.max_length" in reason for reason in counts.skipped.values()):
        raise UserError(
            f"{where}: no answer token is left within data.max_length={data.max_length}; set more"
        )
    raise UserError(f"{where}: none of its {counts.read} rows can be used ({counts.reasons()})")
