"""What a file may not say: a YAML file, a table or a run.yaml may be somebody else's.

Environment variables are looked up for nobody. What runs code or sends data away is taken from the
command line alone, and of Hydra's own settings a file sets those that this tool documents. Knows
keys and words; composes nothing.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.resolvers import oc

from undial_cli.config.fields import walk_fields
from undial_cli.config.schema import Run
from undial_cli.errors import UserError, bad_value, find_secret

# What a file is not believed, and why.
COMMAND_LINE_KEYS = {
    "model.trust_remote_code": "runs code that comes with the model",
    "model.allow_pickle": "reads pickled weights",
    "eval.allow_pickle": "reads pickled weights",
    "eval.harness.include_path": "may run code that its tasks name",
    "audit.judge.url": "sends text of the forget set to another machine",
    "audit.judge.key_variable": "sends an environment variable to another machine",
    "push_to_hub": "uploads the model",
    "push_private": "makes a repository that everybody can read",
}
# Attention by a name with a slash is a kernel of the hub: machine code.
KERNEL_KEY, KERNEL_REASON = "model.attn_implementation", "runs a kernel of the hub"
# Words of a file that would run code while they are read.
FILE_KEYS = ("method.file", "audit.file", "eval.metric_file")

# What of Hydra's settings is this tool's; its launchers and sweepers are plain data here.
HYDRA_SETTINGS = ("launcher", "sweeper", "sweep.dir")
HYDRA_WORDS = re.compile(r"[+~]*hydra(/(launcher|sweeper)|\.(launcher|sweeper|sweep\.dir)\b)")
# What Hydra writes there itself, for every command line.
WRITTEN_SETTINGS = ("overrides", "runtime", "mode", "job.name", "job.config_name",
                    "job.override_dirname", "job.num", "job.id")  # fmt: skip
# Its own basic launcher and sweeper, whose names say here that there is none.
BASIC_PLUGINS = "hydra._internal.core_plugins.basic_"
# Settings of launchers that are shell code, or words for another machine.
LAUNCHER_CODE = ("setup", "additional_parameters")
RAY_KEYS = {
    "init": {"include_dashboard", "log_to_driver", "logging_level", "num_cpus", "num_gpus"},
    "remote": {"num_cpus", "num_gpus", "max_calls", "memory", "resources"},
}
# Keys by which Hydra makes objects of a config.
OBJECT_KEYS = {"_target_", "_partial_", "_args_", "_recursive_", "_convert_"}

# Values of a YAML file once its aliases are written out, and characters of it. The largest shipped
# file has 4,000 values.
YAML_VALUES, YAML_CHARACTERS = 200_000, 4_000_000
YAML_ALIAS = re.compile(r"(?:^|[\s\[{,:-])\*[^\s*]", re.MULTILINE)

_composing: ContextVar[bool] = ContextVar("composing", default=False)


class VariableLookup(UserError):
    """A config that asks for an environment variable."""


def look_up_variable(*words: Any) -> Any:
    """OmegaConf's own `oc.env`, but in what this tool composes."""
    if _composing.get():
        raise VariableLookup(
            f"${{oc.env:{words[0]}}} is not looked up: an environment variable would stand in "
            "run.yaml, logs and folder names; write the value itself"
        )
    return oc.env(*words)


@functools.cache
def guard_variables() -> None:
    OmegaConf.register_new_resolver("oc.env", look_up_variable, replace=True)


@contextlib.contextmanager
def refuse_variables() -> Iterator[None]:
    """Within it no interpolation, however nested, reads the environment."""
    guard_variables()
    token = _composing.set(True)
    try:
        yield
    finally:
        _composing.reset(token)


def check_command_line_keys(run: Run, words: Sequence[str], source: str = "") -> None:
    """Raise UserError for what a run has from a file and a file is not believed.

    Args:
        words: of the command line.
        source: the file, where it is known.
    """
    defaults = {name: value for name, value, _ in walk_fields(type(run)())}
    reasons = COMMAND_LINE_KEYS
    if "/" in str(run.model.attn_implementation):
        reasons = reasons | {KERNEL_KEY: KERNEL_REASON}
    for name, value, _ in walk_fields(run):
        if name in reasons and value != defaults[name] and not is_said(name, words):
            word = f"{name}={str(value).lower() if isinstance(value, bool) else value}"
            raise UserError(
                f"{source}{': ' if source else ''}{word}: {reasons[name]} and is not taken from a "
                f"file; say {word} on the command line as well"
            )


def is_said(key: str, words: Sequence[str]) -> bool:
    """Whether the words of a command line set a key, or a dictionary that it is in."""
    keys = (word.lstrip("+~").partition("=")[0] for word in words)
    # A word without a dot may be the choice of a group, whose file sets the key.
    return any(key == k or ("." in k and key.startswith(f"{k}.")) for k in keys)


