"""From the words of a command to a typed, checked Run.

Hydra's part is hydra_configs.py. Imports no torch; knows nothing of what a run does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from undial_cli import ui
from undial_cli.config.fields import walk_fields
from undial_cli.config.methods import MethodConfig
from undial_cli.config.schema import (
    RUN_TYPES,
    AlternativesRun,
    AuditRun,
    Run,
    UnlearnRun,
    check_ranges,
)
from undial_cli.config.splits import cut_slice
from undial_cli.config.suites import FORGET_SET, EvalConfig
from undial_cli.errors import UserError, bad_value
from undial_cli.evaluation import user_metrics
from undial_cli.evaluation.suite_metrics import check_metric_names
from undial_cli.methods import METHODS, user_file
from undial_cli.runs import config_errors
from undial_cli.runs.attacks import fill_attacks
from undial_cli.runs.experiments import fit_experiments
from undial_cli.runs.hydra_configs import (
    COMPOSITION_ERRORS,
    compose_config,
    compose_from_groups,
    list_folders,
    register_user_method,
)
from undial_cli.runs.overrides import normalise_overrides
from undial_cli.runs.trust import (
    check_command_line_keys,
    check_file_words,
    check_hydra_words,
    check_values,
    refuse_variables,
)

C = TypeVar("C")


@refuse_variables()
def compose_run(
    command: str,
    overrides: list[str],
    extra_configs: str | None = None,
    typed: Sequence[str] | None = None,
) -> Run:
    """Compose `command` with Hydra overrides into a checked Run.

    Args:
        extra_configs: a folder with more config groups.
        typed: those overrides that the command line has, the others being a file's; None: all.

    Raises:
        UserError: an override is wrong, or a file says what it is not believed.
    """
    if command not in RUN_TYPES:
        raise bad_value("command", command, RUN_TYPES)
    typed = overrides if typed is None else typed
    check_file_words([word for word in overrides if word not in typed], command)
    run = compose_checked_run(command, overrides, extra_configs)
    if run.command != command:
        raise bad_value("command", run.command, f"{command}, the word that the command line has")
    check_command_line_keys(run, typed)
    return run


def compose_checked_run(command: str, overrides: list[str], extra_configs: str | None) -> Run:
    """As `compose_run`, whoever says what."""
    folder = str(Path(extra_configs).resolve()) if extra_configs else None
    words = translate_words(command, overrides, folder, aloud=True)
    # The quick way sets values one by one, and its errors do not name the key: where it fails,
    # Hydra is asked again with all words together.
    with contextlib.suppress(*COMPOSITION_ERRORS):
        return build_run(compose_from_groups(command, words, folder), folder)
    try:
        return build_run(compose_config(command, words, folder), folder)
    except COMPOSITION_ERRORS as error:
        raise config_errors.explain_composition_error(error, command, words) from error


def translate_words(
    command: str, words: list[str], folder: str | None, aloud: bool = False
) -> list[str]:
    """The words of a command line as Hydra takes them.

    Args:
        aloud: say in a line what of an experiment the command leaves out.
    """
    check_hydra_words(words)
    allow_named_files(words)
    words, left_out = fit_experiments(command, replace_method_file(words), list_folders(folder))
    for line in left_out if aloud else ():
        ui.say(line, "dim")
    return normalise_overrides(words)


def compose_command_keys(schema: type[C], name: str, words: list[str], folder: str | None) -> C:
    """The keys of a command that is no run itself, from its primary config.

    Raises:
        UserError: a key or a value is wrong, or a variable is named that only a run may read.
    """
    ConfigStore.instance().store(name=f"{name}_schema", node=schema)
    try:
        with refuse_variables():
            asked = OmegaConf.to_object(compose_config(name, words, folder))
    except COMPOSITION_ERRORS as error:
        raise config_errors.explain_composition_error(error, name, words) from error
    assert isinstance(asked, schema)
    return asked


def allow_named_files(words: Sequence[str]) -> None:
    """Note the files of metrics and of a kind of attack that the command line names."""
    for word in words:
        name, _, path = word.lstrip("+").partition("=")
        if name == user_metrics.KEY:
            user_metrics.allow_metric_file(path)
        elif name == "audit.file":
            from undial_cli.audit import user_kinds  # which needs torch

            user_kinds.allow_attack_file(path)


def replace_method_file(words: list[str]) -> list[str]:
    """Replace `method.file=FILE` by the name of the method that the file defines.

    Raises:
        UserError: the file defines none, or another method is named beside it.
    """
    given = [word for word in words if word.lstrip("+").startswith("method.file=")]
    if not given:
        return words
    other = next((word for word in words if word.startswith("method=")), None)
    if other or len(given) > 1:
        raise UserError(f"{other or given[1]}: not possible together with {given[0]}")
    name = user_file.allow_method_file(given[0].partition("=")[2])
    register_user_method(name, METHODS[name].config, os.environ[user_file.METHOD_FILE_VARIABLE])
    return [f"method={name}" if word is given[0] else word for word in words]


def build_run(config: DictConfig, folder: str | None = None) -> Run:
    """A resolved, typed and range-checked Run from a composed config.

    Args:
        folder: of the user, with more attacks.
    """
    run = OmegaConf.to_object(config)
    if not isinstance(run, Run):
        raise UserError(f"the config is a {type(run).__name__}, not one of {', '.join(RUN_TYPES)}")
    if isinstance(run, UnlearnRun) and not isinstance(run.method, MethodConfig):
        raise bad_value("method", run.method, METHODS)
    if isinstance(run, UnlearnRun) and run.method.file is not None:
        user_file.check_method_file(run.method.file)
    for name in find_unknown_keys(config, run):
        raise config_errors.explain_unknown_key(name, run.command, [])
    if isinstance(run, AlternativesRun):  # evaluates nothing: of a suite it reads how much is done
        run.eval = EvalConfig(batch_size=run.eval.batch_size, backend=run.eval.backend)
    fill_dependent_splits(run)
    if isinstance(run, AuditRun | UnlearnRun):
        if run.audit.file is not None:
            from undial_cli.audit import user_kinds  # which needs torch

            run.audit.file = user_kinds.load_attack_file(run.audit.file)
        fill_attacks(run.audit, list_folders(folder))
        run.eval.retain_model = run.audit.retain_model or run.eval.retain_model
    if run.eval.metric_file is not None:
        run.eval.metric_file = user_metrics.load_metric_file(run.eval.metric_file)
    check_values({name: value for name, value, _ in walk_fields(run)})
    check_ranges(run)
    check_metric_names(run.eval)
    return run


def fill_dependent_splits(run: Run) -> None:
    """The splits that follow from the forget split, where none is named."""
    data = run.data
    forget = cut_slice(data.forget_split or "")[0]
    if data.retain_split is None:
        data.retain_split = data.retain_of.get(forget)
    source = data.forget_split if data.path is not None else data.forget_file
    splits = {
        FORGET_SET: source or FORGET_SET,
        "{holdout_split}": data.holdout_of.get(forget),
    }
    for options in run.eval.sets.values():
        if isinstance(options.split, str):
            options.split = splits.get(options.split, options.split)


def find_unknown_keys(config: DictConfig, run: Any, prefix: str = "") -> Iterator[str]:
    """Keys that were appended (`+key=value`) and that no dataclass knows.

    OmegaConf lets them into a typed config and drops them without a word when it is made an object.
    """
    for name in config:
        value = getattr(run, str(name), None)
        if str(name) not in {f.name for f in dataclasses.fields(run)}:
            yield f"{prefix}{name}"
        elif dataclasses.is_dataclass(value):
            yield from find_unknown_keys(config[name], value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            for key, inner in value.items():
                if dataclasses.is_dataclass(inner):
                    yield from find_unknown_keys(config[name][key], inner, f"{prefix}{name}.{key}.")
