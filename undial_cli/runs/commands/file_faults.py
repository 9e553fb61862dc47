"""The faults of a config file, each with its line: keys that are none, values that are not allowed.

Asks what composing asks (OmegaConf's types, the schema's ranges, the lines of config_errors), key
by key, so that all faults are said at once. Composes and loads nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from undial_cli.config.attacks import ATTACK_CONFIGS, BUDGETS
from undial_cli.config.field_types import find_inner_schema, list_field_types
from undial_cli.config.fields import as_float, check_field_value
from undial_cli.config.methods import MethodConfig
from undial_cli.errors import UserError, bad_value, first_line, suggest_nearest
from undial_cli.methods import METHODS
from undial_cli.runs import config_errors
from undial_cli.runs.commands.file_kinds import GLOBAL, RUN_KIND, FileKind, find_method_of_file
from undial_cli.runs.commands.value_sources import read_written_values
from undial_cli.runs.known_keys import list_known_keys
from undial_cli.runs.trust import check_values, check_yaml_text

FAULTY_KEY = re.compile(r"\w+\.[\w.]+(?=[=:])")
PACKAGE_LINE = re.compile(r"\s*#\s*@package _global_\s*\n")


@dataclass(frozen=True)
class Fault:
    """What is wrong at a line of a file; line 0: with the file."""

    line: int
    text: str


@dataclass(frozen=True)
class ReadFile:
    """A YAML file: its values, as a config has them, and the node that they were read from."""

    text: str
    content: dict[str, Any]
    node: yaml.MappingNode


def read_config_file(file: Path) -> ReadFile | Fault:
    """The content of a file of keys and values, or why there is none."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        check_yaml_text(text, file.name)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            return Fault(1, "expected keys and their values, as in name: mine")
        content: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        return Fault(mark.line + 1 if mark else 0, f"no YAML: {error.problem or error.context}")
    except UserError as error:
        return Fault(0, str(error))
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        return Fault(0, f"cannot be read: {first_line(error)}")
    return ReadFile(text, spell_keys(content), node)


def spell_keys(content: Any) -> Any:
    """A content with all keys as texts, as nodes have them."""
    if isinstance(content, dict):
        return {str(key): spell_keys(value) for key, value in content.items()}
    return [spell_keys(value) for value in content] if isinstance(content, list) else content


def list_faults(kind: FileKind, name: str, read: ReadFile) -> list[Fault]:
    """All faults of a file's keys and values, in the order of its lines."""
    content, package = read.content, kind.package.format(name=name)
    schema, command = kind.schema, content.get("command") if kind.name == RUN_KIND else "unlearn"
    finder = FaultFinder(str(command))
    try:
        finder.method = find_method_of_file(kind, name, content)
    except UserError as error:
        return [Fault(find_line(read.node, "name"), str(error))]
    if kind.name == "method":
        schema = METHODS[finder.method].config
    if kind.name == "attack":
        stated = str(content.get("kind"))
        if stated not in ATTACK_CONFIGS:
            error = bad_value(f"{package}.kind", stated, ATTACK_CONFIGS)
            return [Fault(find_line(read.node, "kind"), str(error))]
        schema = ATTACK_CONFIGS[stated]
    if package == GLOBAL and kind.name != RUN_KIND and not PACKAGE_LINE.match(read.text):
        return [Fault(1, "expected '# @package _global_' above all else, or Hydra does not see it")]
    if not isinstance(content.get("defaults") or [], list):
        line = find_line(read.node, "defaults")
        return [Fault(line, "defaults: expected a list, as in defaults: [undial_schema]")]
    prefix = f"{package}." if package else GLOBAL
    skipped = {"defaults", "hydra"} if prefix == GLOBAL else {"defaults"}
    faults = [*finder.walk_keys(schema, read.node, content, prefix, skipped)]
    if kind.name == "attack":
        faults += finder.walk_budgets(schema, read.node, content, prefix)
    return sorted(faults, key=lambda fault: fault.line)


def find_fault_line(text: str, file: Path, package: str) -> int:
    """The line of the key that a fault begins with; 0 where the file does not set it."""
    key = FAULTY_KEY.match(text)
    written = read_written_values(file, package) if key else ()
    return next((value.line for value in written if key and value.concerns(key[0])), 0)


def find_line(node: yaml.MappingNode, name: str) -> int:
    """The line of a key; 0 where it is not there."""
    return next((k.start_mark.line + 1 for k, _ in node.value if k.value == name), 0)


