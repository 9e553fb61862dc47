"""The other questions that a method has its teacher asked, drawn from the run's forget set.

Whom a row is about its column says, or its place in blocks of rows, as the suite of its data has
them (evaluation/resampling_units.py); else each row is a subject of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from undial_cli.config.schema import Run
from undial_cli.config.suites import FORGET, EvalSetConfig, find_set_of_role
from undial_cli.data.other_questions import draw_other_questions
from undial_cli.data.rows import Row, is_document
from undial_cli.data.samples import TrainingSet
from undial_cli.errors import UserError
from undial_cli.evaluation.resampling_units import number_subjects
from undial_cli.methods.base import Method


def draw_for_method(
    run: Run, method: Method | None, rows: Sequence[Row], forget: TrainingSet | None
) -> tuple[list[tuple[int, ...]], list[str]]:
    """Of each forget example the examples whose questions a method has asked, and lines on that.

    Args:
        rows: those that the forget set was made of.

    Raises:
        UserError: a row has no question, or there is no other one.
    """
    asked = method.other_questions if method is not None else None
    if asked is None or forget is None:
        return [], []
    key = asked.key
    for number in dict.fromkeys(forget.row_numbers):
        if is_document(rows[number - 1], run.data):
            raise UserError(
                f"{key}: asks other questions before each answer, and row {number} of the forget "
                "set is a document; allowed for documents is a number >= 0"
            )
    if len(forget.examples) < 2:
        raise UserError(f"{key}: needs other questions, and the forget set has one alone")
    subjects = find_example_subjects(run, rows, forget.row_numbers)
    questions = draw_other_questions(subjects, asked.count, run.seed)
    fewest, notes = min(map(len, questions)), list[str]()
    if len(set(subjects)) == 1:
        notes.append(f"{key}: all forget rows are of one subject, so its own questions are asked")
    if fewest < asked.count:
        notes.append(f"{key}: {fewest} other questions are there, {asked.count} were asked for")
    return questions, notes


def find_example_subjects(run: Run, rows: Sequence[Row], row_numbers: Sequence[int]) -> list[int]:
    """Of each example a number of whom it is about."""
    name = find_set_of_role(run.eval, FORGET)
    options = run.eval.sets[name] if name is not None else EvalSetConfig()
    # Blocks of the suite's rows are those of the training split, unless rows were chosen from it.
    is_whole = run.data.path is not None and not run.data.where
    size = options.rows_per_subject if is_whole else None
    options = dataclasses.replace(options, split=run.data.forget_split, rows_per_subject=size)
    known = number_subjects(list(rows), options, run.data.subject_key)
    # Negative: rows of whom nothing is known are in nobody's numbers.
    return [known.get(number - 1, -number) for number in row_numbers]
