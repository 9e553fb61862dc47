"""What FUnDIAL focuses on: character spans in the text that is scored, from a column or from spaCy.

spaCy is the extra `focus`; it is imported only where it is asked. Knows no tokens: encode.py
aligns the spans with them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import unicodedata
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from undial_cli.config.datasets import DataConfig
from undial_cli.data.answers import read_scored_text
from undial_cli.data.rows import Row, is_blank_cell
from undial_cli.data.spans import Span
from undial_cli.errors import UserError, bad_value, first_line, suggest_nearest
from undial_cli.system.files import parse_json

FOCUS_SOURCES = ("column", "entities", "noun_chunks")
ENGLISH_PIPELINE = "for English: python -m spacy download en_core_web_sm"
# Characters that spaCy is given at once: it takes about 1 GB of memory per 100,000.
SPACY_PIECE = 100_000
# First and last code points of scripts that put no space between words, or between a word and its
# particles: Thai and Lao, Myanmar, Khmer, Chinese and Japanese, Hangul.
UNSPACED_RANGES = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0xA4CF), (0xAC00, 0xD7FF),
    (0xF900, 0xFAFF), (0xFF66, 0xFFDC), (0x20000, 0x3FFFF),
)  # fmt: skip


def find_focus_spans(
    rows: Sequence[Row], data: DataConfig, source: str, pipeline: str | None
) -> list[list[Span]]:
    """The spans of each row, sorted, in the text of it that is scored.

    Args:
        source: method.focus: `column` (`data.focus_key`), `entities` or `noun_chunks`.
        pipeline: method.spacy_model, for the latter two: an installed spaCy pipeline or a folder.
    """
    check_focus(source, pipeline)
    texts = [read_scored_text(row, data) for row in rows]
    if source == "column":
        spans = [
            read_focus_column(row, text, data, number)
            for number, (row, text) in enumerate(zip(rows, texts, strict=True), 1)
        ]
    else:
        spans = find_pipeline_spans(texts, source, str(pipeline))
    if rows and not any(spans):
        key = f"data.focus_key={data.focus_key}" if source == "column" else name_spacy_key(pipeline)
        raise UserError(f"{key}: nothing to focus on in any of the {len(rows)} rows")
    return spans


def check_focus(source: str, pipeline: str | None) -> None:
    """Find what is wrong with the keys before any data is read; spaCy is not imported."""
    if source not in FOCUS_SOURCES:
        raise bad_value("method.focus", source, FOCUS_SOURCES)
    if source == "column":
        return
    if importlib.util.find_spec("spacy") is None:
        raise UserError(f"method.focus={source}: needs spaCy: pip install 'undial[focus]'")
    if not pipeline:
        raise UserError(
            f"{name_spacy_key('null')}: method.focus={source} needs an installed spaCy pipeline or "
            f"a folder ({ENGLISH_PIPELINE})"
        )
    installed = any(metadata.distributions(name=pipeline))
    if not installed and not Path(pipeline).expanduser().is_dir():
        known = [entry.name for entry in metadata.entry_points(group="spacy_models")]
        raise UserError(
            f"{name_spacy_key(pipeline)}: no such spaCy pipeline is installed, and no such folder "
            f"({ENGLISH_PIPELINE}){suggest_nearest(pipeline, known)}"
        )


def read_focus_column(row: Row, text: str, data: DataConfig, number: int) -> list[Span]:
    """The spans that a row's own column lists."""
    key = f"data.focus_key={data.focus_key}"
    if data.focus_key not in row:
        raise UserError(
            f"{key}: found columns {', '.join(row)}; method.focus=column needs one that lists what "
            f"to focus on{suggest_nearest(data.focus_key, row)}"
        )
    value = row[data.focus_key]
    with contextlib.suppress(ValueError):
        value = parse_json(value) if isinstance(value, str) else value
    if isinstance(value, list):
        if all(isinstance(entry, str) and entry.strip() for entry in value):
            spans = (span for entry in value for span in find_occurrences(text, entry.strip()))
            return sorted(set(spans))
        if all(is_span_pair(entry, text) for entry in value):
            return sorted({(start, end) for start, end in value})
    shown = "nothing" if value in (None, "") else " ".join(str(value).split())[:60]
    raise UserError(
        f"{key}: row {number} holds {shown}; allowed is a list of strings of its text, a list of "
        f"[start, end] pairs within its {len(text)} characters, or either as JSON ([]: none)"
    )