def check_file_words(words: Sequence[str], source: str) -> None:
    """Raise UserError for a word of a file that names code to be run."""
    for word in words:
        key = word.lstrip("+~").partition("=")[0]
        if key in (*FILE_KEYS, *COMMAND_LINE_KEYS):
            reason = COMMAND_LINE_KEYS.get(key, "runs code")
            raise UserError(
                f"{source}: {word}: {reason} and is not taken from a file; say {word} on the "
                "command line as well"
            )


def check_hydra_words(words: Sequence[str]) -> None:
    """Raise UserError for a setting of Hydra's that does nothing here."""
    for word in words:
        key = word.partition("=")[0]
        if key.lstrip("+~").startswith(("hydra.", "hydra/")) and not HYDRA_WORDS.match(key):
            raise bad_value(
                key, word.partition("=")[2],
                "hydra/launcher, hydra/sweeper, their keys, and hydra.sweep.dir",
            )  # fmt: skip


def check_hydra_settings(settings: Any, shipped: Any, words: Sequence[str]) -> None:
    """Raise UserError for what files have set of Hydra's own settings.

    Args:
        settings: the composed node `hydra`; `shipped`: the same without files of the user's.
        words: of the command line.
    """
    ours, theirs = (
        dict(walk_values(OmegaConf.to_container(node, resolve=False)))
        for node in (shipped, settings)
    )
    for name, value in theirs.items():
        key = f"hydra.{name.partition('[')[0]}"
        plugin = str(value).startswith(BASIC_PLUGINS)
        if name.rpartition(".")[2] in OBJECT_KEYS and value != ours.get(name) and not plugin:
            raise refuse_object(key, value)
        if value == ours.get(name) or name.startswith(WRITTEN_SETTINGS):
            continue
        if not name.startswith(HYDRA_SETTINGS):
            raise UserError(
                f"{key}: not taken from a file; allowed are hydra.launcher, hydra.sweeper and "
                "hydra.sweep.dir"
            )
        if value and runs_elsewhere(name) and not is_said(key, words):
            raise UserError(
                f"{key}={value}: runs code or leaves this machine, and is not taken from a file; "
                f"say {key}=... on the command line"
            )


def runs_elsewhere(name: str) -> bool:
    """Whether a setting of a launcher is shell code, or leads to another machine."""
    kind, *keys = name.split(".")
    if kind != "launcher" or not keys:
        return False
    if keys[0] == "ray" and len(keys) > 2:
        return keys[2] not in RAY_KEYS.get(keys[1], ())
    return keys[0].partition("[")[0] in LAUNCHER_CODE


def walk_values(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of nested dictionaries and lists; empty ones are leaves."""
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        name = f"{prefix}[{key}]" if isinstance(content, list) else f"{prefix}.{key}".strip(".")
        if isinstance(value, dict | list) and value:
            yield from walk_values(value, name)
        else:
            yield name, value


def check_values(content: dict[str, Any]) -> None:
    """Raise UserError for a value that would make an object, name a secret, or be read twice."""
    for name, value in walk_values(content):
        last = name.rpartition(".")[2]
        if last in OBJECT_KEYS:
            raise refuse_object(name, value)
        if not isinstance(value, str):
            continue
        if find_secret(last, value):
            raise UserError(
                f"{name}: holds a secret, which would stand in run.yaml; tokens are read from the "
                "environment (HF_TOKEN, WANDB_API_KEY, ...) or from a login"
            )
        if "${" in value:  # would be looked up where run.yaml is read
            raise bad_value(name, value, "a text without ${")


def refuse_object(key: str, value: Any) -> UserError:
    return UserError(f"{key}={value}: a config is data here; no object is made of it")


def check_yaml_text(text: str, source: str) -> None:
    """Raise UserError for a YAML text that is small, and no longer once it is read.

    Aliases of aliases stand for more values than a machine holds; brackets may be nested deeper
    than a parser goes.
    """
    if len(text) > YAML_CHARACTERS:
        raise UserError(f"{source}: {len(text):,} characters of YAML; allowed is {YAML_CHARACTERS}")
    if not YAML_ALIAS.search(text) and text.count("[") + text.count("{") < 500:
        return
    try:
        values = count_yaml_values(yaml.compose(text, Loader=yaml.SafeLoader), {})
    except yaml.YAMLError:
        return  # whoever reads it says so
    except RecursionError as error:
        raise UserError(f"{source}: nested too deep") from error
    if values > YAML_VALUES:
        raise UserError(
            f"{source}: its aliases stand for more than {YAML_VALUES:,} values; write them out"
        )


def count_yaml_values(node: Any, counted: dict[int, int]) -> int:
    """Values of a YAML node once its aliases are written out."""
    if id(node) not in counted:
        counted[id(node)] = YAML_VALUES + 1  # of a node within itself
        inner = getattr(node, "value", None)
        parts = inner if isinstance(inner, list) else []
        flat = [part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,))]
        counted[id(node)] = 1 + sum(count_yaml_values(part, counted) for part in flat)
    return counted[id(node)]
