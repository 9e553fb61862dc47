"""A JSON schema of each kind of config file, made from the dataclasses, for editors.

`undial schema method > FILE` prints one; an editor that knows YAML schemas then completes keys,
shows their help and marks what is none. Draft 7, which those editors read. Checks no file itself
(`undial validate` does, and says more).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any, get_args, get_origin

from undial_cli.config.attacks import ATTACK_CONFIGS, BUDGETS
from undial_cli.config.field_types import find_inner_schema, list_field_types, may_be_null
from undial_cli.config.methods import MethodConfig
from undial_cli.errors import UserError, bad_value
from undial_cli.methods import METHODS
from undial_cli.runs.commands.file_kinds import FILE_KINDS, GLOBAL, FileKind

DRAFT = "http://json-schema.org/draft-07/schema#"
JSON_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}
# A value that stands elsewhere, as ${data.forget_split}.
INTERPOLATED_TEXT = {"type": "string", "pattern": r"\$\{"}
BOUNDS = {"minimum": "minimum", "above": "exclusiveMinimum", "maximum": "maximum"}
DEFAULTS_ENTRY = {
    "defaults": {"type": "array", "description": "the configs that this one builds on"}
}


def run_schema_command(words: Sequence[str]) -> int:
    """Do `undial schema GROUP`; returns the exit code.

    Raises:
        UserError: no group is named, or none that has files.
    """
    groups = [word.removeprefix("group=") for word in words]
    if len(groups) != 1:
        raise UserError("schema: expected a group, as in undial schema method > method.json; "
                        f"allowed is one of {', '.join(FILE_KINDS)}")  # fmt: skip
    if groups[0] not in FILE_KINDS:
        raise bad_value("group", groups[0], FILE_KINDS)
    print(json.dumps(make_file_schema(FILE_KINDS[groups[0]]), indent=1))
    return 0


def make_file_schema(kind: FileKind) -> dict[str, Any]:
    """The schema of a kind of file."""
    head = {"$schema": DRAFT, "title": f"undial: {kind.words}"}
    if kind.name == "method":
        configs = {name: entry.config for name, entry in METHODS.items()}
        return head | make_schema_by_key("name", configs)
    if kind.name == "attack":
        return head | make_schema_by_key("kind", ATTACK_CONFIGS) | {"required": ["kind"]}
    schema = make_class_schema(kind.schema)
    schema["properties"] |= DEFAULTS_ENTRY
    if kind.package == GLOBAL:
        schema["properties"]["hydra"] = {"type": "object"}
    return head | schema


def make_schema_by_key(key: str, configs: dict[str, type]) -> dict[str, Any]:
    """The schema of files whose keys follow from the value of one of them."""
    names = {f.name for config in configs.values() for f in dataclasses.fields(config)}
    schemas = {name: make_class_schema(config) for name, config in configs.items()}
    for schema in schemas.values():
        schema["properties"] |= DEFAULTS_ENTRY
        if "budgets" in schema["properties"]:
            schema["properties"]["budgets"] = make_budgets_schema(schema)
    return {
        "type": "object",
        "properties": {key: {"enum": list(configs)}},
        "propertyNames": {"enum": sorted(names | set(DEFAULTS_ENTRY))},
        "allOf": [
            {"if": {"properties": {key: {"const": name}}, "required": [key]}, "then": schema}
            for name, schema in schemas.items()
        ],
    }


def make_budgets_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an attack's `budgets`: each with keys of the attack."""
    inner = schema | {
        "properties": {k: v for k, v in schema["properties"].items() if k != "budgets"}
    }
    return {
        "type": "object",
        "description": schema["properties"]["budgets"].get("description", ""),
        "properties": dict.fromkeys(BUDGETS[1:], inner),
        "additionalProperties": False,
    }


def make_class_schema(config: type) -> dict[str, Any]:
    """The schema of a config class."""
    types = list_field_types(config)
    return {
        "type": "object",
        "properties": {
            f.name: make_field_schema(f, types[f.name]) for f in dataclasses.fields(config)
        },
        "additionalProperties": False,
    }


def make_field_schema(field: dataclasses.Field, kind: Any) -> dict[str, Any]:
    """The schema of a field, with its line of help and its default."""
    container, inner = find_inner_schema(kind)
    if field.metadata.get("class") is MethodConfig:
        schemas: list[dict[str, Any]] = [make_any_method_schema()]
    elif inner is None:
        schemas = make_leaf_schemas(field, kind)
    elif container is None:
        schemas = [make_class_schema(inner)]
    elif container is list:
        schemas = [{"type": "array", "items": make_class_schema(inner)}]
    else:
        schemas = [{"type": "object", "additionalProperties": make_class_schema(inner)}]
    if may_be_null(field) and {} not in schemas:
        schemas.append({"type": "null"})
    described = {"description": str(field.metadata.get("help", ""))}
    if not isinstance(field.default, dataclasses._MISSING_TYPE):
        described["default"] = field.default
    return described | (schemas[0] if len(schemas) == 1 else {"anyOf": schemas})


def make_any_method_schema() -> dict[str, Any]:
    """The keys of all methods: which there are follows from another choice."""
    configs = [entry.config for entry in METHODS.values()]
    names = {f.name for config in configs for f in dataclasses.fields(config)}
    return {"type": "object", "propertyNames": {"enum": sorted(names)}}


def make_leaf_schemas(field: dataclasses.Field, kind: Any) -> list[dict[str, Any]]:
    """What a value without keys of its own may be; each that is no text may be an interpolation."""
    rule = field.metadata
    if rule.get("word"):
        return [add_bounds({"type": "number"}, rule), {"const": rule["word"]}, INTERPOLATED_TEXT]
    if rule.get("several"):
        return [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    schema = make_type_schema(kind)
    items = schema.get("items")
    if items is not None:
        schema["items"] = add_bounds(items, rule)
    else:
        schema = add_bounds(schema, rule)
    is_text = schema == {"type": "string"} or schema == {}
    return [schema] if is_text else [schema, INTERPOLATED_TEXT]


def make_type_schema(kind: Any) -> dict[str, Any]:
    """The schema of a type: a text, a number, a list or a dictionary of such; {} of any value."""
    container, inner = get_origin(kind), get_args(kind)
    if container is list:
        return {"type": "array", "items": make_type_schema(inner[0])}
    if container is dict:
        return {"type": "object", "additionalProperties": make_type_schema(inner[1])}
    return {"type": JSON_TYPES[kind]} if kind in JSON_TYPES else {}


def add_bounds(schema: dict[str, Any], rule: Any) -> dict[str, Any]:
    """A schema with the words or the bounds that a field allows."""
    words: Iterable[Any] = rule.get("allowed") or ()
    if words:
        return {"enum": list(words)}
    bounds = {ours: rule[name] for name, ours in BOUNDS.items() if rule.get(name) is not None}
    return schema | bounds if schema.get("type") in ("number", "integer") else schema
