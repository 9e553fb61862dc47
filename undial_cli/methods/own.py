"""A method of the user's own, from a Python file: `method.file=my_method.py`.

The file is run, so it is taken from the command line only: never from a YAML file or a run.yaml.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import inspect
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undial_cli.errors import UserError, bad_value
from undial_cli.methods import CLASSES
from undial_cli.methods.configs import METHODS
from undial_cli.schema import MethodConfig

# The file that the command line named, for this process and those that it starts.
ALLOWED = "UNDIAL_METHOD_FILE"


@dataclass(frozen=True)
class Own:
    """What a file defines: a config dataclass and a method."""

    name: str
    config: type[MethodConfig]
    method: Any


def allow(path: str) -> Own:
    """Load a file that the command line named, and make its method known by its name.

    Raises:
        UserError: there is no such file, it cannot be run, or it defines no method.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise UserError(f"method.file={path}: no such file")
    os.environ[ALLOWED] = str(file)
    return load(str(file))


def check(path: str) -> None:
    """Raise UserError for a file that the command line did not name."""
    if os.environ.get(ALLOWED) != path:
        raise UserError(
            f"method.file={path}: runs code and is not taken from a file; say method.file={path} "
            "on the command line"
        )


def load(path: str) -> Own:
    """The method of a file that the command line named, made known by its name.

    Raises:
        UserError: the command line did not name it.
    """
    check(path)
    found = run_file(path, Path(path).stat().st_mtime_ns)
    METHODS[found.name] = found.config
    return found


@functools.lru_cache(maxsize=8)
def run_file(path: str, changed: int) -> Own:
    """Run a file and find what it defines."""
    del changed
    file = Path(path)
    name = file.stem
    if not name.isidentifier():
        raise bad_value("method.file", path, "a file named like a Python module")
    if name in CLASSES:
        raise UserError(f"method.file={path}: there is a method {name} already; rename the file")
    spec = importlib.util.spec_from_file_location(f"undial_method_{name}", file)
    if spec is None or spec.loader is None:
        raise bad_value("method.file", path, "a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        raise UserError(
            f"method.file={path}: cannot be run ({type(error).__name__}: {reason[0]})"
        ) from error
    from undial_cli.methods.base import Method

    methods = defined(module, Method)
    configs = defined(module, MethodConfig)
    if len(methods) != 1 or len(configs) > 1:
        raise UserError(
            f"method.file={path}: defines {len(methods)} subclasses of Method and {len(configs)} "
            "of MethodConfig; needed are one Method and at most one MethodConfig (a dataclass)"
        )
    config = configs[0] if configs else MethodConfig
    if configs and not all(f.metadata.get("help") for f in dataclasses.fields(config)):
        raise UserError(f"method.file={path}: each key of {config.__name__} is made by key(...)")
    return Own(name, config, methods[0])


def defined(module: Any, kind: type) -> list[Any]:
    """The subclasses of a class that a module itself defines."""
    found = [c for _, c in inspect.getmembers(module, inspect.isclass) if issubclass(c, kind)]
    return [c for c in found if c is not kind and c.__module__ == module.__name__]
