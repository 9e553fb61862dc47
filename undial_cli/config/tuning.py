"""What `undial tune` is told: how many trials, by which rule, over which space.

The one source of its types and ranges. Imports neither torch nor hydra; knows no rule and no key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from undial_cli.config.fields import group, key


@dataclass
class SpaceConfig:
    """What is searched for a method."""

    space: dict[str, Any] = key(
        {},
        "by key of a run, what it is drawn from: times(low,high) of its value, or choice(...), "
        "range(...), interval(...), tag(log,interval(...)) as in a sweep; null: it is left",
    )


@dataclass
class TuneConfig:
    """`undial tune`."""

    tune: SpaceConfig = group(SpaceConfig, "what is searched")
    budget: int = key(20, "trials, those that are done already included", minimum=1, maximum=10_000)
    rule: str = key("nearest_retain", "what is best: nearest_retain or most_forgotten")
    checkpoints: int = key(
        6,
        "of each trial, the weights that are evaluated and may be chosen, evenly apart; "
        "train.eval_steps says it in steps",
        minimum=1,
        maximum=10_000,
    )
    plan: bool = key(False, "show the trials, what is done and what it takes; run nothing")
