"""The same answer under other questions: which examples ask them, and the sequences they make.

Questions stand for examples, by their numbers in the set.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from undial_cli.config.datasets import DataConfig
from undial_cli.config.methods import OtherQuestions
from undial_cli.data.example import Example
from undial_cli.data.rows import Row, is_document
from undial_cli.data.samples import TrainingSet
from undial_cli.errors import UserError
from undial_cli.losses.positions import IGNORE


def draw_for_set(
    asked: OtherQuestions, rows: Sequence[Row], forget: TrainingSet, data: DataConfig, seed: int
) -> tuple[list[tuple[int, ...]], list[str]]:
    """Of each forget example the examples whose questions are asked, and lines for the user.

    Args:
        rows: those that the set was made of.

    Raises:
        UserError: a row has no question, or there is no other one.
    """
    for number in dict.fromkeys(forget.row_numbers):
        if is_document(rows[number - 1], data):
            raise UserError(
                f"{asked.key}: asks other questions before each answer, and row {number} of the "
                "forget set is a document; allowed for documents is a number >= 0"
            )
    others = len(forget.examples) - 1
    if not others:
        raise UserError(f"{asked.key}: needs other questions, and the forget set has one alone")
    lines = [f"{asked.key}: {others} other questions are there, {asked.count} were asked for"]
    questions = draw_other_questions(len(forget.examples), asked.count, seed)
    return questions, lines if others < asked.count else []


def draw_other_questions(examples: int, count: int, seed: int) -> list[tuple[int, ...]]:
    """Of each example the examples whose questions are put before its answer, in order.

    `count` of them, or as many as there are: the same ones for all examples as far as can be, so
    that many answers stand behind one question, and never an example's own.
    """
    drawn = sorted(random.Random(seed).sample(range(examples), min(count + 1, examples)))
    return [tuple(q for q in drawn if q != number)[:count] for number in range(examples)]


def exchange_question(example: Example, other: Example, max_length: int) -> Example:
    """What an example says from its first answer on, after what stands before another's.

    The beginning of a prompt is left out, where the sequence would be longer than `max_length`.
    """
    answer = len(example.prompt_ids)
    rest, labels = example.input_ids[answer:], example.labels[answer:]
    room = max(1, max_length - len(rest))
    # What has no target is a prompt throughout.
    prompt = (other.prompt_ids or other.input_ids)[-room:]
    end = example.answer_end - answer + len(prompt)
    return Example([*prompt, *rest], [IGNORE] * len(prompt) + labels, end)
