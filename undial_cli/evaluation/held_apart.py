"""Rows of a suite that are held apart, so that what is chosen by them is not measured on them.

Whole subjects are held apart where a set says whom its rows are about, for what is known of one
person is not independent; else rows. Which, the rows' content decides: neither the seed nor the
number of processes, and a row that stands in several sets is held apart in all of them or in none,
and so is a person of whom several sets of one role ask. Knows no metric and no model.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any

from undial_cli.config.datasets import DataConfig
from undial_cli.config.identity import digest_json
from undial_cli.config.suites import resolve_role
from undial_cli.data.rows import Row
from undial_cli.evaluation.resampling_units import number_subjects
from undial_cli.evaluation.suite import Suite

# Why a set is missing in one of the two parts.
TOO_FEW = "it has too few rows for some to be held apart"
# What became of the other part's rows.
APART_NOTE, REPORTED_NOTE = "held apart for train.select", "reported, and not asked here"
# Before marks that only join rows: behind all hex digits, so that none of them names a group.
LINK = "~"


@dataclass(frozen=True)
class RowUnit:
    """Rows of a set that stay together, by index, and the marks of all of them."""

    rows: list[int]
    marks: list[str]
    by_subject: bool


@dataclass(frozen=True)
class DividedSet:
    """Of one set the indices of the rows that are held apart and of those that are reported.

    `units`: into how many subjects the rows fall, None where rows were dealt one by one, and how
    many of them are held apart.
    """

    apart: frozenset[int]
    reported: frozenset[int]
    units: tuple[int, int] | None

    def describe(self, name: str) -> str:
        """In words: forget 10 of 20 rows (1 of 2 subjects)."""
        words = f"{name} {len(self.apart)} of {len(self.apart | self.reported)} rows"
        return f"{words} ({self.units[0]} of {self.units[1]} subjects)" if self.units else words


@dataclass(frozen=True)
class DividedSuite:
    """A suite in two: `apart` to choose by, `reported` to measure on; `sets`: how each is cut."""

    apart: Suite
    reported: Suite
    sets: dict[str, DividedSet]

    def describe(self) -> str:
        """A line on how many rows are held apart."""
        return ", ".join(part.describe(name) for name, part in self.sets.items())

    def record(self) -> dict[str, dict[str, Any]]:
        """As results.json holds it: which rows are held apart, and how many are reported."""
        return {
            name: {"apart": sorted(part.apart), "reported": len(part.reported)}
            for name, part in self.sets.items()
        }


def divide_suite(suite: Suite, share: float) -> DividedSuite:
    """Hold a share of each set's subjects (else rows) apart, at least one, and leave at least one.

    Args:
        share: between 0 and 1.
    """
    units = {name: list_units(suite, name) for name, rows in suite.rows.items() if not rows.missing}
    groups = join_units([unit.marks for of_set in units.values() for unit in of_set])
    is_apart: dict[str, bool] = {}
    sets = {}
    for name, of_set in units.items():
        counts = Counter(groups[unit.marks[0]] for unit in of_set)
        left = min(max(1, round(share * len(of_set))), len(counts) - 1)
        left -= sum(count for group, count in counts.items() if is_apart.get(group))
        # In the order of a hash of the content: as good as drawn, and the same for every run.
        for group in sorted(counts.keys() - is_apart.keys()):
            is_apart[group] = left > 0
            left -= counts[group]
        taken = [unit for unit in of_set if is_apart[groups[unit.marks[0]]]]
        apart = frozenset(index for unit in taken for index in unit.rows)
        reported = frozenset(index for unit in of_set for index in unit.rows) - apart
        by_subject = any(unit.by_subject for unit in of_set)
        sets[name] = DividedSet(apart, reported, (len(taken), len(of_set)) if by_subject else None)
    return DividedSuite(ask_part(suite, sets, True), ask_part(suite, sets, False), sets)


def ask_part(suite: Suite, sets: dict[str, DividedSet], apart: bool) -> Suite:
    """The suite that asks one part of the rows: those held apart, or those reported."""
    rows = dict(suite.rows)
    for name, part in sets.items():
        asked, others = (part.apart, part.reported) if apart else (part.reported, part.apart)
        missing = "" if asked else (TOO_FEW if apart else f"all of its rows are {APART_NOTE}")
        counts = {REPORTED_NOTE if apart else APART_NOTE: len(others)} if others else {}
        rows[name] = dataclasses.replace(
            rows[name], asked=asked, missing=missing, counts=rows[name].counts | counts
        )
    return dataclasses.replace(suite, rows=rows, whole=suite)


def list_units(suite: Suite, name: str) -> list[RowUnit]:
    """What of a set is held apart as one: the rows of a subject, or a row.

    The rows of one person alone are dealt one by one, or none could be held apart.
    """
    data, rows, options = suite.encoder.data, suite.rows[name].rows, suite.config.sets[name]
    subjects = number_subjects(rows, options, data.subject_key)
    several = len(set(subjects.values())) > 1
    units: dict[tuple[str, int], RowUnit] = {}
    for index, row in enumerate(rows):
        by_subject = several and index in subjects
        key = ("subject", subjects[index]) if by_subject else ("row", index)
        unit = units.setdefault(key, RowUnit([], [], by_subject))
        unit.rows.append(index)
        unit.marks.extend(list_row_marks(row, data))
        if index in subjects:
            # Sets of one role may ask of the same people in other words, or in other languages.
            block = [resolve_role(name, options), options.rows_per_subject, *key]
            person = row.get(data.subject_key) if several else None
            unit.marks.append(LINK + digest_json(block if person is None else str(person)))
    return list(units.values())


def list_row_marks(row: Row, data: DataConfig) -> list[str]:
    """What a row is known again by in another set: as a whole, and by what it asks and answers."""
    asked = [row.get(key) for key in (data.question_key, data.answer_key, data.text_key)]
    return [digest_json(row), *([digest_json(asked)] if any(asked) else [])]


def join_units(marks_of_units: list[list[str]]) -> dict[str, str]:
    """The group of each mark, named by the least mark in it; units that share a mark share one."""
    leaders: dict[str, str] = {}

    def find_leader(mark: str) -> str:
        while leaders.setdefault(mark, mark) != mark:
            mark = leaders[mark]
        return mark

    for marks in marks_of_units:
        for mark in marks:
            low, high = sorted((find_leader(marks[0]), find_leader(mark)))
            leaders[high] = low
    return {mark: find_leader(mark) for mark in [*leaders]}
