"""Scores of models that were never trained: drawn at random, with a recovery that is known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from undial_cli.audit.recovery import estimate_recovery

Draws = np.random.Generator


def number_rows(subjects: int, rows: int) -> NDArray[np.int64]:
    """Whom each row is about: so many subjects of so many rows."""
    return np.repeat(np.arange(subjects), rows)


def draw_graded(draws: Draws, who: NDArray[np.int64], recovered: float) -> dict[str, Any]:
    """Scores with an effect of each subject on all models; the mean recovery is as given."""
    people, rows = who.max() + 1, len(who)

    def vary(by_subject: float, by_row: float) -> NDArray[np.float64]:
        return draws.normal(0, by_subject, people)[who] + draws.normal(0, by_row, rows)

    target, retain = 0.85 + vary(0.06, 0.1), 0.1 + vary(0.05, 0.1)
    attacked = retain + 0.05 + vary(0, 0.05)
    unlearned = attacked + 0.75 * recovered + vary(0.12, 0.15)
    return join_models(target, retain, attacked, unlearned)


def draw_hits(draws: Draws, who: NDArray[np.int64], recovered: float) -> dict[str, Any]:
    """Scores of 0 and 1: the target hits 90 % of rows, the retain model 5 %."""
    people, rows = who.max() + 1, len(who)
    target, retain = (draws.random(rows) < chance for chance in (0.9, 0.05))
    chance = 0.05 + 0.85 * recovered
    of_row = np.full(rows, chance)
    if people < rows:
        of_row = draws.beta(6 * chance, 6 * (1 - chance), people)[who]
    unlearned = draws.random(rows) < of_row
    return join_models(*(hits.astype(float) for hits in (target, retain, retain, unlearned)))


def join_models(
    target: NDArray[np.float64],
    retain: NDArray[np.float64],
    attacked: NDArray[np.float64],
    unlearned: NDArray[np.float64],
) -> dict[str, Any]:
    """Scores of the models, without and under an attack."""
    return {
        "attacked": {"unlearned": unlearned, "retain": attacked},
        "plain": {"target": target, "retain": retain},
    }


def estimate_drawn(
    scores: dict[str, Any], who: Any, margin: float = 0.2, level: float = 0.05
) -> dict[str, Any]:
    """What was recovered, with what verdicts read beside it."""
    entry = estimate_recovery(scores["attacked"], scores["plain"], list(who), margin, level)
    attacked = {role: float(values.mean()) for role, values in scores["attacked"].items()}
    return {"score": "drawn", "attacked": attacked, **entry}
