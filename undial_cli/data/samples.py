"""From rows to training samples: examples as they are, with focus words, or in pairs with another
answer. Knows what a method asks for, and no method by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
from dataclasses import dataclass, field
from pathlib import Path

from undial_cli import ui
from undial_cli.data import focus
from undial_cli.data.encode import Encoder, Example
from undial_cli.data.load import Row, row_kind
from undial_cli.data.schedule import Sample
from undial_cli.errors import UserError
from undial_cli.methods.base import Focus
from undial_cli.schema import DataConfig

REFUSALS = Path(__file__).parent.parent / "assets" / "refusals.txt"


@dataclass
class Encoded:
    """A training set: examples, and the samples made of them (none: each is one by itself)."""

    examples: list[Example]
    samples: list[Sample] = field(default_factory=list)


def plain(encoder: Encoder, rows: list[Row], name: str, words: Focus | None = None) -> Encoded:
    """Rows as examples; those that keep no target token are left out and counted."""
    spans = words and focus.find(rows, encoder.data, words.source, words.pipeline)
    examples = encoder.encode(rows, spans)
    kept = [e for e in examples if e.num_targets]
    say_left_out(encoder, name, len(examples), len(kept))
    if words is not None and not any(e.focus for e in kept):
        raise UserError(
            f"method.focus={words.source}: no focus word in any row of the {name} set is left "
            f"within data.max_length={encoder.data.max_length}"
        )
    return Encoded(kept)


def paired(encoder: Encoder, rows: list[Row], name: str, answers: list[list[list[str]]]) -> Encoded:
    """Rows as pairs of an answer (of messages: the last) and another one that is to be preferred.

    Args:
        answers: of each row, its samples; of each sample, the other answer turn by turn.
    """
    encoder = dataclasses.replace(encoder, data=dataclasses.replace(encoder.data, turns="last"))
    examples: list[Example] = []
    samples: list[Sample] = []
    for row, others in zip(rows, answers, strict=True):
        (own,) = encoder.encode([row])
        if not own.num_targets:
            continue
        place, known = len(examples), dict[str, int]()
        examples.append(own)
        for turns in others:
            sample: Sample = []
            for text in turns:
                if text not in known:
                    known[text] = len(examples)
                    examples += encoder.encode([with_answer(row, text, encoder.data)])
                if examples[known[text]].num_targets:
                    sample.append((place, known[text]))
            if sample:
                samples.append(sample)
    say_left_out(encoder, name, len(rows), len({sample[0][0] for sample in samples}))
    return Encoded(examples, samples)


def say_left_out(encoder: Encoder, name: str, rows: int, kept: int) -> None:
    """Say how many rows hold nothing to train on; raise UserError if none does."""
    size = encoder.data.max_length
    if not kept:
        raise UserError(
            f"data.max_length={size}: no answer token of the {name} set is left within it (or its "
            "answers are empty)"
        )
    if kept < rows:
        ui.say(
            f"{name}: {rows - kept} of {rows} rows hold no answer token within "
            f"data.max_length={size} and are left out",
            "yellow",
        )


def with_answer(row: Row, text: str, data: DataConfig) -> Row:
    """A row with another answer."""
    kind = row_kind(row, data)
    if kind == "qa":
        return {**row, data.answer_key: text}
    if kind == "completion":
        return {**row, "completion": text}
    return {**row, "messages": [*row["messages"][:-1], {**row["messages"][-1], "content": text}]}


def other_answers(
    rows: list[Row], data: DataConfig, source: str, turns: int, seed: int, key: str
) -> list[list[list[str]]]:
    """The answers to prefer, as `paired` takes them; read before anything is loaded.

    Args:
        source: `refusals`, drawn anew each turn, or `data`: each of a row's own makes a sample.
        turns: how often a row is seen.
        key: the config key of the set, to name in an error.

    Raises:
        UserError: rows are no questions with answers, or there are no other answers.
    """
    if row_kind(rows[0], data) in ("text", "ids"):
        raise UserError(
            f"{key}: rows of plain text have no answer to replace; needed are questions"
        )
    if source == "data":
        return [
            [[text] for text in given(row, number, data, key)] for number, row in enumerate(rows)
        ]
    known = refusals(data)
    draws = [random.Random(f"{seed}:{number}") for number in range(len(rows))]
    return [[[draw.choice(known) for _ in range(turns)]] for draw in draws]


def given(row: Row, number: int, data: DataConfig, key: str) -> list[str]:
    """The other answers that a row holds: a text, a list of them, or such a list as JSON."""
    value = row.get(data.alternative_key)
    if isinstance(value, str) and value.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and texts and all(isinstance(t, str) and t.strip() for t in texts):
        return texts
    there = f"found columns {', '.join(row)}" if value is None else f"found {value!r}"
    raise UserError(
        f"data.alternative_key={data.alternative_key}: {key} needs in row {number + 1} a column "
        f"with answers to prefer, a text or a list of texts; {there}"
    )


def refusals(data: DataConfig) -> list[str]:
    """Answers like "I don't know", one a line."""
    file = Path(data.refusals).expanduser() if data.refusals else REFUSALS
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data.refusals={data.refusals}: cannot be read as text") from error
    found = [line for line in lines if line]
    if not found:
        raise UserError(f"data.refusals={data.refusals}: holds no line")
    return found
