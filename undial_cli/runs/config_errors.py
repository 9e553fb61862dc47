"""Turns what Hydra and OmegaConf raise into one line a person can act on.

Knows their exceptions and the schema's keys, and nothing else.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from undial_cli.config.fields import walk_fields
from undial_cli.config.suites import EvalSetConfig
from undial_cli.config.training_arguments import (
    ARGUMENT_KEYS,
    KEY_ALIASES,
    PASSED_ARGUMENTS,
    REFUSED_ARGUMENTS,
)
from undial_cli.errors import UserError, bad_value, suggest_nearest
from undial_cli.runs.known_keys import is_list_key, list_known_keys
from undial_cli.runs.trust import VariableLookup
from undial_cli.system.faults import walk_causes

# Sections of keys that are gone, by command (None: any other), and where they are now.
MOVED_SECTIONS = {
    "model.unlearn": {None: "train"},
    "model.finetune": {"finetune": "train", None: "target"},
}
TYPE_PHRASES = {
    "float": "a number",
    "int": "an integer",
    "bool": "true or false",
    "str": "a text",
    "list[str]": "a list such as [a,b]",
    "list[int]": "a list of integers such as [0,1,2]",
    "dict[str, Any]": "a dictionary such as {key: value}",
}


def explain_composition_error(
    error: BaseException, command: str, overrides: list[str]
) -> UserError:
    if isinstance(error, OverrideParseException):
        if "=" in str(error.override).rstrip("="):
            return UserError(f"{error.override}: the value cannot be read; quote it: key='...'")
        return UserError(f"{error.override}: expected key=value, as in seed=1 or method=npo")
    chain = list(walk_causes(error))
    for cause in chain:
        if isinstance(cause, MissingConfigException) and cause.missing_cfg_file:
            return explain_missing_option(cause, command)
    keyed = [c for c in chain if isinstance(c, OmegaConfBaseException) and c.full_key]
    refused = next((cause for cause in chain if isinstance(cause, VariableLookup)), None)
    if refused is not None:
        return UserError(f"{keyed[0].full_key}: {refused}" if keyed else str(refused))
    if keyed:
        return explain_wrong_key(keyed[-1], command, overrides)
    text = str(chain[-1]).strip().splitlines()[0]
    if text.startswith("Config group override"):
        given = next((o for o in overrides if o.endswith(("=", "=null"))), "a group")
        return UserError(f"{given}: expected the name of an option")
    if text.startswith("Ambiguous value"):
        given = next(o for o in overrides if o in text)
        key, _, words = given.lstrip("+").partition("=")
        each = "--multirun for one run each"
        keys = list_known_keys(command)
        if is_list_key(key) or (key in keys and keys[key].metadata.get("several")):
            each = f"{key}=[{words}] for a list, or {each}"
        return UserError(f"{key}={words}: several values need {each}")
    match = re.search(r"Could not override '([^']+)'", str(error))
    if match:
        return explain_unknown_key(match.group(1), command, overrides)
    return UserError(text)


def explain_missing_option(error: MissingConfigException, command: str) -> UserError:
    """An option (method=undail) or a group that does not exist."""
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    if group and error.options:
        return bad_value(group, option, [o for o in error.options if not o.endswith("_schema")])
    if group and GlobalHydra.instance().is_initialized():
        # Of an entry in a file's defaults, which may be a schema too, Hydra lists none.
        known = GlobalHydra.instance().config_loader().get_group_options(group)
        if known:
            return bad_value(f"defaults: {group}", option, known)
    return explain_unknown_key(group or option, command, [])


def explain_unknown_key(name: str, command: str, overrides: list[str]) -> UserError:
    """A misspelt key, with the nearest one; one of another tool's; or a key of another method."""
    keys = list_known_keys(command)
    given = [o.lstrip("+~").partition("=")[0] for o in overrides]
    for old, sections in MOVED_SECTIONS.items():
        if name == old or name.startswith(f"{old}."):
            typed = next((word for word in given if word.startswith(f"{name}.")), name)
            section = sections.get(command) or sections[None]
            key = typed.replace(old, section).replace("learning_rate.", "learning_rates.")
            return UserError(f"{typed}: no such key any more; here that is {key}")
    if name.startswith("eval.sets."):
        a_set = name.rsplit(".", 1)[0] + "."
        keys |= {key: f for key, _, f in walk_fields(EvalSetConfig(), a_set)}
    if name in keys and name.startswith("method."):
        method = next((o for o in overrides if o.startswith("method=")), "this method")
        return UserError(f"{name}: {method} has no such key; undial {command} --help lists them")
    name = next((word for word in given if word.startswith(f"{name}.")), name)  # the whole of it
    hint = suggest_key(name, keys)
    if not hint and "." in name:
        section = name.rsplit(".", 1)[0] + "."
        siblings = [k.removeprefix(section) for k in keys if k.startswith(section)]
        if siblings:
            hint = f"; allowed in {section[:-1]} is {', '.join(sorted(siblings))}"
    return UserError(f"{name}: no such key{hint or f'; undial {command} --help lists the keys'}")