@dataclass
class FaultFinder:
    """Walks a file beside a schema. `command`: whose keys are named; `method`: the one in use."""

    command: str
    method: str = ""

    def walk_keys(
        self,
        schema: type,
        node: yaml.Node,
        content: dict[str, Any],
        prefix: str,
        skipped: typing.Collection[str] = (),
    ) -> Iterator[Fault]:
        """The faults of a mapping that a config class describes."""
        assert isinstance(node, yaml.MappingNode)
        fields = {f.name: f for f in dataclasses.fields(schema)}
        for name_node, value_node in node.value:
            name, line = str(name_node.value), name_node.start_mark.line + 1
            if name in skipped or name not in content:
                continue
            if name not in fields:
                yield Fault(line, str(self.explain_unknown_key(prefix, name, list(fields))))
                continue
            kind = list_field_types(schema)[name]
            if fields[name].metadata.get("class") is MethodConfig:
                kind = METHODS[self.method].config
            yield from self.walk_value(
                schema, fields[name], kind, value_node, content[name], prefix + name, line
            )

    def walk_value(
        self,
        schema: type,
        field: dataclasses.Field,
        kind: Any,
        node: yaml.Node,
        value: Any,
        key: str,
        line: int,
    ) -> Iterator[Fault]:
        """The faults of a field's value: a part with keys of its own, several, or a leaf."""
        container, inner = find_inner_schema(kind)
        is_open = str(value) == "???" or (inner is None and "${" in str(value))
        if is_open or (inner is not None and value is None):
            return  # composing says what becomes of it
        if inner is None:
            yield from self.check_leaf(schema, field, value, key, line)
        elif container is None and isinstance(node, yaml.MappingNode):
            yield from self.walk_keys(inner, node, value, f"{key}.")
        elif container is dict and isinstance(node, yaml.MappingNode):
            for name_node, part in node.value:
                name, number = str(name_node.value), name_node.start_mark.line + 1
                inside = value.get(name)  # none of a key that is merged or no text
                if isinstance(part, yaml.MappingNode) and isinstance(inside, dict):
                    yield from self.walk_keys(inner, part, inside, f"{key}.{name}.")
                elif inside is not None and "${" not in str(inside):
                    yield self.refuse_group(f"{key}.{name}", part, inner, number)
        elif container is list and isinstance(node, yaml.SequenceNode):
            for index, part in enumerate(node.value):
                if isinstance(part, yaml.MappingNode):
                    yield from self.walk_keys(inner, part, value[index], f"{key}[{index}].")
                else:
                    number = part.start_mark.line + 1
                    yield self.refuse_group(f"{key}[{index}]", part, inner, number)
        else:
            yield self.refuse_group(key, node, inner, line)

    def refuse_group(self, key: str, node: yaml.Node, schema: type, line: int) -> Fault:
        """A value where keys are expected."""
        value = node.value if isinstance(node, yaml.ScalarNode) else "(what was given)"
        names = ", ".join(f.name for f in dataclasses.fields(schema))
        return Fault(line, f"{key}={value}: a group of keys; allowed is one of {names}")

    def check_leaf(
        self, schema: type, field: dataclasses.Field, value: Any, key: str, line: int
    ) -> Iterator[Fault]:
        """The fault of a single value, by its type, its range and what a file may not say."""
        try:
            config = make_empty_config(schema)
            config[field.name] = as_float(value) if field.metadata.get("word") else value
            typed = config[field.name]
            typed = OmegaConf.to_container(typed) if OmegaConf.is_config(typed) else typed
            check_field_value(key, typed, field)
            check_values({key: value})
        except OmegaConfBaseException:
            allowed = config_errors.describe_field_type(field)
            yield Fault(line, str(bad_value(key, value, allowed)))
        except UserError as error:
            yield Fault(line, str(error))

    def explain_unknown_key(self, prefix: str, name: str, siblings: list[str]) -> UserError:
        """A key that is none, with the nearest one."""
        key = prefix + name
        if key in list_known_keys(self.command) and prefix == "method.":
            return config_errors.explain_unknown_key(key, self.command, [f"method={self.method}"])
        if near := suggest_nearest(name, siblings):
            return UserError(f"{key}: no such key{near}")
        if prefix.startswith(("table.", "tune.", "audit.attack.")):
            return UserError(f"{key}: no such key; allowed is one of {', '.join(siblings)}")
        return config_errors.explain_unknown_key(key, self.command, [])

    def walk_budgets(
        self, schema: type, node: yaml.MappingNode, content: dict[str, Any], prefix: str
    ) -> Iterator[Fault]:
        """The faults of an attack's `budgets`, whose keys are the attack's own."""
        budgets = next((value for key, value in node.value if key.value == "budgets"), None)
        if not isinstance(budgets, yaml.MappingNode):
            return
        for name_node, part in budgets.value:
            name, line = str(name_node.value), name_node.start_mark.line + 1
            if name not in BUDGETS[1:]:
                error = bad_value(f"{prefix}budgets", name, BUDGETS[1:])
                yield Fault(line, str(error))
            elif isinstance(part, yaml.MappingNode) and isinstance(content["budgets"], dict):
                inner = content["budgets"][name]
                yield from self.walk_keys(schema, part, inner, f"{prefix}budgets.{name}.")


@functools.cache
def make_empty_config(schema: type) -> Any:
    """A config of a class in which one value after the other is tried."""
    return OmegaConf.structured(schema)
