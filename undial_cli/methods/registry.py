"""Methods by name: every file of this folder is one, but for the helpers. Imports no torch.

A file defines one `Method`, which is called like the file, and at most one `MethodConfig` (without
it, the method has the keys that all have); or it says in `METHODS` what its names stand for.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

from undial_cli.errors import UserError
from undial_cli.methods.base import Method, MethodConfig, MethodEntry

NO_METHODS = ("__init__", "base", "registry", "user_file")


def find_method_entry(module: ModuleType) -> MethodEntry:
    """The one method that a module defines.

    Raises:
        UserError: it defines none or several, or keys that say nothing of themselves.
    """
    methods, configs = (
        list_defined_subclasses(module, Method),
        list_defined_subclasses(module, MethodConfig),
    )
    if len(methods) != 1 or len(configs) > 1:
        raise UserError(
            f"defines {len(methods)} subclasses of Method and {len(configs)} of MethodConfig; "
            "needed are one Method and at most one MethodConfig (a dataclass)"
        )
    config = configs[0] if configs else MethodConfig
    if not all(f.metadata.get("help") for f in dataclasses.fields(config)):
        raise UserError(f"each key of {config.__name__} is made by key(...)")
    return MethodEntry(config, methods[0])


def list_defined_subclasses(module: ModuleType, kind: type) -> list[Any]:
    """The subclasses of a class that a module itself defines."""
    # What a module imports (a method's base class, say) is its member too.
    return [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, kind) and member.__module__ == module.__name__
    ]


def find_methods() -> dict[str, MethodEntry]:
    """The methods of all files of this folder, by name."""
    entries: dict[str, MethodEntry] = {}
    for file in Path(__file__).parent.glob("*.py"):
        if file.stem not in NO_METHODS:
            module = importlib.import_module(f"{__package__}.{file.stem}")
            entries |= getattr(module, "METHODS", None) or {file.stem: find_method_entry(module)}
    return dict(sorted(entries.items()))


METHODS = find_methods()
