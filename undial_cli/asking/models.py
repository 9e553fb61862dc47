"""Which models `undial ask` asks: those of a run by their roles, or one by its path.

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
from undial_cli.asking.words import AskWords
from undial_cli.config.attacks import RETAIN, TARGET, UNLEARNED
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

ROLE_TITLES = {TARGET: "target", RETAIN: "retain model", UNLEARNED: "unlearned"}
FINETUNED, PLAIN = "finetuned", "model"
# Runs that an error lists.
MOST_LISTED = 8
# By role: where evidence.json and audit.json of a run say which model it was.
RECORDS = {TARGET: ("weights", "before"), RETAIN: ("weights", "retain")}


@dataclass(frozen=True)
class AskedModel:
    """A model that answers: its role, its name on the screen, its path, and whose config it has."""

    role: str
    title: str
    path: str
    run: Run

    @property
    def identity(self) -> str:
        """Its path, however it is spelt."""
        return os.path.realpath(self.path) if Path(self.path).exists() else self.path


def list_asked_models(asked: AskWords) -> list[AskedModel]:
    """All models that the words name, each once: targets, retain models, then the others.

    Raises:
        UserError: a path is no run and no model, or an override is wrong.
    """
    models: list[AskedModel] = []
    for word in asked.models:
        folder = find_run_folder(word)
        models += (
            list_run_models(word, folder, asked) if folder else [make_plain_model(word, asked)]
        )
    for role in (TARGET, RETAIN):
        path = getattr(asked.config, role)
        if path is not None:
            models = [model for model in models if model.role != role]
        if path:
            models.append(AskedModel(role, ROLE_TITLES[role], path, models[-1].run))
    if not models:
        raise UserError(f"ask {' '.join(asked.models)}: no model is left to ask")
    order = [TARGET, RETAIN]
    models.sort(key=lambda model: order.index(model.role) if model.role in order else len(order))
    unique = {model.identity: model for model in reversed(models)}
    return name_alike([model for model in models if unique[model.identity] is model])


def find_run_folder(word: str) -> RunFolder | None:
    """The run folder that a word names, if it is one."""
    path = Path(word).expanduser()
    path = path.parent if path.name == "run.yaml" else path
    return RunFolder(path) if (path / "run.yaml").is_file() else None


def make_plain_model(word: str, asked: AskWords) -> AskedModel:
    """A model by its path: with the config of the run that made it, where that lies around it."""
    path = Path(word).expanduser()
    is_bare = path.is_dir() and not any(
        (path / name).is_file() for name in (*CONFIG_FILES, CONTRAST_FILE)
    )
    below = list(itertools.islice(find_run_folders(path), MOST_LISTED)) if is_bare else []
    if below:
        names = ", ".join(str(run.relative_to(path)) for run in below)
        raise UserError(f"ask {word}: neither a run nor a model; below it are {names}")
    around = RunFolder(path.absolute().parent)
    chosen = [w for w in asked.overrides if w.startswith("model=")]
    rest = [w for w in asked.overrides if w not in chosen]
    where = f"ask {word}"
    if chosen:
        named = compose_run("evaluate", chosen)
    elif around.checkpoint == path.absolute() and around.run_yaml.is_file():
        named = load_run(around.path)
    else:
        named = compose_run("evaluate", [])
        named.model = dataclasses.replace(EvaluateRun().model, name=path.name)
    run = parse_run_yaml(dump_run_yaml(named), rest, word)
    check_command_line_keys(run, asked.overrides, where)
    return AskedModel(
        PLAIN, path.parent.name if path.name == "checkpoint" else path.name, word, run
    )


def list_run_models(word: str, folder: RunFolder, asked: AskWords) -> list[AskedModel]:
    """The target, the retain model and the checkpoint of a run, as far as they are there.

    Raises:
        UserError: the run has nothing to be asked.
    """
    grouped = [w for w in asked.overrides if w.startswith("model=")]
    if grouped:
        raise UserError(f"{grouped[0]}: a run has its model; single keys as model.dtype can be set")
    run = load_run(folder.path, asked.overrides)
    check_command_line_keys(run, asked.overrides, f"ask {word}")
    models = []
    for role, location in list_locations(run, folder).items():
        path = find_recorded_model(role, folder) if location else None
        try:
            path = path or (location and locate_model(run, location))
        except (UserError, WorldError, OSError) as error:  # the data may be gone by now
            ui.say(f"without {describe_role(role)}: {error}", "yellow")
            continue
        if path is None or (location is not None and not is_model_there(path)):
            if location is not None and getattr(asked.config, role, None) is None:
                ui.say(
                    f"without {describe_role(role)}: {path} is not there any more; "
                    f"{role}=PATH names another",
                    "yellow",
                )
            continue
        models.append(AskedModel(role, ROLE_TITLES.get(role, role), path, run))
    answered = run.model.path if isinstance(run, EvaluateRun | AuditRun) else str(folder.checkpoint)
    if answered is None and models:
        return models  # it is the target that was evaluated
    if answered is None or (answered == str(folder.checkpoint) and not folder.checkpoint.is_dir()):
        raise UserError(
            f"ask {word}: the run has no checkpoint (status: {folder.status() or 'unknown'})"
        )
    role = FINETUNED if run.command == "finetune" else UNLEARNED
    title = ROLE_TITLES.get(role, role) if len(asked.models) == 1 else folder.path.name
    return [*models, AskedModel(role, title, answered, run)]


@contextlib.contextmanager
def blame_model(model: AskedModel) -> Iterator[None]:
    """While open, what is wrong with a model is said of the word that names it."""
    try:
        yield
    except (UserError, WorldError) as error:
        word = f"{model.role}=" if model.role in (TARGET, RETAIN) else "ask "
        raise type(error)(str(error).replace("model.path=", word, 1)) from error


def describe_role(role: str) -> str:
    """A role in a sentence."""
    return "a target" if role == TARGET else "a retain model"


def list_locations(run: Run, folder: RunFolder) -> dict[str, ModelLocation | None]:
    """Where the config of a run says that its target and its retain model are; None: nowhere."""
    if run.command == "finetune":
        return {}
    target = resolve_target(run) if isinstance(run, UnlearnRun) else resolve_published_target(run)
    if target is None and run.model.path is None:
        target = resolve_target(run)
    return {TARGET: target, RETAIN: resolve_retain_model(run)}


def find_recorded_model(role: str, folder: RunFolder) -> str | None:
    """The path that a run recorded of a model of its own, if a model still lies there."""
    section, name = RECORDS[role]
    weights = read_json_object(folder.evidence).get(section)
    entry = weights.get(name) if isinstance(weights, dict) else None
    audited = read_json_object(folder.audit / "audit.json").get("models")
    other = audited.get(role) if isinstance(audited, dict) else None
    for content in (entry, other):
        path = content.get("path") if isinstance(content, dict) else None
        if isinstance(path, str) and Path(path).is_dir():
            return path
    return None


def locate_model(run: Run, location: ModelLocation) -> str:
    """The path of a model as configured, or where the cache has it; that takes the data."""
    if location.path is not None:
        return location.path
    from undial_cli.runs.resolved import ResolvedRun  # which knows methods, and takes seconds

    return ResolvedRun(run).find_path(location)


def is_model_there(path: str) -> bool:
    """Whether a path may be a model: what lies in the cache may have been removed."""
    return not Path(path).is_absolute() or Path(path).exists()


def name_alike(models: list[AskedModel]) -> list[AskedModel]:
    """The models, by their number as well where others have their title."""
    titles = [model.title for model in models]
    for number, model in enumerate(models):
        if titles.count(model.title) > 1:
            count = titles[:number].count(model.title) + 1
            models[number] = dataclasses.replace(model, title=f"{model.title} {count}")
    return models
