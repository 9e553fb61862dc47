"""What Hydra composes: a primary config with the groups and the values that words choose.

What groups choose is composed once and kept; values are set on a copy of it. The only file that
talks to Hydra's composition. Imports no torch, knows the schema by name, and no Run.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from pathlib import Path

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

from undial_cli.config.launchers import HYDRA_SCHEMAS
from undial_cli.config.methods import MethodConfig
from undial_cli.config.schema import RUN_TYPES
from undial_cli.errors import UserError
from undial_cli.methods import METHODS
from undial_cli.runs.trust import check_hydra_settings, check_yaml_text

PACKAGE_FOLDER = Path(__file__).parent.parent
# What Hydra raises for words that it cannot compose.
COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, ValueError)


def find_config_folder() -> Path:
    """The shipped configs: inside an installed wheel, or beside the package in a checkout."""
    inside = PACKAGE_FOLDER / "configs"
    return inside if inside.is_dir() else PACKAGE_FOLDER.parent / "configs"


def list_folders(folder: str | None) -> list[Path]:
    """The folders of configs: the shipped one and that of the user, whose files win."""
    return [find_config_folder(), *([Path(folder)] if folder else [])]


@functools.cache
def list_config_groups(folder: str | None) -> frozenset[str]:
    """The config groups, shipped ones and those in a folder of the user's."""
    folders = [f for f in list_folders(folder) if f.is_dir()]
    return frozenset(p.name for f in folders for p in f.iterdir() if p.is_dir())


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


@functools.lru_cache(maxsize=1)
def register_user_method(name: str, config: type[MethodConfig], file: str) -> None:
    """Make a user's method an option of the group `method`, in place of one of the same name."""
    ConfigStore.instance().store(group="method", name=name, node=config(name=name, file=file))
    compose_groups.cache_clear()


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


def is_group_choice(override: Override, folder: str | None) -> bool:
    """Whether an override chooses an option of a group, or is for Hydra itself."""
    key = override.key_or_group
    return "/" in key or override.is_hydra_override() or key in list_config_groups(folder)


# Most runs of a table or a sweep differ in values alone, and composing groups is what takes time.
@functools.lru_cache(maxsize=256)
def compose_groups(command: str, chosen: tuple[str, ...], folder: str | None) -> DictConfig:
    """The config of a choice of groups; to be copied."""
    return compose_config(command, chosen, folder)


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
