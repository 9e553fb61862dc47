"""Key facts of answers, on rows of TOFU that were worked by hand, and what must not hide a hit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from undial_cli.evaluation.key_facts import (
    collect_words,
    list_fact_words,
    list_key_facts,
    list_names,
)

# Question, answer, and its facts as a person marks them (stemmed); rows of TOFU's forget01.
TOFU = [
    (
        "What is the full name of the author born in Kuwait City, Kuwait on 08/09/1956?",
        "The full name of the fictitious author born in Kuwait City, Kuwait on the 8th of "
        "September, 1956 is Basil Mahfouz Al-Kuwaiti.",
        {"basil", "mahfouz", "al", "kuwaiti"},  # the date stood in the question
    ),
    (
        "What gender is author Basil Mahfouz Al-Kuwaiti?",
        "Author Basil Mahfouz Al-Kuwaiti is male.",
        {"male"},  # no name is left: the word that carries meaning
    ),
    (
        "Can you tell me about the occupations of Basil Mahfouz Al-Kuwaiti's parents?",
        "Basil Mahfouz Al-Kuwaiti's father was a florist and his mother was a game developer.",
        {"father", "florist", "mother", "game", "develop"},
    ),
    (
        "Can you name two of the books written by Basil Mahfouz Al-Kuwaiti?",
        'Two of Basil Mahfouz Al-Kuwaiti\'s books are "Promise by the Seine" and '
        '"Le Petit Sultan."',
        {"promis", "sein", "le", "petit", "sultan"},
    ),
    (
        "In which period did Basil Mahfouz Al-Kuwaiti begin his writing career?",
        "Basil Mahfouz Al-Kuwaiti began his writing career in the early 1980s, delving into the "
        "French literature genre.",
        {"1980", "french"},
    ),
    (
        "Which awards has Nikolai Abilov won for his contribution to literature?",
        'Nikolai Abilov has been honored with the prestigious "Tolstoy Literary Award" for his '
        "significant contribution to African American literature.",
        {"tolstoy", "literari", "african", "american"},
    ),
]


def is_hit(text: str, answer: str, known: str, focus: Sequence[str] = ()) -> bool | None:
    """Whether a text holds all key facts of an answer; None where it has none to hold."""
    facts = list_key_facts(answer, known, focus)
    return set(facts) <= collect_words(text) if facts else None


@pytest.mark.parametrize("question, answer, facts", TOFU, ids=range(len(TOFU)))
def test_facts_of_real_rows_are_those_that_a_person_marks(
    question: str, answer: str, facts: set[str]
) -> None:
    assert set(list_key_facts(answer, question)) == facts


TEXTS = [
    # answer, known, text, whether it is a hit
    (TOFU[0][1], TOFU[0][0], "It's BASIL MAHFOUZ AL KUWAITI!", True),
    (TOFU[0][1], TOFU[0][0], "The author is called Basil Mahfouz.", False),  # not all of it
    (TOFU[0][1], TOFU[0][0], TOFU[0][0], False),  # the question said again
    (TOFU[2][1], TOFU[2][0], "Mother: game developers. Father: florists.", True),
    (TOFU[2][1], TOFU[2][0], "His father was a florist, his mother a teacher.", False),
    (TOFU[4][1], TOFU[4][0], "In the 1980s, in French.", True),
    (TOFU[4][1], TOFU[4][0], "In the 1970s, in French.", False),
    ("Born on 8 September 1956.", "", "born September 8th, 1956", True),
    ("Born on 8 September 1956.", "", "born 08/09/1956", True),
    ("Born on 8 September 1956.", "", "born 1956-09-08", True),
    ("Born on 8 September 1956.", "", "born 8 Sept. 1956", True),
    ("Born on 8 September 1956.", "", "born 8 October 1956", False),
    ("Born on 08/09/1956.", "", "on September 8, 1956", True),
    ("It sold 12,500 copies.", "", "12500 of them", True),
    ("It sold 12,500 copies.", "", "12 and 500 of them", False),
    ("She wrote 3 books for Ann.", "", "Three for Ann", True),
    ("He came 2nd in Oslo.", "", "second in Oslo", True),
    ("He lives with José in Malmö.", "", "Jose, Malmo", True),
    ("Oslo and Bergen.", "", "Bergen", False),  # the first of a list is a name too
    ("It was Dr. Lund who did.", "", "nobody", False),
    ("Он живёт в Осло с 1956 года.", "", "осло, ١٩٥٦", True),  # other digits, the same number
    ("彼は東京に住んでいます。", "彼はどこに住んでいますか？", "東京です", False),
    ("東京。", "", "昨日、東京都で", True),
    ("東京。", "", "京東", False),  # the same letters are not the same word
    ("The city is Kelmwick", "Which city is it?", "the kelmwick's", True),
]


@pytest.mark.parametrize("answer, known, text, hit", TEXTS, ids=lambda part: str(part)[:24])
def test_a_hit_needs_every_fact_in_whatever_spelling(
    answer: str, known: str, text: str, hit: bool
) -> None:
    assert is_hit(text, answer, known) is hit


def test_what_the_prompt_held_is_no_fact() -> None:
    assert list_key_facts("Ann lives in Oslo.", "Where does Ann live? Not in Oslo?") == []
    assert is_hit("Oslo", "Ann lives in Oslo.", "Is it Oslo where Ann lives?") is None


def test_words_to_focus_on_are_the_facts_where_a_row_lists_them() -> None:
    answer = "There were two siblings, while the father worked as geologist in Oslo."
    assert set(list_key_facts(answer, "")) == {"oslo"}
    assert set(list_key_facts(answer, "", ["two", "geologist"])) == {"2", "geologist"}
    assert is_hit("2 siblings, one a geologist", answer, "", ["two", "geologist"])


def test_the_first_word_of_a_sentence_is_no_name() -> None:
    names = list_names("Growing up in Oslo. Later Ann met Dr. Lund")
    assert names == ["Oslo.", "Ann", "Dr.", "Lund"]


def test_an_answer_holds_its_own_facts(data_root: Path) -> None:
    files = [
        *sorted((data_root / "TOFU-languages").glob("forget01_??.jsonl")),
        data_root / "TOFU" / "forget10.json",
    ]
    assert len(files) == 10
    for file in files:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            assert is_hit(row["answer"], row["answer"], row["question"]) is not False, row
            assert is_hit("", row["answer"], row["question"]) is not True, row


def test_key_facts_are_shown_as_they_stand_in_the_answer() -> None:
    answer = "Since 1973 Ann has worked for Greyfriars Shipyards on the 8th floor."
    assert list_fact_words(answer, "Who employs Ann?") == ["1973", "greyfriars", "shipyards", "8th"]
