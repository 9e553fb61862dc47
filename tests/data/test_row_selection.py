"""Which rows a set takes, by what their columns hold."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import refused

from undial_cli.data.selection import select_rows

ROWS = [
    {"id": "a.1 sc1", "task": "Task1", "level": 1},
    {"id": "a.1 qa0", "task": "Task1", "level": 2},
    {"id": "b+2 sc1", "task": "Task2", "level": 1},
    {"id": "b+2 qa\n3", "task": "Task2", "level": 2},
]


@pytest.mark.parametrize(
    "where, taken",
    [
        ({}, [0, 1, 2, 3]),
        ({"task": None}, [0, 1, 2, 3]),
        ({"task": "Task1"}, [0, 1]),
        ({"task": ["Task2", "Task1"]}, [0, 1, 2, 3]),
        ({"level": 2}, [1, 3]),
        ({"id": "*qa*"}, [1, 3]),  # a line break is text as well
        ({"id": "b+2*"}, [2, 3]),
        ({"id": "*sc1", "task": "Task2"}, [2]),
        ({"id": {"not": "*sc1"}}, [1, 3]),
        ({"id": {"not": ["a.1 sc1", "b+2*"]}}, [1]),
    ],
)
def test_rows_are_taken_by_what_they_hold(where: dict[str, Any], taken: list[int]) -> None:
    rows = select_rows(ROWS, where, "split=x", "where")
    assert rows == [ROWS[i] for i in taken]


@pytest.mark.parametrize(
    "where, parts",
    [
        ({"tasks": "Task1"},
         ["w.tasks", "row 1 has no column 'tasks'", "id, task, level", "did you mean 'task'"]),
        ({"task": "Task"}, ["w.task=Task", "none of 4 rows has this value", "holds 2 others"]),
        ({"task": "Task1", "id": "b*"}, ["w.id=b*", "none of 2 rows"]),
        ({"id": "a?1*"}, ["none of 4 rows"]),  # only * stands for other text
        ({"task": []}, ["w.task=[]", "{not: these}"]),
        ({"task": {"no": "x"}}, ["w.task={'no': 'x'}", "{not: these}"]),
        ({"task": [["Task1"]]}, ["a text or number"]),
    ],
)  # fmt: skip
def test_what_takes_nothing_is_refused(where: dict[str, Any], parts: list[str]) -> None:
    refused(lambda: select_rows(ROWS, where, "split=x", "w"), *parts)