def list_focus_parts(row: Row, data: DataConfig) -> list[str]:
    """The parts of a row's answer that its own column lists as what matters; [] without one."""
    if is_blank_cell(row.get(data.focus_key)):
        return []
    try:
        text = read_scored_text(row, data)
        return [text[start:end] for start, end in read_focus_column(row, text, data, 1)]
    except UserError:  # a column of that name that lists something else
        return []


def is_span_pair(entry: Any, text: str) -> bool:
    """Whether an entry is a pair [start, end] within the text."""
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and all(type(position) is int for position in entry)
        and 0 <= entry[0] < entry[1] <= len(text)
    )


def find_occurrences(text: str, string: str) -> Iterator[Span]:
    """Where a string stands in a text as words of its own: never "Ann" in "Annual"."""
    start = text.find(string)
    while start >= 0:
        end = start + len(string)
        if not is_inside_word(text, start) and not is_inside_word(text, end):
            yield start, end
        start = text.find(string, start + 1)


def is_inside_word(text: str, position: int) -> bool:
    """Whether a word, or one letter of several code points, goes on across a position."""
    if not 0 < position < len(text):
        return False
    before, after = text[position - 1], text[position]
    if not (is_word_character(before) and is_word_character(after)):
        return False
    # A mark belongs to the letter before it in every script; other letters make one word only where
    # words are spaced.
    return unicodedata.category(after)[0] == "M" or (
        is_spaced_script(before) and is_spaced_script(after)
    )


def is_word_character(character: str) -> bool:
    """Whether a character is a letter, a mark on one, a digit or an underscore."""
    return character == "_" or unicodedata.category(character)[0] in "LMN"


def is_spaced_script(character: str) -> bool:
    """Whether a character is of a script that puts spaces between words."""
    return not any(first <= ord(character) <= last for first, last in UNSPACED_RANGES)


def find_pipeline_spans(texts: list[str], source: str, pipeline: str) -> list[list[Span]]:
    """What a spaCy pipeline finds in each text, and every other occurrence of the same texts."""
    nlp = load_spacy_pipeline(pipeline)
    limit = min(nlp.max_length, SPACY_PIECE)
    pieces = [
        (row, *piece) for row, text in enumerate(texts) for piece in cut_text_pieces(text, limit)
    ]
    spans: list[set[Span]] = [set() for _ in texts]
    layer = "ENT_IOB" if source == "entities" else "DEP"
    # That a pipeline cannot do it shows in its documents alone: a blank one has the same methods.
    able = not pieces
    try:
        docs = nlp.pipe(text for _, _, text in pieces)
        for (row, shift, _), doc in zip(pieces, docs, strict=True):
            if not doc.has_annotation(layer):
                continue
            able = source == "entities" or nlp.vocab.get_noun_chunks is not None
            if not able:
                break
            for span in doc.ents if source == "entities" else doc.noun_chunks:
                spans[row].add((shift + span.start_char, shift + span.end_char))
    except Exception as error:
        reason = first_line(error)
        raise UserError(f"{name_spacy_key(pipeline)}: fails on these texts ({reason})") from error
    if not able:
        part = "ner or entity_ruler" if source == "entities" else "a parser, for a known language"
        raise UserError(
            f"{name_spacy_key(pipeline)}: gives no {source.replace('_', ' ')} (language "
            f"'{nlp.lang}', parts: {', '.join(nlp.pipe_names) or 'none'}); allowed for "
            f"method.focus={source} is a pipeline with {part} ({ENGLISH_PIPELINE})"
        )
    for text, text_spans in zip(texts, spans, strict=True):
        for string in {text[start:end].strip() for start, end in text_spans} - {""}:
            text_spans.update(find_occurrences(text, string))
    return list(map(sorted, spans))


def load_spacy_pipeline(name: str) -> Any:
    import spacy

    folder = Path(name).expanduser()
    try:
        return spacy.load(folder if folder.is_dir() else name)
    except Exception as error:
        raise UserError(
            f"{name_spacy_key(name)}: no spaCy pipeline ({first_line(error)})"
        ) from error


def name_spacy_key(pipeline: str | None) -> str:
    return f"method.spacy_model={pipeline}"


def cut_text_pieces(text: str, limit: int) -> Iterator[tuple[int, str]]:
    """A text in pieces of at most `limit` characters, each with its start; blank ones are left out.

    They end after a blank line, else after a line, else after a word.
    """
    start = 0
    while start < len(text):
        end = start + limit
        if end < len(text):
            ends = (text.rfind(mark, start, end) + len(mark) for mark in ("\n\n", "\n", " "))
            end = next((position for position in ends if position > start + limit // 2), end)
        if not text[start:end].isspace():
            yield start, text[start:end]
        start = end
