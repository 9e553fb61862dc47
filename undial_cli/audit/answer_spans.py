"""Which words of an answer count: from a file of spans, from the focus column, or all of them.

Knows no model.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from undial_cli.audit.attack import AuditData, CannotServe
from undial_cli.audit.probes import make_direct_probes
from undial_cli.config.datasets import DataConfig
from undial_cli.data.answers import read_scored_text
from undial_cli.data.example import Example
from undial_cli.data.files import load_row_file
from undial_cli.data.focus import read_focus_column
from undial_cli.data.rows import Row, find_row_kind, is_blank_cell
from undial_cli.data.samples import encode_row
from undial_cli.data.spans import Span
from undial_cli.evaluation.prompts import adapt_data_config
from undial_cli.losses.positions import IGNORE


@dataclass(frozen=True)
class SpanExample:
    """An answer up to the last word that counts; only tokens of such words are targets.

    `row`: position among the rows of the audit.
    """

    row: int
    example: Example


def encode_answer_spans(data: AuditData, file: str | None) -> tuple[list[SpanExample], list[str]]:
    """The answers of all rows that have words that count, and notes on where those come from.

    A document in pieces, of which several hold such words, gives several.

    Raises:
        CannotServe: no row has any.
        UserError: the file cannot be read.
    """
    options = data.suite.config.sets[data.forget_set]
    config = adapt_data_config(data.encoder.data, options)
    if options.kind in ("few_shot", "continuation"):
        if file is not None:
            raise CannotServe(f"spans are of whole rows, not of a set of kind={options.kind}")
        probes = make_direct_probes(data)
        answers = [(probe.row, probe.item.answers["answer"][0]) for probe in probes]
        spans: list[list[Span] | None] = [[] for _ in data.rows]
    else:
        spans = find_answer_spans(data.rows, config, file)
        encoder = dataclasses.replace(data.encoder, data=config)
        answers = [
            (number, example)
            for number, row in enumerate(data.rows)
            for example in encode_row(encoder, row, spans[number])[0]
        ]
    examples = [
        SpanExample(row, example)
        for row, answer in answers
        if (of_row := spans[row]) is not None and (example := cut_to_span(answer, bool(of_row)))
    ]
    if not examples:
        raise CannotServe("no row has words that count" + (f" in {file}" if file else ""))
    whole = sum(of_row == [] for of_row in spans)
    notes = [f"the whole answer counts in {whole} of {len(spans)} rows"] if whole else []
    return examples, notes


def find_answer_spans(
    rows: list[Row], config: DataConfig, file: str | None
) -> list[list[Span] | None]:
    """The spans of every row in the text of it that is scored; []: all of it, None: left out."""
    if file is None:
        return [
            read_focus_column(row, read_scored_text(row, config), config, number)
            if not is_blank_cell(row.get(config.focus_key))
            else []
            for number, row in enumerate(rows, 1)
        ]
    known = {
        normalise_blanks(entry["question"]): entry
        for entry in load_row_file(file, "", "spans")
        if entry.get("question") and entry.get("entity")
    }
    return [find_entity(row, known, config) for row in rows]


def find_entity(row: Row, known: dict[str, Row], config: DataConfig) -> list[Span] | None:
    """Where the entity of a row's question stands in its answer, after the prefix if it fits."""
    entry = known.get(normalise_blanks(row.get(config.question_key)))
    if entry is None or find_row_kind(row, config) != "qa":
        return None
    answer, entity = read_scored_text(row, config), str(entry["entity"]).strip()
    prefix = str(entry.get("prefix") or "")
    start = answer.find(entity, len(prefix) if answer.startswith(prefix) else 0)
    return [(start, start + len(entity))] if start >= 0 else None


def normalise_blanks(text: object) -> str:
    """A text whose white space is single blanks."""
    return " ".join(str(text).split())


def cut_to_span(answer: Example, focused: bool) -> Example | None:
    """An answer whose only targets are its focus, or all its tokens; None where it has none.

    The end token, which is no word, never is.
    """
    chosen = set(answer.focus) if focused else set(range(answer.answer_end))
    labels = [y if i and i in chosen else IGNORE for i, y in enumerate(answer.labels)]
    stop = max((i + 1 for i, y in enumerate(labels) if y != IGNORE), default=0)
    if not stop:
        return None
    return Example(answer.input_ids[:stop], labels[:stop], stop)
