"""One outcome of several: of a model in several precisions, or after several steps of a change.

Knows no attack.
"""

from __future__ import annotations

from collections.abc import Callable

from undial_cli.audit.attack import Outcome


def join_variants(outcomes: list[Outcome], choose: Callable[[list[float]], float] = max) -> Outcome:
    """One outcome of several on the same rows: of each row and score what `choose` makes of them.

    The text of a row is the one of the variant that gave most away.
    """
    first, rows = outcomes[0], range(len(outcomes[0].numbers))
    joined = Outcome(first.numbers, {}, [""] * len(rows), [""] * len(rows))
    for name in dict.fromkeys(name for outcome in outcomes for name in outcome.scores):
        columns = [outcome.scores[name] for outcome in outcomes if name in outcome.scores]
        known = [[v for v in values if v is not None] for values in zip(*columns, strict=True)]
        joined.scores[name] = [choose(values) if values else None for values in known]
    for row in rows:
        top = max(outcomes, key=lambda o: [o.scores.get(n, [0] * len(rows))[row] or 0
                                           for n in ("hit", "rouge")])  # fmt: skip
        joined.texts[row], joined.prompts[row] = top.texts[row], top.prompts[row]
    return joined


def make_curves(axis: str, outcomes: dict[str, Outcome]) -> dict[str, dict[str, float | None]]:
    """The mean of every score over the rows, by score and step.

    Args:
        axis: what the steps are steps of, in a word.
        outcomes: by step.
    """
    names = dict.fromkeys(name for outcome in outcomes.values() for name in outcome.scores)
    return {
        f"{name} by {axis}": {
            step: average_known(outcome.scores.get(name, [])) for step, outcome in outcomes.items()
        }
        for name in names
    }


def average_known(values: list[float | None]) -> float | None:
    """The mean of those values that are there."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
