"""The attacks of an audit, from files of configs/attack/ or of the user's to typed configs.

What a budget and the command line set otherwise is worked in, and the whole kept in the run's
config, so that a run.yaml needs no attack file. Imports no torch; carries out no attack.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from undial_cli.config.attacks import (
    ATTACK_CONFIGS,
    BUDGETS,
    MODEL_ROLES,
    AttackConfig,
    AuditConfig,
)
from undial_cli.config.fields import check_field_value, walk_fields
from undial_cli.config.schema import AuditRun, UnlearnRun
from undial_cli.config.suites import FORGET, find_set_of_role
from undial_cli.errors import UserError, bad_value, suggest_nearest
from undial_cli.runs import config_errors
from undial_cli.runs.trust import check_yaml_text


def find_attack_files(folders: Sequence[Path]) -> dict[str, Path]:
    """The files of all attacks by name; those of later folders win."""
    return {
        file.stem: file for folder in folders for file in sorted((folder / "attack").glob("*.yaml"))
    }


def fill_attacks(audit: AuditConfig, folders: Sequence[Path]) -> None:
    """Put the whole config of every attack of an audit into `audit.attack`.

    Raises:
        UserError: an attack that nobody knows, or one with a wrong key or value.
    """
    if not audit.is_on:
        return
    files = {
        name: read_attack_file(name, file) for name, file in find_attack_files(folders).items()
    }
    given = audit.attack
    for name, keys in given.items():
        if not isinstance(keys, dict):
            raise bad_value(f"audit.attack.{name}", keys, "keys of it: audit.attack.direct.rows=20")
        if name not in files and "kind" not in keys:
            raise bad_value("audit.attack", name, files)
    known = dict.fromkeys([*files, *given])
    of_budget = [name for name, content in files.items() if audit.budget in content["budgets"]]
    # What all others are measured against comes first; to set a key of an attack asks for it.
    chosen = dict.fromkeys(["direct", *(audit.attacks or [*of_budget, *given])])
    for name in chosen:
        if name not in known:
            raise bad_value("audit.attacks", name, known)
    audit.attack = {
        name: dataclasses.asdict(
            build_attack(name, files.get(name, {}), given.get(name, {}), audit.budget)
        )
        for name in chosen
    }


def read_attack_file(name: str, file: Path) -> dict[str, Any]:
    """The content of an attack's file; raises UserError for one that is no attack."""
    check_yaml_text(file.read_text(encoding="utf-8", errors="replace"), f"attack={name}: {file}")
    try:
        content = OmegaConf.to_container(OmegaConf.load(file))
    except Exception as error:
        raise UserError(
            f"attack={name}: {file} is no YAML file ({type(error).__name__})"
        ) from error
    if not isinstance(content, dict) or "kind" not in content:
        raise UserError(f"attack={name}: {file} says no kind; allowed is one of "
                        f"{', '.join(ATTACK_CONFIGS)}")  # fmt: skip
    content = {str(key): value for key, value in content.items()}
    budgets = content.setdefault("budgets", {})
    for budget in budgets:
        if budget not in BUDGETS[1:]:
            raise bad_value(f"audit.attack.{name}.budgets", budget, BUDGETS[1:])
    return content


def build_attack(
    name: str, content: dict[str, Any], given: dict[str, Any], budget: str
) -> AttackConfig:
    """An attack's typed and checked config: its file, then its budget, then the command line."""
    kind = given.get("kind", content.get("kind"))
    if kind not in ATTACK_CONFIGS:
        raise bad_value(f"audit.attack.{name}.kind", kind, ATTACK_CONFIGS)
    schema = ATTACK_CONFIGS[kind]
    of_budget = (content.get("budgets") or {}).get(budget) or {}
    keys = [f.name for f in dataclasses.fields(schema)]
    for word in (*content, *of_budget, *given):
        if word not in keys:
            nearest = suggest_nearest(word, keys)
            raise UserError(f"audit.attack.{name}.{word}: no such key of kind {kind}{nearest}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), content, of_budget, given)
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = str(error.full_key).partition("[")[0]
        field = next(f for f in dataclasses.fields(schema) if f.name == key)
        value = given.get(key, of_budget.get(key, content.get(key)))
        allowed = config_errors.describe_field_type(field)
        raise bad_value(f"audit.attack.{name}.{key}", value, allowed) from error
    except UserError as error:  # of a config's own check, which knows no attack's name
        raise UserError(f"audit.attack.{name}.{error}") from error
    assert isinstance(config, AttackConfig)
    for key, value, f in walk_fields(config, f"audit.attack.{name}."):
        check_field_value(key, value, f)
    for role in config.models:
        if role not in MODEL_ROLES:
            raise bad_value(f"audit.attack.{name}.models", role, MODEL_ROLES)
    config.title = config.title or name.replace("_", " ")
    return config


def find_forget_set(run: AuditRun | UnlearnRun) -> str | None:
    """The set of the suite that an audit asks about; None where there is none."""
    return run.audit.forget_set or find_set_of_role(run.eval, FORGET)


def list_attacks(audit: AuditConfig) -> dict[str, AttackConfig]:
    """The typed configs of the attacks of a filled audit, by name."""
    attacks: dict[str, AttackConfig] = {}
    for name, content in audit.attack.items():
        config = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(ATTACK_CONFIGS[content["kind"]]), content)
        )
        assert isinstance(config, AttackConfig)
        attacks[name] = config
    return attacks
