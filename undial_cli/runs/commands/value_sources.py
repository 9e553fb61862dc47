"""Where each value of a composed run comes from: a line of a file, a word, the schema's default.

Asks Hydra which files it merges and in which order, and reads their lines. Checks no value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from undial_cli.config.fields import walk_fields
from undial_cli.config.schema import AuditRun, Run, UnlearnRun
from undial_cli.runs.attacks import find_attack_files
from undial_cli.runs.compose import translate_words
from undial_cli.runs.hydra_configs import (
    COMPOSITION_ERRORS,
    compose_config,
    compose_from_groups,
    find_config_folder,
    list_folders,
    start_hydra,
)
from undial_cli.runs.trust import refuse_variables

DEFAULT, TYPED, DERIVED = "default", "command line", "follows from other keys"
ATTACK_KEYS = "audit.attack."
BUDGETS_OF_ATTACK = re.compile(r"audit\.attack\.[^.]+\.budgets(\.|$)")
INTERPOLATION = re.compile(r"\$\{([^${}]+)\}")


@dataclass(frozen=True)
class WrittenValue:
    """A value as somebody wrote it, before what comes later in the order is merged over it.

    `file`, `line`: where; no file: on the command line. `line` 0: somewhere in the file.
    """

    key: str
    text: str
    file: Path | None = None
    line: int = 0

    def concerns(self, key: str) -> bool:
        """Whether it sets a key, a part of it, or a dictionary that the key is in."""
        return self.key == key or f"{self.key}.".startswith(f"{key}.") or (
            key.startswith(f"{self.key}.")
        )  # fmt: skip

    def locate(self) -> str:
        """Where it stands: `configs/model/tiny.yaml:4`, shipped files by their short name."""
        if self.file is None:
            return TYPED
        shipped = find_config_folder()
        inside = self.file.is_relative_to(shipped)
        name = Path("configs", self.file.relative_to(shipped)) if inside else self.file
        return f"{name}:{self.line}" if self.line else str(name)


@dataclass(frozen=True)
class SourcedValue:
    """A value of a run and its source; `reference`: the key that an interpolation leads to."""

    key: str
    value: Any
    source: str
    written: WrittenValue | None = None
    reference: str | None = None


def list_sourced_values(
    command: str, words: Sequence[str], folder: str | None, run: Run
) -> list[SourcedValue]:
    """Every value of a run with its source, in the schema's order.

    Args:
        words: that `run` was composed from; `folder`: of the user's configs.
    """
    with refuse_variables():
        translated = translate_words(command, list(words), folder)
        try:
            config = compose_from_groups(command, translated, folder)
        except COMPOSITION_ERRORS:  # as compose_run does it
            config = compose_config(command, translated, folder)
        written = [*list_written_values(command, translated, folder)]
    if isinstance(run, AuditRun | UnlearnRun):
        written = [*list_attack_values(run, folder), *written]
    values = dict(pair for name, value, _ in walk_fields(run) for pair in split_values(name, value))
    # Which budgets hold an attack is no setting of it.
    values = {key: value for key, value in values.items() if not BUDGETS_OF_ATTACK.match(key)}
    sourced: list[SourcedValue] = []
    for key, value in values.items():
        last = next((w for w in reversed(written) if w.concerns(key)), None)
        # The attacks' values values are filled in after composing, from files and from their kinds.
        as_written = key.startswith(ATTACK_KEYS) or is_composed(config, key, value)
        if last is not None and ("${" in last.text or as_written):
            reference = find_reference(last.text, values)
            sourced.append(SourcedValue(key, value, last.locate(), last, reference))
        else:
            sourced.append(SourcedValue(key, value, DEFAULT if as_written else DERIVED))
    return sourced


def split_values(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value, or those of a dictionary by their dotted keys."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from split_values(f"{key}.{name}", inner)
    else:
        yield key, value


def is_composed(config: DictConfig, key: str, value: Any) -> bool:
    """Whether a value is as it was composed: no code filled it in afterwards."""
    try:
        composed = OmegaConf.select(config, key)
    except OmegaConfBaseException:
        return False
    if OmegaConf.is_config(composed):
        composed = OmegaConf.to_container(composed, resolve=True)
    return composed == value


def find_reference(text: str, values: dict[str, Any]) -> str | None:
    """The key that `${...}` leads to, interpolations within it resolved; None of other texts."""
    if not (text.startswith("${") and text.endswith("}")):
        return None
    inner = INTERPOLATION.sub(lambda match: str(values.get(match[1], match[0])), text[2:-1])
    return inner if inner in values else None


def list_written_values(
    command: str, words: list[str], folder: str | None
) -> Iterator[WrittenValue]:
    """What files and words say, in the order in which Hydra merges it."""
    start_hydra(folder)
    loader = GlobalHydra.instance().config_loader()
    merged = loader.compute_defaults_list(command, words, RunMode.RUN)
    folders = list_folders(folder)[::-1]  # a file of the user's stands for a shipped one
    for entry in merged.defaults:
        package = entry.package or ""
        if package.split(".")[0] == "hydra" or entry.config_path is None:
            continue
        names = (base / f"{entry.config_path}.yaml" for base in folders)
        file = next((name for name in names if name.is_file()), None)
        if file is not None:
            yield from read_written_values(file, package)
        elif entry.config_path.startswith("experiment/"):
            yield from read_fitted_experiment(entry.config_path, command, folders)
    for override in merged.config_overrides:
        if not override.is_hydra_override() and not override.is_delete():
            key = str(override.key_or_group)
            text = str(override.input_line).partition("=")[2]
            yield WrittenValue(key, text)


def read_written_values(file: Path, package: str = "") -> Iterator[WrittenValue]:
    """The values of a YAML file with their lines, under the package that it is merged at."""
    node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    for key, value in walk_nodes(node):
        if key[0] != "defaults":
            name = ".".join([package, *key] if package else key)
            text = value[1].value if isinstance(value[1], yaml.ScalarNode) else ""
            yield WrittenValue(name, text, file, value[0].start_mark.line + 1)


def walk_nodes(
    node: yaml.Node | None, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], tuple[yaml.Node, yaml.Node]]]:
    """The keys of a YAML mapping, of nested ones as tuples, each with its two nodes."""
    if not isinstance(node, yaml.MappingNode):
        return
    for name, value in node.value:
        key = (*prefix, str(name.value))
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from walk_nodes(value, key)
        else:
            yield key, (name, value)


def read_fitted_experiment(
    path: str, command: str, folders: Sequence[Path]
) -> Iterator[WrittenValue]:
    """What is taken of an experiment by a command that lacks some of its keys."""
    node = ConfigStore.instance().load(f"{path}.yaml").node
    name = path.removesuffix(f"_{command}")
    file = next((f for base in folders if (f := base / f"{name}.yaml").is_file()), None)
    content = OmegaConf.to_container(node)
    assert isinstance(content, dict)
    for key, value in split_values("", {k: v for k, v in content.items() if k != "defaults"}):
        yield WrittenValue(key.removeprefix("."), str(value), file)


def list_attack_values(run: AuditRun | UnlearnRun, folder: str | None) -> list[WrittenValue]:
    """What the files of a run's attacks say; keys of its budget count after the others."""
    files = find_attack_files(list_folders(folder))
    written: list[WrittenValue] = []
    for name in run.audit.attack:
        prefix = f"{ATTACK_KEYS}{name}"
        values = [*read_written_values(files[name], prefix)] if name in files else []
        of_budget = f"{prefix}.budgets.{run.audit.budget}."
        written += values
        written += [
            WrittenValue(f"{prefix}.{w.key.removeprefix(of_budget)}", w.text, w.file, w.line)
            for w in values
            if w.key.startswith(of_budget)
        ]
    return written
