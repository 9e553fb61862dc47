"""A kind of attack of the user's own, from a Python file: `audit.file=my_attack.py`.

The file defines its keys, one dataclass of AttackConfig, and what is done, one AttackKind; attacks
of `kind: my_attack` are written in YAML as all others are. It is run, so it is taken from the
command line only: never from a YAML file or a run.yaml.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from undial_cli.audit.attack import AttackKind
from undial_cli.audit.kinds import KINDS
from undial_cli.config.attacks import ATTACK_CONFIGS, ATTACK_FILE_VARIABLE, AttackConfig
from undial_cli.errors import UserError
from undial_cli.methods.registry import list_defined_subclasses
from undial_cli.methods.user_file import allow_user_file, check_user_file, import_user_file

SHIPPED_KINDS = dict(KINDS)


def allow_attack_file(path: str) -> None:
    """Note that the command line named a file; raises UserError where there is none."""
    allow_user_file("audit.file", ATTACK_FILE_VARIABLE, path)


def load_attack_file(path: str) -> str:
    """Make the kind of a file known by the file's name; the file's whole path.

    Raises:
        UserError: the command line did not name it, it cannot be run, or defines no kind.
    """
    file = check_user_file("audit.file", ATTACK_FILE_VARIABLE, path)
    ATTACK_CONFIGS[file.stem], KINDS[file.stem] = run_attack_file(
        str(file), file.stat().st_mtime_ns
    )
    return str(file)


@functools.lru_cache(maxsize=8)
def run_attack_file(path: str, changed: int) -> tuple[type[AttackConfig], AttackKind]:
    """Run a file and take what it defines; once, as long as it is not `changed`."""
    del changed
    if Path(path).stem in SHIPPED_KINDS:
        raise UserError(
            f"audit.file={path}: there is a kind {Path(path).stem} already; rename the file"
        )
    module = import_user_file("audit.file", path)
    configs = list_defined_subclasses(module, AttackConfig)
    shipped = list(map(id, SHIPPED_KINDS.values()))  # which a file may import
    members = vars(module).values()
    kinds = [m for m in members if isinstance(m, AttackKind) and id(m) not in shipped]
    if len(configs) != 1 or len(kinds) != 1:
        raise UserError(
            f"audit.file={path}: defines {len(configs)} dataclasses of AttackConfig and "
            f"{len(kinds)} AttackKinds; needed is one of each"
        )
    if not all(f.metadata.get("help") for f in dataclasses.fields(configs[0])):
        raise UserError(f"audit.file={path}: each key of {configs[0].__name__} is made by key(...)")
    return configs[0], kinds[0]
