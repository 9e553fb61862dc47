"""From the words of a command to a typed Run. The only file that talks to Hydra's composition.

What groups choose is composed once and kept; values are set on a copy of it. Imports no torch. It
knows the schema and the configs folder, and nothing of what a run does.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra import version
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from undial_cli import ui
from undial_cli.config.fields import walk_fields
from undial_cli.config.launchers import HYDRA_SCHEMAS
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
from undial_cli.runs.overrides import normalise_overrides
from undial_cli.runs.trust import (
    check_command_line_keys,
    check_file_words,
    check_hydra_settings,
    check_hydra_words,
    check_values,
    check_yaml_text,
    refuse_variables,
)

PACKAGE_FOLDER = Path(__file__).parent.parent
# What Hydra raises for words that it cannot compose.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, ValueError)
C = TypeVar("C")


def find_config_folder() -> Path:
    """The shipped configs: inside an installed wheel, or beside the package in a checkout."""
    inside = PACKAGE_FOLDER / "configs"
    return inside if inside.is_dir() else PACKAGE_FOLDER.parent / "configs"


@functools.cache
def register_schemas() -> None:
    """Make the dataclasses known to Hydra under the names the YAML files use."""
    store = ConfigStore.instance()
    for command, node in RUN_TYPES.items():
        store.store(name=f"{command}_schema", node=node)
    for method, entry in METHODS.items():
        store.store(group="method", name=f"{method}_schema", node=entry.config)
    for kind, nodes in HYDRA_SCHEMAS.items():
        for name, plugin in nodes.items():
            store.store(group=f"hydra/{kind}", name=name, node=plugin)


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


def compose_from_groups(command: str, words: list[str], folder: str | None) -> DictConfig:
    """What Hydra composes from the words, in a tenth of the time where their groups are known."""
    chosen: list[str] = []
    values: list[Override] = []
    for override in OverridesParser.create().parse_overrides(words):
        word = str(override.input_line)
        if word[0] in "+~" or is_group_choice(override, folder):
            chosen.append(word)
        else:
            values.append(override)
    config = copy.deepcopy(compose_groups(command, tuple(chosen), folder))
    for override in values:
        if override.is_sweep_override():
            raise ValueError(f"{override.input_line}: several values")
        OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
    return config


# Most runs of a table or a sweep differ in values alone, and composing groups is what takes time.
@functools.lru_cache(maxsize=256)
def compose_groups(command: str, chosen: tuple[str, ...], folder: str | None) -> DictConfig:
    """The config of a choice of groups; to be copied."""
    return compose_config(command, chosen, folder)


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


def compose_config(
    name: str,
    words: Sequence[str],
    folder: str | None,
    with_hydra: bool = False,
    mode: RunMode = RunMode.RUN,
) -> DictConfig:
    """The primary config `name` with overrides, by Hydra, which makes no object for it.

    Args:
        folder: of the user, with more config groups.
        with_hydra: with Hydra's own settings, under `hydra`.
        mode: whether the words may hold several values for a key.

    Raises:
        UserError: a file of the user's sets what only a command line may.
    """
    start_hydra(folder)
    loader = GlobalHydra.instance().config_loader()
    try:
        config = loader.load_configuration(name, list(words), run_mode=mode, from_shell=False)
    except COMPOSITION_ERRORS:
        raise
    except Exception as error:  # of a file that is no YAML, or no config, Hydra raises any kind
        if folder is None or isinstance(error, UserError):
            raise
        line = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"--config-dir {folder}: a file cannot be read as a config: {line}"
        ) from error
    if folder is not None:
        check_hydra_settings(config.hydra, load_shipped_settings(), words)
    if not with_hydra:
        with open_dict(config):
            del config["hydra"]
    return config


@functools.cache
def load_shipped_settings() -> DictConfig:
    """Hydra's settings in the primary configs, as shipped."""
    return compose_config("unlearn", (), None, with_hydra=True).hydra


def start_hydra(folder: str | None) -> None:
    """Point Hydra at the shipped configs and, before them, at a folder of the user's.

    So that the user's copy of a shipped file is the one that counts.
    """
    register_schemas()
    search_path = create_config_search_path(str(find_config_folder()))
    if folder is not None:
        check_yaml_files(folder)
        source = f"file://{Path(folder).resolve()}"
        search_path.prepend("command-line", source, SearchPathQuery(provider="main"))
    version.setbase("1.3")
    # Hydra keeps one search path per process, and refuses a second one without this.
    GlobalHydra.instance().clear()
    Hydra.create_main_hydra2("undial", search_path)


def check_yaml_files(folder: str) -> None:
    """Raise UserError for a config file of the user's that no machine can hold."""
    for pattern in ("*.yaml", "*/*.yaml", "hydra/*/*.yaml"):
        for file in sorted(Path(folder).glob(pattern)):
            if file.is_file():
                text = file.read_text(encoding="utf-8", errors="replace")
                check_yaml_text(text, f"--config-dir: {file}")


def is_group_choice(override: Override, folder: str | None) -> bool:
    """Whether an override chooses an option of a group, or is for Hydra itself."""
    key = override.key_or_group
    return "/" in key or override.is_hydra_override() or key in list_config_groups(folder)


@functools.cache
def list_config_groups(folder: str | None) -> frozenset[str]:
    """The config groups, shipped ones and those in a folder of the user's."""
    folders = [f for f in list_folders(folder) if f.is_dir()]
    return frozenset(p.name for f in folders for p in f.iterdir() if p.is_dir())


def list_folders(folder: str | None) -> list[Path]:
    """The folders of configs: the shipped one and that of the user, whose files win."""
    return [find_config_folder(), *([Path(folder)] if folder else [])]


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


@functools.lru_cache(maxsize=1)
def register_user_method(name: str, config: type[MethodConfig], file: str) -> None:
    """Make a user's method an option of the group `method`, in place of one of the same name."""
    ConfigStore.instance().store(group="method", name=name, node=config(name=name, file=file))
    compose_groups.cache_clear()


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
