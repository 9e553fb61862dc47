"""A method of the user's own, from a Python file: `method.file=my_method.py`.

It is a file like those of this folder. It is run, so it is taken from the command line only: never
from a YAML file or a run.yaml.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from undial_cli.errors import UserError, bad_value
from undial_cli.methods.base import MethodEntry
from undial_cli.methods.registry import METHODS, find_method_entry

SHIPPED_METHODS = frozenset(METHODS)

# The file that the command line named, for this process and those that it starts.
METHOD_FILE_VARIABLE = "UNDIAL_METHOD_FILE"


def allow_method_file(path: str) -> str:
    """Load a file that the command line named; the name by which its method is known from then on.

    Raises:
        UserError: there is no such file, it cannot be run, or it defines no method.
    """
    file = allow_user_file("method.file", METHOD_FILE_VARIABLE, path)
    load_method_file(str(file))
    return file.stem


def check_method_file(path: str) -> None:
    """Raise UserError for a file that the command line did not name."""
    check_user_file("method.file", METHOD_FILE_VARIABLE, path)


def load_method_file(path: str) -> MethodEntry:
    """The method of a file that the command line named, made known by its name.

    Raises:
        UserError: the command line did not name it.
    """
    check_method_file(path)
    METHODS[Path(path).stem] = entry = run_method_file(path, Path(path).stat().st_mtime_ns)
    return entry


@functools.lru_cache(maxsize=8)
def run_method_file(path: str, changed: int) -> MethodEntry:
    """Run a file and find what it defines; once, as long as it is not `changed`."""
    del changed
    name = Path(path).stem
    if name in SHIPPED_METHODS:
        raise UserError(f"method.file={path}: there is a method {name} already; rename the file")
    module = import_user_file("method.file", path)
    try:
        return find_method_entry(module)
    except UserError as error:
        raise UserError(f"method.file={path}: {error}") from error


def allow_user_file(key: str, variable: str, path: str) -> Path:
    """Note in an environment variable that the command line named a file; its whole path.

    Raises:
        UserError: there is no such file.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise UserError(f"{key}={path}: no such file")
    os.environ[variable] = str(file)
    return file


def check_user_file(key: str, variable: str, path: str) -> Path:
    """The whole path of a file; raises UserError for one that the command line did not name."""
    file = Path(path).expanduser().resolve()
    if os.environ.get(variable) != str(file):
        raise UserError(
            f"{key}={path}: runs code and is not taken from a file; say {key}={path} on the "
            "command line"
        )
    return file


def import_user_file(key: str, path: str) -> ModuleType:
    """Run a Python file of the user's, which the config key `key` names.

    Raises:
        UserError: it is none, or fails.
    """
    file = Path(path)
    if not file.stem.isidentifier():
        raise bad_value(key, path, "a file named like a Python module")
    name = f"undial_{key.partition('.')[0]}_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise bad_value(key, path, "a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses looks up the annotations of its configs
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        raise UserError(
            f"{key}={path}: cannot be run ({type(error).__name__}: {reason[0]})"
        ) from error
    return module
