"""Questions with choices: what is asked, and the answers whose likelihoods are compared.

Text and tokens are those of lm-evaluation-harness's multiple_choice: nothing of a chat format, no
end token, and the blank before an answer counts as its own. Knows no model.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from undial_cli.config.schema import DataConfig
from undial_cli.config.splits import list_splits
from undial_cli.config.suites import EvalSetConfig
from undial_cli.data import template
from undial_cli.data.encode import Encoder
from undial_cli.data.example import Example
from undial_cli.data.formats import parse_spelled_list
from undial_cli.data.rows import Row, is_blank_cell
from undial_cli.errors import UserError

LETTERS = string.ascii_uppercase


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question, its choices, and the number of the right one, from 0."""

    question: str
    choices: tuple[str, ...]
    right: int


def list_choice_columns(options: EvalSetConfig) -> list[str]:
    """The columns that hold the choices: one that lists them, or one each."""
    return list_splits(options.choices)


def read_choice_question(
    row: Row, number: int, options: EvalSetConfig, data: DataConfig, source: str
) -> ChoiceQuestion:
    """The question of row `number`, whose columns are there.

    Raises:
        UserError: the choices are no texts, or the answer is none of them.
    """
    columns = list_choice_columns(options)
    cells: Any = [row[column] for column in columns]
    named = f"columns {', '.join(columns)} hold"
    if len(columns) == 1:
        cells, named = parse_spelled_list(cells[0]), f"column '{columns[0]}' holds"
    is_list = isinstance(cells, list | tuple) and 1 < len(cells) <= len(LETTERS)
    if not is_list or not all(isinstance(cell, str | int | float) for cell in cells):
        raise UserError(
            f"{source}: {named} no choices in row {number}; needed are 2 to {len(LETTERS)} texts"
        )
    empty = [n for n, cell in enumerate(cells, 1) if is_blank_cell(cell)]
    if empty:
        raise UserError(f"{source}: choice {empty[0]} is empty in row {number}")
    right = find_choice(row[data.answer_key], len(cells))
    if right is None:
        raise UserError(
            f"{source}: column '{data.answer_key}' holds {row[data.answer_key]!r:.40} in row "
            f"{number}; needed is the number of the right one of its {len(cells)} choices, 0 to "
            f"{len(cells) - 1}, or its letter, A to {LETTERS[len(cells) - 1]}"
        )
    return ChoiceQuestion(str(row[data.question_key]), tuple(map(str, cells)), right)


def find_choice(answer: Any, count: int) -> int | None:
    """The number of the choice, from 0, that a cell names by number or letter."""
    text = str(answer).strip()
    if text.isdecimal():
        number = int(text)
    elif len(text) == 1 and text.upper() in LETTERS:
        number = LETTERS.index(text.upper())
    else:
        return None
    return number if number < count else None


def write_choice_prompt(question: ChoiceQuestion, lettered: bool) -> str:
    """What precedes the blank before an answer."""
    asked = question.question.strip()
    if not lettered:
        return f"Question: {asked}\nAnswer:"
    choices = zip(LETTERS, question.choices, strict=False)
    listed = "".join(f"\n{letter}. {choice}" for letter, choice in choices)
    return f"{asked}{listed}\nAnswer:"


def list_choice_answers(question: ChoiceQuestion, lettered: bool) -> list[str]:
    """The answers whose likelihoods are compared, the blank before each included."""
    texts = LETTERS[: len(question.choices)] if lettered else question.choices
    return [f" {text}" for text in texts]


def write_solved_choices(questions: Sequence[ChoiceQuestion], lettered: bool) -> str:
    """Solved examples as one text, a blank line after each."""
    return "".join(
        write_choice_prompt(q, lettered) + list_choice_answers(q, lettered)[q.right] + "\n\n"
        for q in questions
    )


def write_instruction(row: Row, options: EvalSetConfig, data: DataConfig) -> str:
    """The text before all questions, with its blank line; "" where the set has none."""
    if not options.instruction:
        return ""
    subject = str(row.get(data.subject_key) or "").replace("_", " ")
    return options.instruction.replace("{subject}", subject).strip() + "\n\n"


def encode_choices(encoder: Encoder, prompt: str, answers: Sequence[str]) -> list[Example]:
    """The prompt with each of the answers, scored without an end token, whatever its length."""
    whole = dataclasses.replace(encoder.data, max_length=2**31)
    encoder = dataclasses.replace(encoder, data=whole)
    return [
        encoder.tokenise_answers(template.render_plain(prompt, answer, closed=False))
        for answer in answers
    ]


def keep_last_tokens(example: Example, longest: int) -> Example:
    """An example without what stands before its last tokens."""
    start = max(0, len(example.input_ids) - longest)
    ids, labels = example.input_ids[start:], example.labels[start:]
    return Example(ids, labels, example.answer_end - start)
