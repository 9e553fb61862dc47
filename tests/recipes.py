"""The files that a recipe of docs/extending.md writes."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
# A path with a folder in it, then, before any other block, a block of code.
STEP = re.compile(
    r"`([\w./]+/[\w./]+)`(?:(?!```).)*?\n *```(?:python|yaml)\n(.*?)\n *```", re.DOTALL
)


def read_section(heading: str) -> str:
    """The text of a recipe."""
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S))
    return sections[heading]


def read_code(heading: str) -> list[str]:
    """The blocks of code of a recipe."""
    blocks = re.findall(r"\n *```\w+\n(.*?)\n *```", read_section(heading), re.DOTALL)
    return [textwrap.dedent(block) for block in blocks]


def read_recipe(heading: str) -> dict[str, str]:
    """The content of each file of a recipe, by the path that stands before it."""
    steps = re.split(r"^(?=\d\. )", read_section(heading), flags=re.MULTILINE)[1:]
    matches = [match for step in steps if (match := STEP.search(step))]
    return {match[1]: textwrap.dedent(match[2]) + "\n" for match in matches}
