"""The models that `undial ask` and `undial serve` ask: of a run by their roles, or one by its path.

What a run itself recorded of its target and its retain model comes first: it is what the run used,
and nothing has to be worked out. Loads no weights.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from undial_cli import ui
from undial_cli.asking.words import ModelWords
from undial_cli.config.attacks import RETAIN, TARGET, UNLEARNED
from undial_cli.config.models import ModelConfig
from undial_cli.config.schema import AuditRun, EvaluateRun, Run, UnlearnRun
from undial_cli.errors import UserError, WorldError
from undial_cli.reporting.collect import find_run_folders
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_folder import RunFolder, read_json_object
from undial_cli.runs.run_yaml import dump_run_yaml, load_run, parse_run_yaml
from undial_cli.runs.targets import (
    ModelLocation,
    resolve_published_target,
    resolve_retain_model,
    resolve_target,
)
from undial_cli.runs.trust import check_command_line_keys
from undial_cli.system.source_paths import CONFIG_FILES, CONTRAST_FILE

FINETUNED, PLAIN = "finetuned", "model"
ROLE_TITLES = {
    TARGET: "target", RETAIN: "retain model", UNLEARNED: "unlearned", FINETUNED: "finetuned"
}  # fmt: skip
# Runs that an error lists.
MOST_LISTED = 8


@dataclass(frozen=True)
class AskedModel:
    """A model that answers: its role, its name on the screen, its path, and whose config it has.

    `command`: that names it on its command line.
    """

    role: str
    title: str
    path: str
    run: Run
    command: str = "ask"

    @property
    def identity(self) -> str:
        """Its path, however it is spelt."""
        return os.path.realpath(self.path) if Path(self.path).exists() else self.path


def list_asked_models(asked: ModelWords) -> list[AskedModel]:
    """All models that the words name, each once: targets, retain models, then the others.

    Raises:
        UserError: a path is no run and no model, or an override is wrong.
    """
    models: list[AskedModel] = []
    for word in asked.models:
        folder = find_run_folder(word)
        of_run = list_run_models(word, folder, asked) if folder else []
        models += of_run or [make_plain_model(word, asked)]
    run = models[-1].run
    for role in (TARGET, RETAIN):
        path = getattr(asked.config, role)
        if path is not None:
            models = [model for model in models if model.role != role]
        if path:
            models.append(AskedModel(role, ROLE_TITLES[role], path, run, asked.command))
    if not models:
        raise UserError(f"{asked.command} {' '.join(asked.models)}: no model is left to ask")
    order = [TARGET, RETAIN]
    models.sort(key=lambda model: order.index(model.role) if model.role in order else len(order))
    unique = {model.identity: model for model in reversed(models)}
    return name_alike([model for model in models if unique[model.identity] is model])


def find_run_folder(word: str) -> RunFolder | None:
    """The run folder that a word names, if it is one."""
    path = Path(word).expanduser()
    path = path.parent if path.name == "run.yaml" else path
    return RunFolder(path) if (path / "run.yaml").is_file() else None


def make_plain_model(word: str, asked: ModelWords) -> AskedModel:
    """A model by its path: with the config of the run that made it, where that lies around it."""
    path = Path(word).expanduser()
    is_bare = path.is_dir() and not any(
        (path / name).is_file() for name in (*CONFIG_FILES, CONTRAST_FILE)
    )
    below = list(itertools.islice(find_run_folders(path), MOST_LISTED)) if is_bare else []
    if below:
        names = ", ".join(str(run.relative_to(path)) for run in below)
        raise UserError(f"{asked.command} {word}: neither a run nor a model; below it are {names}")
    around = RunFolder(path.absolute().parent)
    chosen = [w for w in asked.overrides if w.startswith("model=")]
    rest = [w for w in asked.overrides if w not in chosen]
    if chosen:
        named = compose_run("evaluate", chosen)
    elif around.checkpoint == path.absolute() and around.run_yaml.is_file():
        named = load_run(around.path)
    else:
        named = EvaluateRun(command="evaluate", model=ModelConfig(name=path.name))
    run = parse_run_yaml(dump_run_yaml(named), rest, word)
    check_command_line_keys(run, asked.overrides, f"{asked.command} {word}")
    title = path.parent.name if path.name == "checkpoint" else path.name
    return AskedModel(PLAIN, title, word, run, asked.command)


def list_run_models(word: str, folder: RunFolder, asked: ModelWords) -> list[AskedModel]:
    """The target, the retain model and the checkpoint of a run, as far as they are there.

    Raises:
        UserError: the run has nothing to be asked.
    """
    grouped = [w for w in asked.overrides if w.startswith("model=")]
    if grouped:
        raise UserError(f"{grouped[0]}: a run has its model; single keys as model.dtype can be set")
    run = load_run(folder.path, asked.overrides)
    check_command_line_keys(run, asked.overrides, f"{asked.command} {word}")
    models = []
    for role, location in list_locations(run).items():
        is_replaced = getattr(asked.config, role) is not None
        path = None if is_replaced else find_role_model(run, folder, role, location)
        if path is not None:
            models.append(AskedModel(role, ROLE_TITLES[role], path, run, asked.command))
    is_made = not isinstance(run, EvaluateRun | AuditRun)
    answered = str(folder.checkpoint) if is_made else run.model.path
    if answered is None and models:
        return models  # it is the target that was evaluated
    if answered is None or (is_made and not folder.checkpoint.is_dir()):
        status = folder.status() or "unknown"
        raise UserError(f"{asked.command} {word}: the run has no checkpoint (status: {status})")
    role = FINETUNED if run.command == "finetune" else UNLEARNED
    title = ROLE_TITLES[role] if len(asked.models) == 1 else folder.path.name
    return [*models, AskedModel(role, title, answered, run, asked.command)]


def find_role_model(run: Run, folder: RunFolder, role: str, location: ModelLocation) -> str | None:
    """The path of a run's target or retain model; None where it is gone, and it is said."""
    try:
        path = find_recorded_model(run, folder, role) or locate_model(run, location)
        if not Path(path).is_absolute() or Path(path).exists():
            return path
        reason = f"{path} is not there any more; {role}=PATH names another"
    except (UserError, WorldError, OSError) as error:  # the data may be gone by now
        reason = str(error)
    ui.say(f"without a {ROLE_TITLES[role]}: {reason}", "yellow")
    return None


