"""How long runs that are missing will take: by those that are finished, else by stated facts.

For a table whose model and data may be nowhere near. A test holds the operations that are counted
from facts against those of a replay. Measures nothing and imports no torch.
"""

from __future__ import annotations

import statistics

from undial_cli import ui
from undial_cli.config.schema import Run, TrainingRun, UnlearnRun
from undial_cli.config.tables import CostConfig
from undial_cli.methods import make_method

# Floating point operations per parameter and token: of a forward and of a backward pass.
FORWARD_OPERATIONS, BACKWARD_OPERATIONS = 2, 4


def estimate_missing_runs(cost: CostConfig, missing: list[Run], finished: list[float]) -> str:
    """One line on runs that are missing; empty where none is, or nothing is known.

    Args:
        finished: seconds of runs that are done.
    """
    if not missing:
        return ""
    # A run that found everything done before takes next to nothing and tells nothing.
    finished = [seconds for seconds in finished if seconds > 1]
    mean = statistics.fmean(finished) if finished else cost.seconds
    if mean:
        slots = getattr(missing[0].hardware, "slots", None) or 1
        each = f"{mean:.1f} s" if finished else f"{mean:g} s"
        shared = f" / {slots} slots" if slots > 1 else ""
        source = f"measured on {cost.measured}; models made on first use come on top"
        if finished:
            source = f"the mean of {len(finished)} finished runs of this table"
        return (
            f"estimated time: {ui.format_duration(mean * len(missing) / slots)} "
            f"({len(missing)} missing runs x {each}{shared}; {source})"
        )
    counts = [count_training_operations(run, cost.parameters, cost.tokens) for run in missing]
    total = sum(count for count in counts if count is not None)
    if None in counts or not total or not cost.tflops:
        return ""
    hours = total / (cost.tflops * 1e12 * cost.share) / 3600
    return (
        f"estimated training alone: {total:.2g} FLOP, {hours:.3g} hours of one {cost.device} at "
        f"{cost.share:.0%} of its {cost.tflops:g} TFLOP/s "
        f"({FORWARD_OPERATIONS + BACKWARD_OPERATIONS} operations per parameter and token, "
        f"{FORWARD_OPERATIONS} for the teacher; nothing of this was measured; evaluation comes on "
        "top)"
    )


def count_training_operations(
    run: Run, parameters: dict[str, float], tokens: dict[str, float]
) -> float | None:
    """Floating point operations of a run's training; None where a fact is missing.

    Args:
        parameters: of a model, by its name or for any other ("*").
        tokens: of an epoch, by forget split or for any other.
    """
    if not isinstance(run, TrainingRun):
        return 0.0
    size = parameters.get(run.model.name, parameters.get("*"))
    splits = run.data.requests or [run.data.forget_split or "*"]
    lengths = [tokens.get(split, tokens.get("*")) for split in splits]
    if size is None or None in lengths:
        return None
    passes: float = (FORWARD_OPERATIONS + BACKWARD_OPERATIONS) * run.train.epochs
    if isinstance(run, UnlearnRun):
        method = make_method(run.method, run.seed)
        terms = method.terms().values()
        passes = passes * len(terms) + FORWARD_OPERATIONS * sum(bool(term.needs) for term in terms)
        if method.other_questions is not None:
            passes += FORWARD_OPERATIONS * method.other_questions.count
    return size * passes * sum(length for length in lengths if length is not None)
