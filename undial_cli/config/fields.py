"""What a config field is: a default, a line of help and a range; and the walk over all of them.

Imports neither torch nor hydra. Knows no config.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any

from undial_cli.errors import UserError, bad_value, suggest_nearest


def key(
    default: Any,
    help: str,
    *,
    allowed: tuple[str | int, ...] = (),
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    several: bool = False,
    word: str | None = None,
) -> Any:
    """A config field: its default, its line in `--help` and its range.

    `allowed` lists words or numbers; `minimum` is inclusive, `above` exclusive, `maximum`
    inclusive; of a list they bind every item. `several`: a text or a list of texts; `word`: one
    that may stand in place of a number: both have no type in a config.
    """
    metadata = {
        "help": help,
        "allowed": allowed,
        "minimum": minimum,
        "above": above,
        "maximum": maximum,
        "several": several,
        "word": word,
    }
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def group(cls: type, help: str) -> Any:
    return field(default_factory=cls, metadata={"help": help})


def unescape_text(text: str) -> str:
    r"""A text with the `\n` and `\t` of a command line as the characters they stand for."""
    return text.replace("\\n", "\n").replace("\\t", "\t")


def walk_fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field]]:
    """Yield (dotted key, value, field) for every leaf of a config dataclass."""
    for f in dataclasses.fields(config):
        name, value = prefix + f.name, getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from walk_fields(value, name + ".")
        elif isinstance(value, dict) and any(map(dataclasses.is_dataclass, value.values())):
            for k, v in value.items():
                yield from walk_fields(v, f"{name}.{k}.")
        else:
            yield name, value, f


def check_field_value(name: str, value: Any, f: dataclasses.Field) -> None:
    """Raise UserError for a value outside what its field allows."""
    rule = f.metadata
    if rule.get("word"):
        check_word(name, value, rule)
    if value is None or "allowed" not in rule:
        return
    if str(f.type).startswith("list[") and not isinstance(value, list):  # by an interpolation
        raise bad_value(name, value, "a list such as [a,b]")
    if f.type in ("list[str]", "dict[str, list[str]]"):
        for texts in value.values() if isinstance(value, dict) else [value]:
            if not all(isinstance(text, str) for text in texts):  # OmegaConf lets others in
                raise bad_value(name, value, "a list of texts such as [a,b]")
    if rule["several"] and not is_text_or_list(value):
        raise bad_value(name, value, "a text, or a list of texts such as [a,b]")
    for item in value if isinstance(value, list) and not rule["several"] else [value]:
        check_range(name, item, rule)


def check_word(name: str, value: Any, rule: Mapping[str, Any]) -> None:
    """Raise UserError for a value that is neither a number nor the field's word."""
    if not isinstance(value, float) and value != rule["word"]:
        error = bad_value(name, value, spell_range("a number", rule))
        raise UserError(f"{error}{suggest_nearest(value, [rule['word']])}")


def check_range(name: str, value: Any, rule: Mapping[str, Any]) -> None:
    """Raise UserError for a value, or one of a list, beyond a field's words or bounds."""
    if rule["allowed"] and value not in rule["allowed"]:
        raise bad_value(name, value, rule["allowed"])
    low, above, high = rule["minimum"], rule["above"], rule["maximum"]
    if isinstance(value, int | float) and not (
        math.isfinite(value)
        and (low is None or value >= low)
        and (above is None or value > above)
        and (high is None or value <= high)
    ):
        kind = "a number" if math.isfinite(value) else "a finite number"
        raise bad_value(name, value, spell_range(kind, rule))


def spell_range(kind: str, rule: Mapping[str, Any]) -> str:
    """A kind of number within a field's bounds, or its word, as an error names them."""
    signs = {"minimum": ">=", "above": ">", "maximum": "<="}
    bounds = [f"{sign} {rule[name]}" for name, sign in signs.items() if rule[name] is not None]
    word = [f"{rule['word']} or"] if rule.get("word") else []
    return " ".join([*word, kind, " and ".join(bounds)]).strip()


def as_float(value: Any) -> Any:
    """What a config would make of a value for a field of numbers; any other value as it is."""
    try:
        return value if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return value


def is_text_or_list(value: Any) -> bool:
    """Whether a value is a text, or a list of one or more."""
    texts = value if isinstance(value, list) else [value]
    return bool(texts) and all(isinstance(text, str) and text for text in texts)
