"""What `undial tune` searches: the space of a method's file, changed by the command line.

A key that the command line sets is not searched, one that it gives several values is searched over
these. `times(low,high)`: that many times the value that the key has without a search, on a log
scale. Knows no study and no run's figures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from undial_cli.config.fields import walk_fields
from undial_cli.config.identity import KEYS_WITHOUT_RESULTS
from undial_cli.config.schema import UnlearnRun
from undial_cli.errors import UserError, bad_value, first_line
from undial_cli.runs.config_errors import explain_unknown_key
from undial_cli.runs.hydra_configs import is_group_choice
from undial_cli.runs.trust import check_file_words
from undial_cli.sweeps.optimise import encode_choice, make_distribution

TIMES = re.compile(r"times\((.*)\)")
SWEEP_FORMS = "times(low,high), choice(...), range(...), interval(...) or tag(log,interval(...))"
# The weight of a term that is not there changes nothing.
RETAIN_WEIGHT, RETAIN_KEY = "method.alpha", "method.retain"


def collect_space(
    of_file: Mapping[str, Any], of_words: Mapping[str, str], fixed: set[str], run: UnlearnRun
) -> dict[str, str]:
    """The keys that are searched, each with what it is drawn from as a sweep has it.

    Args:
        of_file: the space of a file of `configs/tune/`.
        of_words: keys to which the command line gives several values.
        fixed: keys that it sets.
        run: a trial at its settings without a search.

    Raises:
        UserError: no key is left, or one cannot be searched so.
    """
    values = {name: value for name, value, _ in walk_fields(run)}
    space = {key: text for key, text in of_file.items() if text is not None and key not in fixed}
    if values[RETAIN_KEY] == "none" and RETAIN_KEY not in of_words:
        space.pop(RETAIN_WEIGHT, None)
    check_file_words([f"{key}={text}" for key, text in space.items()], "tune.space")
    space |= of_words
    if not space:
        raise UserError(
            "tune.space: every key of it is set on the command line, and none is left to search; "
            "leave one out, or give one several values, as in train.learning_rate=times(0.1,10)"
        )
    return {key: expand_times(key, str(text), values.get(key)) for key, text in space.items()}


def expand_times(key: str, text: str, value: Any) -> str:
    """`times(low,high)` as a sweep has it, around a value; any other text as it is.

    Raises:
        UserError: these are no two growing numbers above 0, or the value is none.
    """
    match = TIMES.fullmatch(text.strip())
    if match is None:
        return text
    allowed = "times(low,high) with 0 < low < high, as in times(0.1,10)"
    try:
        low, high = (float(part) for part in match[1].split(","))
    except ValueError as error:
        raise bad_value(key, text, allowed) from error
    if not 0 < low < high < math.inf:
        raise bad_value(key, text, allowed)
    if value is None:
        raise explain_unknown_key(key, "unlearn", [key])
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise UserError(
            f"{key}={text}: its value is {value}, which has no multiples to search; allowed is "
            "choice(...), range(...) or interval(...)"
        )
    return f"tag(log,interval({low * value:.6g},{high * value:.6g}))"


def parse_space(space: Mapping[str, str], folder: str | None) -> list[Override]:
    """The keys of a space as overrides of a sweep.

    Raises:
        UserError: a text gives no several values, or the key is none to be searched.
    """
    parser, overrides = OverridesParser.create(), []
    for key, text in space.items():
        try:
            (override,) = parser.parse_overrides([f"{key}={text}"])
        except HydraException as error:
            raise bad_value(key, text, SWEEP_FORMS) from error
        if is_group_choice(override, folder):
            raise UserError(
                f"{key}={text}: settings are found for one {key} at a time; run undial tune for "
                "each, or compare them with undial unlearn --multirun"
            )
        if key == "seed" or key in KEYS_WITHOUT_RESULTS:
            raise UserError(f"{key}={text}: one value; the search is among settings")
        if not override.is_sweep_override():
            raise bad_value(key, text, SWEEP_FORMS)
        try:
            make_distribution(override)
        except ValueError as error:  # of optuna: low above high, a log scale from 0
            raise UserError(f"{key}={text}: {first_line(error)}") from error
        overrides.append(override)
    return overrides


def spell_sweep(override: Override) -> str:
    """What a key is drawn from, as it was written."""
    return str(override.input_line).partition("=")[2]


def list_bounds(override: Override) -> list[str]:
    """Words at the ends of what a key is drawn from, or for each of its choices."""
    distribution, key = make_distribution(override), override.get_key_element()
    drawn = getattr(distribution, "choices", None) or (distribution.low, distribution.high)
    return [f"{key}={'null' if value is None else value}" for value in drawn]


def find_own_values(overrides: Sequence[Override], run: UnlearnRun) -> dict[str, Any]:
    """The values that a run has without a search, of the keys in whose space they lie."""
    values = {name: value for name, value, _ in walk_fields(run)}
    inside: dict[str, Any] = {}
    for override in overrides:
        key = override.get_key_element()
        distribution, value = make_distribution(override), values.get(key)
        choices = getattr(distribution, "choices", None)
        if choices is not None:
            same = [choice for choice in choices if choice == encode_choice(value)]
            inside |= {key: same[0]} if same else {}
        elif isinstance(value, int | float) and distribution.low <= value <= distribution.high:
            inside[key] = value
    return inside
