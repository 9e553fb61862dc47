"""How a run of unlearning came out, in a sentence: what is gone, what it cost, what to try next.

Rests on the verdict's shares (evaluation/verdict.py) and on the run's settings. What is advised:

- less than `LEAST_KEPT` of utility left: a retain term where there is none, else the best step;
- over-forgotten: the best step; not forgotten: a longer or faster run;
- else, or beside it where nothing was audited: an audit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from undial_cli.config.schema import UnlearnRun
from undial_cli.config.suites import RETAIN
from undial_cli.evaluation.figures import AUDIT_FIGURES
from undial_cli.evaluation.verdict import (
    DAMAGED,
    FLUENCY_METRICS,
    NOT_FORGOTTEN,
    OVER_FORGOTTEN,
    list_watched_figures,
)
from undial_cli.reporting.collect import get_part

# Of utility; with less, what should be kept has suffered.
LEAST_KEPT = 0.95


def describe_outcome(run: UnlearnRun, results: Mapping[str, Any], folder: str) -> str:
    """The sentence; "" where neither what is gone nor what it cost is known."""
    verdict = get_part(results, "verdict")
    shares = {name: part["share"] for name, part in get_part(verdict, "shares").items()}
    utility = measure_kept_utility(results)
    parts = []
    if shares:
        name, share = max(shares.items(), key=lambda item: item[1])
        gone = min(1.0, max(0.0, 1 - share))
        parts.append(f"{gone:.0%} of what only the target knew is gone")
        parts[-1] += f", by {name}, which shows most"
    if utility is not None:
        parts.append(f"{utility[1]:.0%} of {utility[0]} is left")
    if not parts:
        return ""
    word = str(verdict.get("word", ""))
    has_suffered = utility is not None and utility[1] < LEAST_KEPT
    steps = [advise_next_run(run, word, has_suffered, results)]
    if not any(name.startswith(AUDIT_FIGURES) for name in get_part(results, "metrics")):
        steps.append(f"`undial audit {folder}` tries to get it back")
    advice = "; ".join(filter(None, steps))
    return "; ".join(parts) + (f". Next: {advice}" if advice else "")


def measure_kept_utility(results: Mapping[str, Any]) -> tuple[str, float] | None:
    """The figure of utility of which least is left of the target's, and that share."""
    ours, before = get_part(results, "metrics"), get_part(results, "target")
    left = {
        name: ours[name] / before[name]
        for name in list_watched_figures(before, get_part(results, "roles"))
        if not name.endswith(FLUENCY_METRICS) and before[name] and ours.get(name) is not None
    }
    return min(left.items(), key=lambda item: item[1]) if left else None


def advise_next_run(
    run: UnlearnRun, word: str, has_suffered: bool, results: Mapping[str, Any]
) -> str:
    """What to change in the next run; "" where nothing suggests itself."""
    if has_suffered or word == DAMAGED:
        has_retain_set = RETAIN in get_part(results, "roles").values()
        if has_retain_set and run.method.retain == "none":
            return "`method.retain=gdr` keeps more of the rest"
    if has_suffered or word in (DAMAGED, OVER_FORGOTTEN):
        return "`train.select=nearest_retain` keeps the best step"
    if word == NOT_FORGOTTEN:
        return "a larger `train.epochs` or `train.learning_rate` takes more"
    return ""
