"""What a YAML file of the user's is: which group, which keys it may have, how it is chosen.

By the folder that it lies in, as Hydra does it, else by its keys. Knows schemas; checks no value.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undial_cli.config.attacks import ATTACK_CONFIGS, AttackConfig, AuditConfig
from undial_cli.config.datasets import DataConfig
from undial_cli.config.methods import MethodConfig
from undial_cli.config.models import ModelConfig
from undial_cli.config.schema import RUN_TYPES, HardwareConfig, UnlearnRun
from undial_cli.config.suites import EvalConfig
from undial_cli.config.tables import TableConfig
from undial_cli.config.training import AdapterConfig, RecipeConfig, TrainConfig
from undial_cli.config.tuning import SpaceConfig
from undial_cli.errors import UserError, bad_value
from undial_cli.methods import METHODS

RUN_KIND, GLOBAL = "run.yaml", ""


@dataclass(frozen=True)
class FileKind:
    """A kind of file. `schema`: of its keys; `package`: what stands before them in a run.

    `usage`: the words that choose the file, {name} being its name.
    """

    name: str
    words: str
    schema: type
    package: str
    usage: str


FILE_KINDS = {
    kind.name: kind
    for kind in (
        FileKind("model", "a model", ModelConfig, "model", "unlearn model={name}"),
        FileKind("data", "a data set", DataConfig, "data", "unlearn data={name}"),
        FileKind("method", "a method", MethodConfig, "method", "unlearn method={name}"),
        FileKind("adapter", "an adapter", AdapterConfig, "adapter", "unlearn adapter={name}"),
        FileKind("hardware", "hardware", HardwareConfig, "hardware", "unlearn hardware={name}"),
        FileKind("eval", "an evaluation suite", EvalConfig, "eval", "evaluate eval={name}"),
        FileKind("audit", "an audit", AuditConfig, "audit", "audit audit={name}"),
        FileKind(
            "attack", "an attack", AttackConfig, "audit.attack.{name}",
            "audit audit.attacks=[{name}]",
        ),
        FileKind("experiment", "an experiment", UnlearnRun, GLOBAL, "unlearn experiment={name}"),
        FileKind("table", "a table", TableConfig, "table", "reproduce table={name}"),
        FileKind("tune", "a search space", SpaceConfig, "tune", "tune tune={name}"),
        FileKind(
            "recipe/finetune", "a recipe of a model's fine-tuning", RecipeConfig, "target",
            "finetune model={name}",
        ),
        FileKind(
            "recipe/unlearn", "a recipe of a model's unlearning", TrainConfig, "train",
            "unlearn model={name}",
        ),
        FileKind(
            "recipe/data", "a recipe of a data set", UnlearnRun, GLOBAL, "unlearn data={name}"
        ),
        FileKind(
            "recipe/method", "a recipe of a method on a data set", UnlearnRun, GLOBAL,
            "unlearn method={method} data={data}",
        ),
    )
}  # fmt: skip


def find_kind_of_folder(file: Path) -> FileKind | None:
    """The kind of the group that a file's folder is called after."""
    parent = file.absolute().parent
    return FILE_KINDS.get(f"{parent.parent.name}/{parent.name}") or FILE_KINDS.get(parent.name)


def find_kind_folder(file: Path, kind: FileKind) -> Path | None:
    """The folder of configs that a file lies in, by its kind; None where it lies elsewhere."""
    folder = file.absolute().parents[kind.name.count("/") + 1 :]
    inside = folder and file.absolute().parent == folder[0] / kind.name
    return folder[0] if inside else None


def recognise_file_kind(content: dict[str, Any], text: str) -> tuple[FileKind, str]:
    """The kind of a file by its keys, and what it was recognised by.

    Raises:
        UserError: it may be of several kinds, or of none.
    """
    keys = set(content)
    if (command := str(content.get("command"))) in RUN_TYPES and "model" in keys:
        run_type = RUN_TYPES[command]
        return FileKind(RUN_KIND, "the run.yaml of a run", run_type, GLOBAL, ""), "it has command"
    if str(content.get("kind")) in ATTACK_CONFIGS:
        return FILE_KINDS["attack"], f"its kind is {content['kind']}"
    if "@package _global_" in text:
        return FILE_KINDS["experiment"], "its package is _global_"
    entries = list_default_entries(content)
    named = [str(entry).removesuffix("_schema") for entry in entries]
    if any(name in METHODS for name in named):
        return FILE_KINDS["method"], "its defaults name a method"
    told = keys - {"defaults", "name"}
    known = {
        name: len(told & list_top_keys(kind)) - len(told - list_top_keys(kind))
        for name, kind in FILE_KINDS.items()
        if "/" not in name
    }
    best = [name for name, count in known.items() if count == max(known.values())]
    if len(best) == 1 and known[best[0]] > 0:
        return FILE_KINDS[best[0]], "its keys are those of one"
    raise UserError(
        f"its kind cannot be told from its keys; say kind=NAME: {', '.join(FILE_KINDS)}"
    )


def list_top_keys(kind: FileKind) -> set[str]:
    """The keys that a file of a kind may have at its top."""
    schemas: list[type] = [kind.schema]
    schemas += [entry.config for entry in METHODS.values()] if kind.name == "method" else []
    schemas += ATTACK_CONFIGS.values() if kind.name == "attack" else []
    return {f.name for schema in schemas for f in dataclasses.fields(schema)}


def list_default_entries(content: dict[str, Any]) -> list[Any]:
    """The entries of a file's defaults list; none where it is no list."""
    entries = content.get("defaults")
    return entries if isinstance(entries, list) else []


def find_method_of_file(kind: FileKind, name: str, content: dict[str, Any]) -> str:
    """The method whose keys a file may set.

    Raises:
        UserError: of a method's file, which names none that there is.
    """
    part = content.get("method")
    inner = content if kind.name == "method" else part if isinstance(part, dict) else {}
    stated = inner.get("name")
    entries = list_default_entries(content)
    if kind.name == "method" and stated is None:
        names = [str(entry).removesuffix("_schema") for entry in entries]
        stated = next((name for name in names if name in METHODS), "")
    if stated is None and kind.name == "recipe/method":
        stated = split_recipe_name(name)[0]
    if stated is None:
        for entry in entries:
            for key, option in entry.items() if isinstance(entry, dict) else ():
                stated = option if str(key).endswith("/method") else stated
    stated = "undial" if stated is None else str(stated)
    if stated not in METHODS:
        raise bad_value("method.name", stated, METHODS)
    return stated


def split_recipe_name(name: str) -> tuple[str, str]:
    """The method and the data set that a recipe is called after: npo and muse_news."""
    fitting = [method for method in METHODS if name.startswith(f"{method}_")]
    method = max(fitting, key=len, default="")
    return method, name.removeprefix(f"{method}_")


def spell_usage(kind: FileKind, name: str) -> str:
    """The words of a command that choose a file."""
    method, data = split_recipe_name(name)
    return kind.usage.format(name=name, method=method, data=data)
