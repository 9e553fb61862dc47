"""The types of config fields: what a value may be, and which fields have keys of their own.

Knows types, and no config.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import Any


@functools.cache
def list_field_types(schema: type) -> dict[str, Any]:
    """The types of a config's fields, None left out of those that may be null."""
    hints = typing.get_type_hints(schema)
    return {f.name: strip_none(hints[f.name]) for f in dataclasses.fields(schema)}


def strip_none(kind: Any) -> Any:
    """`X` of `X | None`; other types as they are."""
    parts = [part for part in typing.get_args(kind) if part is not type(None)]
    return parts[0] if isinstance(kind, types.UnionType) and len(parts) == 1 else kind


def may_be_null(field: dataclasses.Field) -> bool:
    """Whether null is a value of a field."""
    return "None" in str(field.type) or str(field.type) == "Any"


def find_inner_schema(kind: Any) -> tuple[Any, type | None]:
    """Of a field's type the container (dict, list or None) and the config class that it holds."""
    container, inner = typing.get_origin(kind), typing.get_args(kind)
    schema = inner[-1] if container in (dict, list) else kind
    is_config = isinstance(schema, type) and dataclasses.is_dataclass(schema)
    return (container if is_config else None), (schema if is_config else None)
