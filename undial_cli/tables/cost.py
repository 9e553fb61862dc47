"""What is missing of a table, in time: from its finished runs, else from stated facts.

Knows composed runs and facts; measures nothing and imports no torch.
"""

from __future__ import annotations

import statistics

from undial_cli.methods import make_method
from undial_cli.schema import TrainingRun, UnlearnRun
from undial_cli.tables.config import CostConfig
from undial_cli.tables.runs import DONE, TableRun


def estimate(cost: CostConfig, runs: list[TableRun]) -> str:
    """One line on the runs that are missing; empty where nothing is, or nothing is known."""
    missing = [entry for entry in runs if entry.status != DONE]
    if not missing:
        return ""
    # A run that found everything done before takes next to nothing and tells nothing.
    seconds = [e.seconds for e in runs if e.status == DONE and e.seconds and e.seconds > 1]
    slots = max(1, getattr(missing[0].run.hardware, "slots", None) or 1)
    beside = f" / {slots} slots" if slots > 1 else ""
    if seconds:
        mean = statistics.fmean(seconds)
        return (
            f"estimated time: {duration(mean * len(missing) / slots)} ({len(missing)} missing runs "
            f"x {mean:.1f} s{beside}; the mean of {len(seconds)} finished runs of this table)"
        )
    if cost.seconds:
        return (
            f"estimated time: {duration(cost.seconds * len(missing) / slots)} ({len(missing)} "
            f"missing runs x {cost.seconds:g} s{beside}; measured on {cost.measured}; models made "
            "on first use come on top)"
        )
    total = 0.0
    for entry in missing:
        found = operations(cost, entry)
        if found is None:
            return ""
        total += found
    if not total or not cost.tflops:
        return ""
    hours = total / (cost.tflops * 1e12 * cost.share) / 3600
    return (
        f"estimated training alone: {total:.2g} FLOP, {hours:.3g} hours of one {cost.device} at "
        f"{cost.share:.0%} of its {cost.tflops:g} TFLOP/s (6 operations per parameter and token, 2 "
        "for the teacher; nothing of this was measured; evaluation comes on top)"
    )


def operations(cost: CostConfig, entry: TableRun) -> float | None:
    """Floating-point operations of a run's training; None where a fact is missing."""
    run = entry.run
    if not isinstance(run, TrainingRun):
        return 0.0
    parameters = fact(cost.parameters, run.model.name)
    splits = run.data.requests or [run.data.forget_split or "*"]
    tokens = [fact(cost.tokens, split) for split in splits]
    if parameters is None or None in tokens:
        return None
    passes = 6.0 * run.train.epochs
    if isinstance(run, UnlearnRun):
        terms = make_method(run.method).terms().values()
        passes *= len(terms)
        passes += 2.0 if any(term.needs for term in terms) else 0.0
    return parameters * passes * sum(t for t in tokens if t is not None)


def fact(facts: dict[str, float], name: str) -> float | None:
    """A fact by name, or that of any other."""
    return facts.get(name, facts.get("*"))


def duration(seconds: float) -> str:
    """Seconds as text."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
