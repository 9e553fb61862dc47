"""Methods of unlearning: one small file each, with its config, its loss and what it needs.

`base` is the seam to everything else, `registry` knows the files by name, `user_file` runs one of
the user's own. Imports no torch, so that `--help` can read every method's keys.
"""

from __future__ import annotations

from undial_cli.methods.base import Method, MethodConfig
from undial_cli.methods.registry import METHODS
from undial_cli.methods.user_file import load_method_file

__all__ = ["METHODS", "make_method"]


def make_method(config: MethodConfig, seed: int = 0) -> Method:
    """A method from its config; `seed` fixes what it draws."""
    entry = METHODS[config.name] if config.file is None else load_method_file(config.file)
    return entry.method(config, seed)
