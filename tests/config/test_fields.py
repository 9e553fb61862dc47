"""A field's default, range and line of help, and the walk over all of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
from conftest import refused

from undial_cli.config.fields import check_field_value, group, key, unescape_text, walk_fields


@dataclass
class Tool:
    size: float = key(1.0, "how large", minimum=0, maximum=10)
    speed: float = key(1.0, "how fast", above=0)
    kind: str = key("saw", "which", allowed=("saw", "axe"))
    files: Any = key(None, "of it", several=True)
    tags: list[str] = key([], "words")
    lengths: list[int] = key([], "in metres", minimum=1)
    colours: list[str] = key([], "of it", allowed=("red", "blue"))


@dataclass
class Shed:
    name: str = key("", "of the shed")
    tool: Tool = group(Tool, "the best one")
    tools: dict[str, Tool] = key({}, "the others")


FIELDS = {field.name: field for field in dataclasses.fields(Tool)}


@pytest.mark.parametrize(
    "name, value",
    [("size", 0), ("size", 10), ("speed", 1e-9), ("kind", "axe"), ("kind", None), ("files", "a"),
     ("files", ["a", "b"]), ("tags", []), ("lengths", []), ("lengths", [1, 2]),
     ("colours", ["blue", "red"])],
)  # fmt: skip
def test_a_value_within_its_range_passes(name: str, value: Any) -> None:
    check_field_value(name, value, FIELDS[name])


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        ("size", -1, "a number >= 0 and <= 10"),
        ("size", 10.5, "a number >= 0 and <= 10"),
        ("size", float("nan"), "a finite number >= 0 and <= 10"),
        ("speed", 0, "a number > 0"),
        ("speed", float("inf"), "a finite number > 0"),
        ("kind", "axes", "one of axe, saw; did you mean 'axe'?"),
        ("files", [], "a text, or a list of texts"),
        ("files", ["a", 3], "a text, or a list of texts"),
        ("files", "", "a text, or a list of texts"),
    ],
)
def test_a_value_beyond_its_range_is_refused_with_what_is_allowed(
    name: str, value: Any, allowed: str
) -> None:
    refused(lambda: check_field_value(name, value, FIELDS[name]), f"{name}={value}: ", allowed)


def test_a_list_that_is_none_is_refused() -> None:
    # as an interpolation leaves it: objective=${seed}
    refused(lambda: check_field_value("tags", 0, FIELDS["tags"]), "tags=0: ", "a list")
    refused(lambda: check_field_value("l", 2, FIELDS["lengths"]), "l=2: ", "a list")


def test_a_range_of_a_list_is_that_of_each_item() -> None:
    refused(lambda: check_field_value("l", [3, 0], FIELDS["lengths"]), "l=0: ", "a number >= 1")
    refused(lambda: check_field_value("c", ["red", "blu"], FIELDS["colours"]), "c=blu: ", "'blue'")


def test_a_default_that_can_change_belongs_to_one_config() -> None:
    Tool().tags.append("sharp")
    assert Tool().tags == []


def test_the_walk_names_every_leaf_by_its_dotted_key() -> None:
    shed = Shed("north", tools={"old": Tool(size=3)})
    leaves = {name: value for name, value, _ in walk_fields(shed, "shed.")}
    assert leaves["shed.name"] == "north"
    assert leaves["shed.tools.old.size"] == 3
    assert [name for name in leaves if name.startswith("shed.tool.")] == [
        f"shed.tool.{name}" for name in FIELDS
    ]
    assert "shed.tools" in {name for name, _, _ in walk_fields(Shed(), "shed.")}


def test_a_command_lines_escapes_are_the_characters_they_stand_for() -> None:
    assert unescape_text(r"Q:\t{question}\n") == "Q:\t{question}\n"
