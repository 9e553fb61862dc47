"""What tells runs apart: the keys that differ, labels made of them, and swept numbers.

Knows collected runs (collect.py) and their settings, and no page.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from undial_cli.config.identity import KEYS_OUTSIDE_HASH
from undial_cli.reporting.collect import RunRecord
from undial_cli.reporting.text import format_setting_value, name_setting, parse_number

# What does not tell what came out: all that is no part of a run's identity, and its command.
KEYS_NOT_COMPARED = (*KEYS_OUTSIDE_HASH, "command")
# A group's option brings other keys with it: they count only among runs of the same option.
OPTION_GROUPS = ("model", "data", "method", "adapter", "hardware", "eval")
MOST_LABEL_KEYS = 6
SEED_KEY = "seed"


def serialise_value(value: Any) -> str:
    """A value as text that can be compared and counted; a list is unhashable."""
    return json.dumps(value, sort_keys=True, default=str)


def find_differing_keys(runs: Sequence[RunRecord]) -> list[str]:
    """The dotted keys of run.yaml that differ between runs, those that a person chose first.

    A key of a group (method.beta) counts only where it differs between runs of the same option
    (method.name), as the rest follows from the option.
    """
    all_settings = [run.settings for run in runs if run.settings]
    differing = []
    for key in dict.fromkeys(itertools.chain(*all_settings)):
        group = key.split(".")[0]
        group = "model" if group == "target" else group  # how a target is made suits the model
        option_key = f"{group}.name" if group in OPTION_GROUPS and key != f"{group}.name" else ""
        values_by_option: dict[str, set[str]] = {}
        for settings in all_settings:
            if key in settings or not option_key:
                option = serialise_value(settings.get(option_key)) if option_key else ""
                values = values_by_option.setdefault(option, set())
                values.add(serialise_value(settings.get(key)))
        differs = any(len(values) > 1 for values in values_by_option.values())
        if differs and key not in KEYS_NOT_COMPARED:
            differing.append(key)
    order = ("model.name", "data.name", "method.name")
    return sorted(differing, key=lambda k: (order.index(k) if k in order else 9, k == SEED_KEY))


def label_runs(runs: Sequence[RunRecord]) -> list[str]:
    """Fill in `values`, `label` and `short` of runs; returns the keys that their tables show."""
    swept = list(dict.fromkeys(key for run in runs for key in run.values))
    # the keys of a sweep are known; for a heap of runs they are found
    differing = [] if swept else find_differing_keys(runs)[:MOST_LABEL_KEYS]
    counts: Counter[str] = Counter()
    for run in runs:
        known = [key for key in differing if key in run.settings]
        run.values |= {key.removesuffix(".name"): run.settings[key] for key in known}
        words = (f"{key}={format_setting_value(value)}" for key, value in run.values.items())
        run.label = run.label or " ".join(words) or run.folder.name
        alone = run.group if len(runs) == 1 else run.folder.name
        run.short = describe_values(run.values) or alone
        counts[run.short] += 1
        if counts[run.short] > 1:  # two lines of a picture need two names
            run.short += f" ({counts[run.short]})"
    return swept or [key.removesuffix(".name") for key in differing]


def describe_values(values: dict[str, Any]) -> str:
    """Values in words: "npo, learning rate 1e-4, seed 1"."""
    alone = (*OPTION_GROUPS, "experiment")
    return ", ".join(
        ("" if key in alone else f"{name_setting(key)} ") + format_typed_value(value)
        for key, value in values.items()
    )


def format_typed_value(value: Any) -> str:
    """A value as one types it; a number also where a sweep's word holds it ("0.0001")."""
    number = parse_number(value)
    return format_setting_value(number if isinstance(value, str) and number is not None else value)


def find_swept_numbers(runs: Sequence[RunRecord], keys: Sequence[str]) -> list[str]:
    """The keys other than the seed that are numbers in all runs and take two values or more."""
    numbers = {key: {parse_number(run.values.get(key)) for run in runs} for key in keys}
    return [k for k, v in numbers.items() if k != SEED_KEY and None not in v and len(v) > 1]
