"""Rows held apart to choose by: whole subjects, the same in every set, and never reported."""

from __future__ import annotations

from typing import Any

from small import bundled_encoder

from undial_cli.config.suites import EvalConfig, EvalSetConfig
from undial_cli.data.rows import Row
from undial_cli.evaluation.held_apart import DividedSuite, divide_suite
from undial_cli.evaluation.suite import SetRows, Suite


def make_rows(names: str, per_subject: int = 4) -> list[Row]:
    """Rows about persons, one letter each."""
    return [
        {"question": f"What is {i} of {name}?", "answer": f"{name} {i}."}
        for name in names
        for i in range(per_subject)
    ]


def divide(share: float = 0.25, **sets: tuple[list[Row], dict[str, Any]]) -> DividedSuite:
    """A suite of these rows, and set options, in two."""
    options = {
        name: EvalSetConfig(split="s", metrics=["probability"], **o)
        for name, (_, o) in sets.items()
    }
    rows = {name: SetRows(part) for name, (part, _) in sets.items()}
    return divide_suite(Suite(EvalConfig(sets=options), bundled_encoder(), rows), share)


BY_FOUR = {"rows_per_subject": 4}


def test_no_row_is_in_both_parts_and_none_is_lost() -> None:
    divided = divide(forget=(make_rows("ABCDEFGH"), BY_FOUR), facts=(make_rows("xyz"), {}))
    for name, part in divided.sets.items():
        whole = range(len(divided.apart.rows[name].rows))
        assert part.apart | part.reported == set(whole)
        assert not part.apart & part.reported
        asked, others = (
            {i.index for i in s.items[name]} for s in (divided.apart, divided.reported)
        )
        assert (asked, others) == (part.apart, part.reported)
    assert len(divided.sets["forget"].apart) == 8
    assert len(divided.sets["facts"].apart) == 3
    assert divided.describe() == "forget 8 of 32 rows (2 of 8 subjects), facts 3 of 12 rows"


def test_a_subject_is_held_apart_whole() -> None:
    rows = make_rows("ABCDEFGH")
    named = [{**row, "subject": row["answer"][0]} for row in rows[::-1]]
    for part, options in ((rows, BY_FOUR), (named, {})):
        apart = divide(forget=(part, options)).sets["forget"].apart
        people = [row["answer"][0] for row in part]
        assert len(apart) == 8
        assert len({people[i] for i in apart}) == 2


def test_the_rows_of_one_subject_alone_are_dealt_one_by_one() -> None:
    divided = divide(forget=(make_rows("A", 8), {"rows_per_subject": 8}))
    assert len(divided.sets["forget"].apart) == 2
    assert divided.describe() == "forget 2 of 8 rows"


def test_rows_that_stand_in_two_sets_are_on_the_same_side() -> None:
    """With other columns, in another order, some of them, once by subject and once by row."""
    rows = make_rows("ABCDEFGH")
    again = [{**row, "perturbed_answer": ["no"]} for row in rows[::-1][:20]]
    divided = divide(0.5, forget=(rows, BY_FOUR), again=(again, {}), other=(make_rows("UVW"), {}))
    sides = {
        name: {divided.apart.rows[name].rows[i]["question"] for i in part.apart}
        for name, part in divided.sets.items()
    }
    reported = {
        divided.apart.rows[name].rows[i]["question"]
        for name, part in divided.sets.items()
        for i in part.reported
    }
    assert sides["again"]
    assert not (sides["forget"] | sides["again"]) & reported
    assert len(sides["other"]) == 6


def test_people_of_whom_two_sets_ask_in_other_words_are_on_the_same_side() -> None:
    """As of translations: by the blocks of sets of one role, or by a column, whatever the rows."""
    rows = make_rows("ABCDEFGH")
    other = [{"question": r["question"].upper(), "answer": r["answer"].upper()} for r in rows]
    forget = {**BY_FOUR, "role": "forget"}
    divided = divide(forget=(rows, forget), arabic=(other[:20], forget)).sets
    assert divided["arabic"].apart == {i for i in divided["forget"].apart if i < 20}
    named = [[{**r, "subject": r["answer"][0].upper()} for r in part] for part in (rows, other)]
    divided = divide(0.5, one=(named[0], {}), two=(named[1][::-1], {"role": "other"})).sets
    assert divided["two"].apart == {31 - i for i in divided["one"].apart}
    alone = divide(0.5, forget=(rows[:4], forget), arabic=(other[:4], forget)).sets
    assert alone["forget"].apart == alone["arabic"].apart
    assert len(alone["forget"].apart) == 2


def test_which_rows_are_held_apart_follows_from_what_they_say_alone() -> None:
    rows = make_rows("ABCDEFGH")
    moved = rows[16:] + rows[:16]
    sides = [
        {part[i]["question"] for i in divide(forget=(part, BY_FOUR)).sets["forget"].apart}
        for part in (rows, moved)
    ]
    assert sides[0] == sides[1]


def test_a_set_of_one_row_is_reported_and_missing_where_is_chosen() -> None:
    divided = divide(forget=(make_rows("AB"), BY_FOUR), one=(make_rows("x", 1), {}))
    assert divided.reported.set_names == {"forget", "one"}
    assert divided.apart.set_names == {"forget"}
    assert "too few rows" in divided.apart.rows["one"].missing


def test_both_parts_have_a_row_whatever_the_share() -> None:
    for share in (1e-9, 0.9):
        part = divide(share, forget=(make_rows("AB"), BY_FOUR)).sets["forget"]
        assert (len(part.apart), len(part.reported)) == (4, 4)
