"""run.yaml: a resolved Run as text, and that text as a checked Run again.

Nothing is composed here: what groups chose is in the text already, so that only single keys can be
overridden. Knows what earlier versions wrote, and where that is now.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from undial_cli.config.schema import RUN_TYPES, Run, UnlearnRun
from undial_cli.errors import UserError, bad_value
from undial_cli.methods import METHODS, user_file
from undial_cli.runs import config_errors
from undial_cli.runs.compose import allow_named_files, build_run
from undial_cli.runs.overrides import bracket_single_word
from undial_cli.runs.trust import check_yaml_text, refuse_variables

FIXED_GROUPS = ("model", "data", "method", "adapter", "hardware", "eval")
# Bundled files that a run.yaml of before names, and where they are now.
MOVED_RESOURCES = {
    "pkg://undial_cli/assets/demo": "pkg://undial_cli/data/demo",
    "pkg://undial_cli/assets/tiny": "pkg://undial_cli/models/tiny",
}


def dump_run_yaml(run: Run) -> str:
    """The fully resolved run, as `run.yaml` holds it."""
    return OmegaConf.to_yaml(OmegaConf.structured(run))


def load_run(path: str | os.PathLike, overrides: list[str] | None = None) -> Run:
    """Read a run.yaml (or the folder that holds one) back into a checked Run.

    Raises:
        UserError: no such file, not a run.yaml, or a wrong override.
    """
    file = Path(path)
    file = file / "run.yaml" if file.is_dir() else file
    if not file.is_file():
        raise UserError(f"--from {path}: no such file")
    return parse_run_yaml(file.read_text(encoding="utf-8", errors="replace"), overrides, str(path))


@refuse_variables()
def parse_run_yaml(text: str, overrides: list[str] | None = None, where: str = "-") -> Run:
    """A checked Run from the text of a run.yaml; errors name it as `--from WHERE`.

    Raises:
        UserError: not a run.yaml, or a wrong override.
    """
    check_yaml_text(text, f"--from {where}")
    try:
        content: Any = OmegaConf.create(upgrade_resources(text))
    except Exception as error:
        raise UserError(f"--from {where}: not a YAML file ({type(error).__name__})") from error
    command = content.get("command") if isinstance(content, DictConfig) else None
    if command not in RUN_TYPES:
        raise UserError(f"--from {where}: not a run.yaml (no known command in it)")
    base = OmegaConf.structured(RUN_TYPES[command])
    try:
        upgrade_recipe_keys(content)
        if RUN_TYPES[command] is UnlearnRun:
            for override in overrides or []:
                if override.startswith("method.file="):
                    user_file.allow_method_file(override.partition("=")[2])
                    content.method.file = os.environ[user_file.METHOD_FILE_VARIABLE]
            if content.method.get("file"):
                user_file.load_method_file(content.method.file)
            name = content.method.name
            if name not in METHODS:
                raise bad_value("method.name", name, METHODS)
            # The schema leaves `method` open: which keys it has follows from its name.
            base.method = OmegaConf.structured(METHODS[name].config)
        allow_named_files(overrides or [])
        changes = []
        for override in overrides or []:
            if "=" not in override:
                raise UserError(f"{override}: expected key=value")
            group = override.split("=")[0]
            if group in ("model", "data", "method", "adapter", "hardware", "eval"):
                raise UserError(
                    f"{override}: {group} is that of the run; a key may be set: {group}.KEY=VALUE"
                )
            if not override.startswith("method.file="):
                changes.append(bracket_single_word(override))
        return build_run(OmegaConf.merge(base, content, OmegaConf.from_dotlist(changes)))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        raise config_errors.explain_composition_error(error, command, overrides or []) from error


def upgrade_resources(text: str) -> str:
    """A run.yaml's text with the bundled files where they are now."""
    for old, new in MOVED_RESOURCES.items():
        text = text.replace(old, new)
    return text


def upgrade_recipe_keys(content: DictConfig) -> None:
    """Read a run.yaml of before: what `model` said of training is in `train` and `target` now."""
    model = content.get("model")
    if not (isinstance(model, DictConfig) and {"unlearn", "finetune"} <= model.keys()):
        return
    unlearn, finetune = model.pop("unlearn"), model.pop("finetune")
    for recipe in (unlearn, finetune):
        recipe.learning_rates = recipe.pop("learning_rate")
    if content.command != "finetune":
        content.target = finetune
    if content.command != "evaluate":  # train's other values were resolved already
        recipe = unlearn if content.command == "unlearn" else finetune
        content.train.learning_rates = recipe.learning_rates
