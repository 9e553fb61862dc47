"""Which questions are put before an answer, and the sequence that comes of it."""

from __future__ import annotations

from collections import Counter

import pytest

from undial_cli.data.encode import IGNORE, Example
from undial_cli.data.other_questions import draw_other_questions, exchange_question


@pytest.mark.parametrize("count", [1, 3, 6, 50])
def test_each_answer_gets_questions_of_others_and_as_many_as_there_are(count: int) -> None:
    drawn = draw_other_questions(7, count, seed=1)
    for own, questions in enumerate(drawn):
        assert len(set(questions)) == len(questions) == min(count, 6)
        assert set(questions) <= set(range(7)) - {own}


def test_answers_share_their_questions_and_seeds_do_not() -> None:
    drawn = draw_other_questions(40, 4, seed=0)
    assert max(Counter(drawn).values()) >= 35
    assert drawn == draw_other_questions(40, 4, seed=0)
    assert drawn != draw_other_questions(40, 4, seed=1)


def test_the_answer_stands_behind_the_other_question_as_it_was() -> None:
    example = Example([1, 2, 3, 11, 12, 4], [IGNORE] * 3 + [11, 12, 4], 5)
    other = Example([1, 7, 8, 9, 3, 13], [IGNORE] * 5 + [13], 6)
    made = exchange_question(example, other, 512)
    assert made.input_ids == [1, 7, 8, 9, 3, 11, 12, 4]
    assert made.labels == [IGNORE] * 5 + [11, 12, 4]
    assert made.answer_end == 7
    assert exchange_question(example, example, 512) == example
    assert exchange_question(example, other, 5).input_ids == [9, 3, 11, 12, 4]
    assert exchange_question(example, other, 2).input_ids == [3, 11, 12, 4]
