"""From the rows of a set to items: what is asked, what is scored, what is expected.

A set's `kind` says how: a question in the model's own format, a question after solved examples
(MUSE knowmem), a text to be continued (MUSE verbmem), or a document. Knows no model.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from undial_cli.data.encode import IGNORE, Encoder, Example
from undial_cli.data.load import Row, row_kind
from undial_cli.evaluation.config import EvalSetConfig
from undial_cli.schema import DataConfig

# Where an answer to a few-shot prompt ends (MUSE's evaluation code).
STOPS = ("\n\n", "\nQuestion", "Question:")


@dataclass
class Item:
    """One row (or piece of a document) of one set, ready for the engines.

    `answers`: examples to score by kind (`answer`, `paraphrase`, `perturbed`); `document`: token
    ids of a document; `notes`: what was done to the row that its figures do not show (an answer
    cut at data.max_length), each a short phrase that is the same for all rows of its kind.
    """

    set_name: str
    index: int
    prompt: str
    reference: str
    prompt_ids: list[int]
    answers: dict[str, list[Example]] = field(default_factory=dict)
    document: list[int] = field(default_factory=list)
    stops: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def scored(self) -> str:
        """The text whose tokens are scored: the answer, or all of a document."""
        return self.prompt + self.reference if self.document else self.reference


def data_of(data: DataConfig, options: EvalSetConfig) -> DataConfig:
    """The data config as it holds for one set."""
    return dataclasses.replace(
        data,
        question_key=options.question_key or data.question_key,
        answer_key=options.answer_key or data.answer_key,
        max_length=options.max_tokens or data.max_length,
    )


def make_items(
    encoder: Encoder,
    set_name: str,
    options: EvalSetConfig,
    rows: list[Row],
    shots: list[Row],
    needs: set[str],
) -> list[Item]:
    """Encode a set.

    Args:
        shots: rows of the solved examples, for `few_shot`.
        needs: what the set's metrics need; alternative answers are encoded only for those.
    """
    encoder = dataclasses.replace(encoder, data=data_of(encoder.data, options))
    items = []
    for index, row in enumerate(rows):
        kind = options.kind
        if kind == "auto":
            is_text = row_kind(row, encoder.data) in ("text", "ids")
            kind = "document" if is_text else "question"
        if kind == "document":
            items += documents(encoder, set_name, index, row, options)
        elif kind == "question":
            items.append(question(encoder, set_name, index, row, "alternatives" in needs))
        else:
            items.append(plain(encoder, set_name, index, row, options, shots))
    return items


def documents(
    encoder: Encoder, set_name: str, index: int, row: Row, options: EvalSetConfig
) -> list[Item]:
    """A document: its pieces, or with `max_tokens` its beginning alone."""
    pieces = encoder.documents(row)
    items = []
    for piece in pieces[:1] if options.max_tokens else pieces:
        ids, start = piece.input_ids, min(options.prompt_tokens, len(piece.input_ids) - 1)
        prompt, rest = encoder.text(ids[:start]), continued(encoder, ids[:start], ids[start:])
        answers = {"answer": [piece]}
        items.append(Item(set_name, index, prompt, rest, ids[:start], answers, ids))
    return items


def question(encoder: Encoder, set_name: str, index: int, row: Row, alternatives: bool) -> Item:
    """A question in the model's own format, with its paraphrased and perturbed answers."""
    prompt, answer, suffix = encoder.parts(row)
    example = encoder.answer(prompt, answer, suffix)
    answers = {"answer": [example]}
    if alternatives and row.get("perturbed_answer"):
        asked = str(row[encoder.data.question_key])
        false: Any = row["perturbed_answer"]
        true = row.get("paraphrased_answer") or answer
        for kind, texts in (
            ("paraphrase", [true]),
            ("perturbed", [false] if isinstance(false, str) else false),
        ):
            answers[kind] = [encoder.answer(*encoder.question(asked, str(t))) for t in texts]
    shown = str(row.get(encoder.data.question_key, prompt))
    return Item(set_name, index, shown, answer, encoder.prompt_ids(prompt, example), answers)


def plain(
    encoder: Encoder,
    set_name: str,
    index: int,
    row: Row,
    options: EvalSetConfig,
    shots: list[Row],
) -> Item:
    """A prompt without chat format: a text to continue, or a question after solved ones."""
    prompt, answer = (str(row[k]) for k in (encoder.data.question_key, encoder.data.answer_key))
    shown, reference, stops = prompt, answer, ()
    if options.kind == "few_shot":
        solved = [
            f"Question: {shot[encoder.data.question_key]}\nAnswer: {shot[encoder.data.answer_key]}"
            for shot in shots
        ]
        prompt, stops = "\n\n".join([*solved, f"Question: {prompt}\nAnswer: "]), STOPS
    elif options.max_new_tokens:
        reference = encoder.text(encoder.tokenise(answer)[0][: options.max_new_tokens])
    example = encoder.answer(prompt, answer, "")
    ids = encoder.tokenise(prompt)[0]
    return Item(set_name, index, shown, reference, ids, {"answer": [example]}, stops=stops)


def continued(encoder: Encoder, before: list[int], ids: list[int]) -> str:
    """The text that token ids add to those before them, the blank between them included.

    Some tokenizers drop a blank that a text begins with, so that it is not the text of `ids`.
    """
    start, whole = encoder.text(before), encoder.text([*before, *ids])
    return whole.removeprefix(start) if whole.startswith(start) else encoder.text(ids)


def cut_at_stop(text: str, stops: tuple[str, ...]) -> str:
    """A generation up to the first text that ends it."""
    return text[: min([p for p in map(text.find, stops) if p >= 0], default=len(text))]


def end_labels(items: list[Item]) -> set[int]:
    """The ids that end an answer in the model's own format."""
    return {
        e.labels[-1]
        for item in items
        for e in item.answers.get("answer", [])
        if not item.document
        and e.labels
        and e.labels[-1] != IGNORE
        and len(e.labels) > e.answer_end
    }
