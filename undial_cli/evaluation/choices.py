"""Questions with choices: what is asked, and the answers whose likelihoods are compared.

Text and tokens are those of lm-evaluation-harness's multiple_choice: nothing of a chat format, no
end token, and the blank before an answer counts as its own. A set with a `prompt` is asked in the
model's format, and its answers are scored likewise. Knows no model.
"""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from undial_cli.config.datasets import DataConfig
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
    answer, named = row[data.answer_key], f"columns {', '.join(columns)} hold"
    if len(columns) == 1:
        cells, named = parse_spelled_list(cells[0]), f"column '{columns[0]}' holds"
    if isinstance(cells, Mapping) and isinstance(cells.get("labels"), list):
        cells, answer = cells.get("choices"), find_label(cells["labels"])
    is_list = isinstance(cells, list | tuple) and 1 < len(cells) <= len(LETTERS)
    if not is_list or not all(isinstance(cell, str | int | float) for cell in cells):
        raise UserError(
            f"{source}: {named} no choices in row {number}; needed are 2 to {len(LETTERS)} texts"
        )
    empty = [n for n, cell in enumerate(cells, 1) if is_blank_cell(cell)]
    if empty:
        raise UserError(f"{source}: choice {empty[0]} is empty in row {number}")
    right = find_choice(answer, len(cells))
    if right is None:
        raise UserError(
            f"{source}: column '{data.answer_key}' holds {row[data.answer_key]!r:.40} in row "
            f"{number}; needed is the number of the right one of its {len(cells)} choices, 0 to "
            f"{len(cells) - 1}, or its letter, A to {LETTERS[len(cells) - 1]}"
        )
    return ChoiceQuestion(str(row[data.question_key]), tuple(map(str, cells)), right)


def find_label(labels: Sequence[Any]) -> int | None:
    """The number of the only choice with label 1, as TruthfulQA's `mc1_targets` have it."""
    right = [number for number, label in enumerate(labels) if label == 1]
    return right[0] if len(right) == 1 else None


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
    return f"{asked}\n{write_lettered_choices(question)}\nAnswer:"


def write_lettered_choices(question: ChoiceQuestion) -> str:
    """The choices, a line each: `A. ...`."""
    lettered = zip(LETTERS, question.choices, strict=False)
    return "\n".join(f"{letter}. {choice}" for letter, choice in lettered)


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


def write_prompt_cells(
    row: Row, columns: Sequence[str], options: EvalSetConfig, data: DataConfig, source: str
) -> dict[str, str]:
    """What columns give to the prompt of a set of choices.

    Solved questions are written out with theirs; of a name, blanks stand for its underscores.
    """
    cells = {}
    for column in columns:
        shots = parse_spelled_list(row[column])
        if isinstance(shots, list | tuple) and all(isinstance(shot, Mapping) for shot in shots):
            asked = [
                read_choice_question(dict(shot), number, options, data, f"{source}.{column}")
                for number, shot in enumerate(shots, 1)
            ]
            texts = [write_solved_choices([question], options.lettered) for question in asked]
            start = "Question: " if options.lettered else ""
            cells[column] = "".join(start + text for text in texts)
        else:
            cells[column] = str(row[column]).strip().replace("_", " ")
    return cells


def encode_choices(
    encoder: Encoder, prompt: str, answers: Sequence[str], chat: bool = False
) -> list[Example]:
    """The prompt with each of the answers, scored without an end token, whatever its length.

    Args:
        chat: whether the prompt was written by a chat template, with its special tokens.
    """
    whole = dataclasses.replace(encoder.data, max_length=2**31)
    encoder = dataclasses.replace(encoder, data=whole)
    plain = [template.render_plain(prompt, answer, closed=False) for answer in answers]
    return [encoder.tokenise_answers(dataclasses.replace(text, chat=chat)) for text in plain]


def keep_last_tokens(example: Example, longest: int) -> Example:
    """An example without what stands before its last tokens."""
    start = max(0, len(example.input_ids) - longest)
    ids, labels = example.input_ids[start:], example.labels[start:]
    return Example(ids, labels, example.answer_end - start)
