"""An experiment for a command that lacks some of its keys.

Experiments are written for `unlearn`, the command with all keys; Hydra would refuse the others.
Knows YAML files and the keys of commands, and nothing of what they mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from undial_cli.config.schema import RUN_TYPES, UnlearnRun
from undial_cli.errors import UserError
from undial_cli.runs.trust import check_yaml_text


def fit_experiments(
    command: str, words: list[str], folders: Sequence[Path]
) -> tuple[list[str], list[str]]:
    """Replace `experiment=NAME` by one that Hydra can compose for a command.

    Args:
        folders: with config groups; files of later ones win.

    Returns:
        The words, and what the command leaves out of the experiments, for the user to read.
    """
    fitted, left_out = [], []
    for word in words:
        key, _, name = word.partition("=")
        contents = read_experiments(name, folders) if key == "experiment" else {}
        sections = list_unfit_sections(command, contents)
        if sections:
            store_fitted(command, contents, sections)
            line = (
                f"undial {command} takes {word} without {', '.join(sorted(sections - {'target'}))}"
            )
            left_out.append(line + ("; it trains as target says" if "target" in sections else ""))
            word = f"{key}={name}_{command}"
        fitted.append(word)
    return fitted, left_out


def read_experiments(name: str, folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """The content of an experiment and of those that it builds on, by name."""
    contents: dict[str, dict[str, Any]] = {}
    names = [name]
    while names:
        name = names.pop()
        file = next(
            (f for p in folders[::-1] if (f := p / "experiment" / f"{name}.yaml").is_file()), None
        )
        if file is not None and name not in contents:
            check_yaml_text(file.read_text(encoding="utf-8", errors="replace"), str(file))
            content = read_experiment_file(file)
            contents[name] = content
            names += [entry for entry in content.get("defaults", []) if isinstance(entry, str)]
    return contents


def read_experiment_file(file: Path) -> dict[str, Any]:
    """The keys of an experiment; UserError where a file holds none that can be read."""
    try:
        content: Any = OmegaConf.to_container(OmegaConf.load(file))
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, RecursionError) as error:
        line = " ".join(str(error).split())[:300]
        raise UserError(f"experiment={file.stem}: cannot be read as YAML: {line}") from error
    defaults = (content.get("defaults") or []) if isinstance(content, dict) else None
    if not isinstance(defaults, list) or not all(map(is_default_entry, defaults)):
        raise UserError(f"experiment={file.stem}: {file}: expected keys, with a list of defaults")
    return content | ({"defaults": defaults} if "defaults" in content else {})


def is_default_entry(entry: Any) -> bool:
    """Whether an entry of a defaults list names an option, with or without its group."""
    return isinstance(entry, str) or (
        isinstance(entry, dict) and bool(entry) and isinstance(next(iter(entry)), str)
    )


def list_unfit_sections(command: str, contents: dict[str, dict[str, Any]]) -> set[str]:
    """The sections of experiments that a command is not to read; none where it has them all."""
    ours, theirs = (
        {f.name for f in dataclasses.fields(t)} for t in (RUN_TYPES[command], UnlearnRun)
    )
    written = {section for content in contents.values() for section in content}
    written |= {
        name_group(entry)
        for content in contents.values()
        for entry in content.get("defaults", [])
        if isinstance(entry, dict)
    }
    unfit = written & (theirs - ours)
    # Beside `target`, `train` says how to unlearn: what `finetune` makes is the target.
    return unfit | (written & {"train"} if unfit and command == "finetune" else set())


def store_fitted(command: str, contents: dict[str, dict[str, Any]], sections: set[str]) -> None:
    """Make options of the group `experiment` of what is left, named `NAME_COMMAND`."""
    for name, content in contents.items():
        left = {key: value for key, value in content.items() if key not in sections}
        if command == "finetune" and "target" in content:
            left["train"] = content["target"]
        left["defaults"] = [
            f"{entry}_{command}" if isinstance(entry, str) and entry in contents else entry
            for entry in content.get("defaults", [])
            if isinstance(entry, str) or name_group(entry) not in sections
        ]
        ConfigStore.instance().store(
            group="experiment", name=f"{name}_{command}", node=left, package="_global_"
        )


def name_group(entry: dict[str, Any]) -> str:
    """The group that an entry of a defaults list chooses: `method` of `override /method: npo`."""
    return next(iter(entry)).rpartition("/")[2].partition("@")[0]
