"""Every dotted key of every command, and what kind of value it holds.

Knows the schema and the methods' configs; composes nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import re

from undial_cli.config.fields import walk_fields
from undial_cli.config.schema import RUN_TYPES, UnlearnRun
from undial_cli.config.suites import EvalSetConfig
from undial_cli.config.tables import ReproduceConfig
from undial_cli.config.tuning import TuneConfig
from undial_cli.methods import METHODS

# Of commands that compose no run themselves.
COMMAND_TYPES = {"reproduce": ReproduceConfig, "tune": TuneConfig}


def list_known_keys(command: str) -> dict[str, dataclasses.Field]:
    """Every dotted key of a command, with its field; those of all methods for `unlearn`."""
    config = COMMAND_TYPES.get(command) or RUN_TYPES[command]
    keys = {name: f for name, _, f in walk_fields(config())}
    keys.pop("method", None)
    if issubclass(config, UnlearnRun):
        for entry in METHODS.values():
            keys |= {name: f for name, _, f in walk_fields(entry.config(), "method.")}
    return keys


@functools.cache
def find_list_keys() -> frozenset[str]:
    """Every dotted key that holds a list of words; of a set in `eval.sets` without its name."""
    fields = {f"eval.sets.{name}": f for name, _, f in walk_fields(EvalSetConfig())}
    for command in RUN_TYPES:
        fields |= list_known_keys(command)
    return frozenset(name for name, f in fields.items() if str(f.type).startswith("list["))


def is_list_key(key: str) -> bool:
    return re.sub(r"^eval\.sets\.[^.]+", "eval.sets", key) in find_list_keys()