@contextlib.contextmanager
def blame_model(model: AskedModel) -> Iterator[None]:
    """While open, what is wrong with a model is said of the word that names it."""
    try:
        yield
    except (UserError, WorldError) as error:
        word = f"{model.role}=" if model.role in (TARGET, RETAIN) else f"{model.command} "
        raise type(error)(str(error).replace("model.path=", word, 1)) from error


def list_locations(run: Run) -> dict[str, ModelLocation]:
    """Where the config of a run says that its target and its retain model are, where it does."""
    if run.command == "finetune":
        return {}
    target = resolve_target(run) if isinstance(run, UnlearnRun) else resolve_published_target(run)
    if target is None and run.model.path is None:
        target = resolve_target(run)
    locations = {TARGET: target, RETAIN: resolve_retain_model(run)}
    return {role: location for role, location in locations.items() if location is not None}


def find_recorded_model(run: Run, folder: RunFolder, role: str) -> str | None:
    """The path that a run recorded of its target or its retain model, if one still lies there."""
    weights = read_json_object(folder.evidence).get("weights")
    audited = read_json_object(folder.audit / "audit.json").get("models")
    # What an evaluation began with is the model that it is about.
    name = {TARGET: "before" if isinstance(run, UnlearnRun) else "", RETAIN: "retain"}[role]
    for content, key in ((weights, name), (audited, role)):
        entry = content.get(key) if isinstance(content, dict) else None
        path = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(path, str) and Path(path).is_dir():
            return path
    return None


def locate_model(run: Run, location: ModelLocation) -> str:
    """The path of a model as configured, or where the cache has it; that takes the data."""
    if location.path is not None:
        return location.path
    from undial_cli.runs.resolved import ResolvedRun  # which knows methods, and takes seconds

    return ResolvedRun(run).find_path(location)


def name_alike(models: list[AskedModel]) -> list[AskedModel]:
    """The models, by their number as well where others have their title."""
    titles = [model.title for model in models]
    for number, model in enumerate(models):
        if titles.count(model.title) > 1:
            count = titles[:number].count(model.title) + 1
            models[number] = dataclasses.replace(model, title=f"{model.title} {count}")
    return models
