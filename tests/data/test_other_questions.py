"""Which questions are put before an answer, and the sequence that comes of it."""

from __future__ import annotations

from collections import Counter

import pytest

from undial_cli.data.encode import IGNORE, Example
from undial_cli.data.other_questions import draw_other_questions, replace_question

SUBJECTS = [4, 4, 9, 9, 9, 2, 4]


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_questions_are_of_other_subjects_and_as_many_as_there_are(count: int) -> None:
    drawn = draw_other_questions(SUBJECTS, count, seed=1)
    for own, questions in zip(SUBJECTS, drawn, strict=True):
        others = [i for i, subject in enumerate(SUBJECTS) if subject != own]
        assert len(set(questions)) == len(questions) == min(count, len(others))
        assert set(questions) <= set(others)


def test_every_other_subject_is_asked_about_before_one_is_twice() -> None:
    subjects = [i // 5 for i in range(20)]
    for own, questions in zip(subjects, draw_other_questions(subjects, 6, seed=0), strict=True):
        assert sorted(Counter(subjects[i] for i in questions).values()) == [2, 2, 2], own


def test_answers_of_one_subject_share_their_questions_and_seeds_do_not() -> None:
    subjects = [i // 10 for i in range(40)]
    drawn = draw_other_questions(subjects, 4, seed=0)
    assert len(set(drawn)) == 4
    assert drawn == draw_other_questions(subjects, 4, seed=0)
    assert drawn != draw_other_questions(subjects, 4, seed=1)


def test_one_subject_alone_is_asked_its_own_other_questions() -> None:
    assert draw_other_questions([7, 7, 7], 5, seed=0) == [(1, 2), (0, 2), (0, 1)]


def test_the_answer_stands_behind_the_other_question_as_it_was() -> None:
    example = Example([1, 2, 3, 11, 12, 4], [IGNORE] * 3 + [11, 12, 4], 5)
    other = Example([1, 7, 8, 9, 3, 13], [IGNORE] * 5 + [13], 6)
    made = replace_question(example, other, 512)
    assert made.input_ids == [1, 7, 8, 9, 3, 11, 12, 4]
    assert made.labels == [IGNORE] * 5 + [11, 12, 4]
    assert made.answer_end == 7
    assert replace_question(example, example, 512) == example
    assert replace_question(example, other, 5).input_ids == [9, 3, 11, 12, 4]
    assert replace_question(example, other, 2).input_ids == [3, 11, 12, 4]
