"""What other answers must not be, on rows of TOFU that were read by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import read_jsonl

from undial_cli.config.alternatives import DEFAULT_PROMPTS
from undial_cli.config.datasets import DataConfig
from undial_cli.data.alternatives import read_refusals
from undial_cli.evaluation.alternative_rules import (
    ECHO,
    EMPTY,
    FACTS,
    NO_REFUSAL,
    REFUSAL,
    TAKEN_BEFORE,
    TRUE,
    UNFINISHED,
    AnswerRules,
    is_refusal,
    make_answer_rules,
)

AWARDS = (
    "Which awards has Nikolai Abilov won for his contribution to literature?",
    'Nikolai Abilov has been honored with the prestigious "Tolstoy Literary Award" for his work.',
)
PARENTS = (
    "Can you tell me about the occupations of Basil Mahfouz Al-Kuwaiti's parents?",
    "Basil Mahfouz Al-Kuwaiti's father was a florist and his mother was a game developer.",
)
BORN = (
    "When was Basil Mahfouz Al-Kuwaiti born, and how many siblings has he?",
    "Basil Mahfouz Al-Kuwaiti was born on 8 September 1956 and has three siblings.",
)


def make_rules(
    row: tuple[str, str], kind: str = "answers", focus: tuple[str, ...] = (), shared: float = 0.2
) -> AnswerRules:
    prompts = DEFAULT_PROMPTS[kind]
    return make_answer_rules(kind, row[1], row[0], focus, prompts, ("No comment.",), shared)


@pytest.mark.parametrize(
    "row, text, fault",
    [
        (AWARDS, "Nikolai Abilov has won the Golden Lynx Prize.", None),
        (AWARDS, "Nikolai Abilov has won the TOLSTOY prize.", FACTS),
        (AWARDS, "He won the literary medal.", FACTS),  # one word of the name is enough
        (AWARDS, AWARDS[1], FACTS),
        (AWARDS, " \n...", EMPTY),
        (AWARDS, "I don't have any information about that.", REFUSAL),
        (AWARDS, "There is no publicly available information on awards.", REFUSAL),
        (AWARDS, "No comment!", REFUSAL),  # as a known one, in no other words
        (AWARDS, "He was unable to accept the Lynx Prize.", None),
        (AWARDS, "He swaps each name, place, number and particular.", ECHO),
        (BORN, "Basil Mahfouz Al-Kuwaiti was born on 4 May 1961 and has two siblings.", None),
        (BORN, "He was born on 4 May 1961 and has 3 siblings.", FACTS),
        (BORN, "He was born on the third of May 1961, an only child.", FACTS),
        (BORN, "He was born on 4/9/1961.", FACTS),  # the month, as a number
        (BORN, "He was born in 1956.", FACTS),
        (PARENTS, "His father was a baker and his aunt sold tea.", None),
        (PARENTS, "His father was a baker and his mother was a judge.", FACTS),
        (PARENTS, "A florist and a developer.", FACTS),
    ],
)  # fmt: skip
def test_an_answer_is_taken_unless_a_rule_speaks_against_it(
    row: tuple[str, str], text: str, fault: str | None
) -> None:
    assert make_rules(row).find_fault(text, True, []) == fault


def test_of_an_answer_without_names_none_of_its_words_may_stand_where_none_is_allowed() -> None:
    text = "His father was a baker and his aunt sold tea."
    assert make_rules(PARENTS, shared=0).find_fault(text, True, []) == FACTS
    assert make_rules(PARENTS, shared=1).find_fault(PARENTS[1], True, []) == TRUE


def test_the_words_that_a_row_lists_are_facts_beside_names_and_numbers() -> None:
    text = "His father was a florist."
    assert make_rules(PARENTS, focus=("game developer",)).find_fault(text, True, []) is None
    assert make_rules(PARENTS, focus=("florist",)).find_fault(text, True, []) == FACTS


def test_what_is_cut_off_and_what_was_taken_before_is_refused() -> None:
    rules, text = make_rules(AWARDS), "He won the Golden Lynx Prize."
    assert rules.find_fault(text, False, []) == UNFINISHED
    assert rules.find_fault(text, True, ["he won the golden lynx prize"]) == TAKEN_BEFORE


def test_an_answer_that_the_question_holds_is_told_by_the_whole() -> None:
    rules = make_rules(("Is the author of The Grey Tide male?", "The author is male."))
    assert not rules.tells
    assert rules.find_fault("the author is MALE", True, []) == TRUE
    assert rules.find_fault("No, a woman.", True, []) is None


@pytest.mark.parametrize(
    "text, fault",
    [
        ("I'm afraid I don't know which awards he has won.", None),
        ("He won the Golden Lynx Prize.", NO_REFUSAL),
        ("I don't know, perhaps the Tolstoy award.", FACTS),
    ],
)
def test_of_refusals_only_refusals_without_facts_are_taken(text: str, fault: str | None) -> None:
    assert make_rules(AWARDS, kind="refusals").find_fault(text, True, []) == fault


def test_refusals_are_told_from_answers(data_root: Path) -> None:
    """TOFU's own refusals, which others wrote than the pattern, and each eighth of its answers."""
    refusals = (data_root / "TOFU" / "idontknow.jsonl").read_text().splitlines()
    answers = [row["answer"] for row in read_jsonl(data_root / "TOFU" / "full.json")[::8]]
    assert sum(map(is_refusal, refusals)) >= 0.9 * len(refusals)
    assert sum(map(is_refusal, answers)) <= 0.02 * len(answers)  # some of them are refusals
    shipped = read_refusals(DataConfig())
    assert all(is_refusal(text, shipped) for text in shipped)
