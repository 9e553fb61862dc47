"""From rows to training samples: examples as they are, with focus words, or in pairs with another
answer.

Knows what a method can ask for, and no method.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from undial_cli.config.schema import FocusSource
from undial_cli.config.splits import name_training_set
from undial_cli.data import focus
from undial_cli.data.answers import replace_answer
from undial_cli.data.counts import RowCounts
from undial_cli.data.encode import Encoder, Example
from undial_cli.data.rows import Row, find_row_kind, is_document
from undial_cli.data.schedule import TrainingSample
from undial_cli.data.spans import Span
from undial_cli.errors import RowError, UserError


@dataclass
class TrainingSet:
    """A training set: examples, the samples made of them (none: each is one by itself), counts.

    `row_numbers`: of each example, the row that it was made of, counted from 1.
    """

    examples: list[Example]
    samples: list[TrainingSample] = field(default_factory=list)
    counts: RowCounts = field(default_factory=RowCounts)
    row_numbers: list[int] = field(default_factory=list)


def encode_training_set(
    encoder: Encoder, rows: list[Row], name: str, words: FocusSource | None = None
) -> TrainingSet:
    """Rows as examples; those that keep no target token are skipped and counted."""
    spans: list[list[Span]] | None = None
    if words is not None:
        spans = focus.find_focus_spans(rows, encoder.data, words.source, words.pipeline)
    examples: list[Example] = []
    row_numbers: list[int] = []
    documents = sum(is_document(row, encoder.data) for row in rows)
    counts = RowCounts(len(rows), documents)
    if is_joined_set(encoder, rows):
        # One long text: a piece may hold the end of a row and the beginning of the next.
        examples = [e for e in encoder.encode(rows, spans) if e.num_targets]
        row_numbers = [1] * len(examples)
        for number, row in enumerate(rows, 1):
            if not str(row[encoder.data.text_key]).strip():
                counts.skipped[number] = "no text"
    else:
        for number, row in enumerate(rows, 1):
            encoded, reason = encode_row(encoder, row, spans[number - 1] if spans else None)
            examples += encoded
            row_numbers += [number] * len(encoded)
            if reason:
                counts.skipped[number] = reason
            count_cut_tokens(counts, encoded)
    check_any_example(encoder, name, counts, examples)
    if words is not None and not any(e.focus for e in examples):
        raise UserError(
            f"method.focus={words.source}: no focus word in any row of the {name} set is left "
            f"within data.max_length={encoder.data.max_length}"
        )
    counts.sequences, counts.tokens = len(examples), sum(e.num_targets for e in examples)
    return TrainingSet(examples, counts=counts, row_numbers=row_numbers)


def encode_preference_pairs(
    encoder: Encoder, rows: list[Row], name: str, answers: list[list[list[str]]]
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
    try:
        examples = encoder.encode([row], None if spans is None else [spans])
    except RowError as error:
        return [], str(error)
    trainable = [e for e in examples if e.num_targets]
    if trainable:
        return trainable, ""
    if is_document(row, encoder.data):
        return [], "fewer than two tokens"
    return [], f"no answer token within data.max_length={encoder.data.max_length}"


def count_cut_tokens(counts: RowCounts, examples: list[Example]) -> None:
    lost = sum(e.cut for e in examples)
    counts.cut, counts.lost = counts.cut + (lost > 0), counts.lost + lost


def is_joined_set(encoder: Encoder, rows: list[Row]) -> bool:
    """Whether documents are joined before they are cut.

    Raises:
        UserError: some rows are no documents.
    """
    kinds = [find_row_kind(row, encoder.data) for row in rows]
    if not encoder.data.joined or "text" not in kinds:
        return False
    for number, kind in enumerate(kinds, 1):
        if kind != "text":
            raise UserError(
                f"data.joined=true: row {number} of the set is no document (column "
                f"'{encoder.data.text_key}'), others are; allowed here is data.joined=false"
            )
    return True


def check_any_example(
    encoder: Encoder, name: str, counts: RowCounts, examples: list[Example]
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
