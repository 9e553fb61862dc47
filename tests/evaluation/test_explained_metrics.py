"""docs/metrics.md: every metric has its section there, and every example comes out as it says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

from undial_cli.evaluation.catalog import ENTRIES, NUMBERED

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in re.split(r"^### ", TEXT, flags=re.M)[1:]}


def test_every_metric_is_explained_with_an_example() -> None:
    names = {metric.name for metric in ENTRIES} | {f"{word}_N" for word in NUMBERED}
    assert set(SECTIONS) == names
    assert not [name for name, part in SECTIONS.items() if ">>> " not in part]


@pytest.mark.slow
def test_the_examples_come_out_as_the_page_says() -> None:
    test = doctest.DocTestParser().get_doctest(TEXT, {}, "metrics.md", str(PAGE), 0)
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test)
    assert runner.tries > len(SECTIONS)
    assert not runner.failures
