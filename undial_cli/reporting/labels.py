"""What tells runs apart: the keys that differ, labels made of them, and swept numbers.

Knows collected runs (collect.py) and their settings, and no page.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from undial_cli.config.schema import KEYS_OUTSIDE_HASH
from undial_cli.reporting.collect import RunRecord
from undial_cli.reporting.text import format_setting_value, name_setting, parse_number

# What does not tell what came out: all that is no part of a run's identity, and its command.
KEYS_NOT_COMPARED = (*KEYS_OUTSIDE_HASH, "command")
# A group's option brings other keys with it: they count only among runs of the same option.
OPTION_GROUPS = ("model", "data", "method", "adapter", "hardware", "eval")
MOST_LABEL_KEYS = 6
SEED_KEY = "seed"


def serialise_value(value: Any) -> str:
    """A value as text that can be compared."""
    return json.dumps(value, sort_keys=True, default=str)


def find_differing_keys(runs: Sequence[RunRecord]) -> list[str]:
    """The dotted keys of run.yaml that differ between runs, those that a person chose first.

    A key of a group (method.beta) counts only where it differs between runs of the same option
    (method.name), as the rest follows from the option.
    """
    known = [run.settings for run in runs if run.settings]
    different = []
    for key in dict.fromkeys(itertools.chain(*known)):
        lead = key.split(".")[0]
        lead = "model" if lead == "target" else lead  # how it is made suits the model
        option = f"{lead}.name" if lead in OPTION_GROUPS and key != f"{lead}.name" else ""
        seen: dict[str, set[str]] = {}
        for settings in known:
            if key in settings or not option:
                owner = serialise_value(settings.get(option)) if option else ""
                seen.setdefault(owner, set()).add(serialise_value(settings.get(key)))
        if key not in KEYS_NOT_COMPARED and any(len(values) > 1 for values in seen.values()):
            different.append(key)
    order = ("model.name", "data.name", "method.name")
    return sorted(different, key=lambda k: (order.index(k) if k in order else 9, k == SEED_KEY))


def label_runs(runs: Sequence[RunRecord]) -> list[str]:
    """Fill in `values`, `label` and `short` of runs; returns the keys that their tables show."""
    by_sweep = list(dict.fromkeys(key for run in runs for key in run.values))
    chosen = (
        {}
        if by_sweep
        else {k.removesuffix(".name"): k for k in find_differing_keys(runs)[:MOST_LABEL_KEYS]}
    )
    seen: Counter[str] = Counter()
    for run in runs:
        run.values |= {k: run.settings[key] for k, key in chosen.items() if key in run.settings}
        words = " ".join(
            f"{key}={format_setting_value(value)}" for key, value in run.values.items()
        )
        run.label = run.label or words or run.folder.name
        run.short = describe_values(run.values) or (
            run.group if len(runs) == 1 else run.folder.name
        )
        seen[run.short] += 1
        run.short += f" ({seen[run.short]})" if seen[run.short] > 1 else ""
    return by_sweep or list(chosen)


def describe_values(values: dict[str, Any]) -> str:
    """Values in words: "npo, learning rate 1e-4, seed 1"."""
    alone = (*OPTION_GROUPS, "experiment")
    words = {key: "" if key in alone else f"{name_setting(key)} " for key in values}
    return ", ".join(f"{words[key]}{format_typed_value(value)}" for key, value in values.items())


def format_typed_value(value: Any) -> str:
    """A value as one types it; a number also where a sweep's word holds it."""
    number = parse_number(value)
    return format_setting_value(number if isinstance(value, str) and number is not None else value)


def find_swept_numbers(runs: Sequence[RunRecord], keys: Sequence[str]) -> list[str]:
    """The keys other than the seed that are numbers in all runs and take two values or more."""
    numbers = {key: {parse_number(run.values.get(key)) for run in runs} for key in keys}
    return [
        key
        for key, values in numbers.items()
        if key != SEED_KEY and None not in values and len(values) > 1
    ]