def suggest_key(name: str, keys: Iterable[str]) -> str:
    """What an unknown key may stand for: one of ours by another tool's name, or the nearest."""
    last, trains = name.rsplit(".", 1)[-1], "train.args" in keys
    translated = (KEY_ALIASES | ARGUMENT_KEYS).get(last)
    if translated and trains:
        return f"; here that is {translated}"
    if last in REFUSED_ARGUMENTS and trains:
        return f": {REFUSED_ARGUMENTS[last]}"
    if last in PASSED_ARGUMENTS and trains:
        return f"; did you mean 'train.args.{last}'?"
    alike = [key for key in keys if key.endswith(f".{last}")]
    if len(alike) == 1:
        return f"; did you mean '{alike[0]}'?"
    groups = {key.split(".")[0] for key in keys if "." in key} | {"method", "experiment"}
    return suggest_nearest(name, alike or ([*keys] if "." in name else [*keys, *groups]))


def explain_wrong_key(
    error: OmegaConfBaseException, command: str, overrides: list[str]
) -> UserError:
    """A key that is not there, or a value of the wrong type."""
    name = re.sub(r"\[\d+\]$", "", str(error.full_key))
    given = next(
        (o.split("=", 1)[1] for o in reversed(overrides) if o.lstrip("+~").split("=")[0] == name),
        None,  # the last word of a key is the one that is taken
    )
    reason = str(error.msg or error).strip().splitlines()[0]
    if "not in" in reason:  # as in "Key 'x' is not in struct"
        return explain_unknown_key(name, command, overrides)
    if "not a subclass of EvalSetConfig" in reason:
        return UserError(
            f"eval.sets.{name.removeprefix('eval.sets.')}: this suite has no such set; a new one "
            "is added in a YAML file of your own (--config-dir)"
        )
    keys = list_known_keys(command)
    field, inner = keys.get(name), [key for key in keys if key.startswith(f"{name}.")]
    if inner:
        value = given if given is not None else getattr(error, "value", "(what was given)")
        return UserError(f"{name}={value}: a group of keys; allowed is one of {', '.join(inner)}")
    if field is not None:
        value = given if given is not None else getattr(error, "value", None) or "(what was given)"
        return bad_value(name, value, describe_field_type(field))
    return UserError(f"{name}: {reason}")


def describe_field_type(field: dataclasses.Field) -> str:
    """What a config field holds, in words."""
    if field.metadata.get("word"):  # refused by another method's key of this name, which takes none
        return "a number"
    kinds = [TYPE_PHRASES.get(kind.strip()) for kind in str(field.type).split("|")]
    allowed = " or ".join(k for k in kinds if k) or str(field.type)
    return f"{allowed} or null" if "None" in str(field.type) else allowed
