"""Whether an unlearned model still works: what it says on the retain set, and whether it is text.

A destroyed model gives nothing away either, and no attack can tell. Knows no attack and no model.

Shapes: R retain rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from undial_cli.audit.attack import Outcome
from undial_cli.audit.recovery import LEAST_UNITS, choose_units, estimate_ratio
from undial_cli.config.attacks import RETAIN, TARGET, UNLEARNED
from undial_cli.evaluation.metrics import repetition
from undial_cli.evaluation.verdict import LEAST_SHARE_LEFT
from undial_cli.evaluation.words import split_unicode_words

# An answer of which this share of its word 3-grams, or more, are repeats is no answer.
REPEATED = 0.5
TITLES = {"retain_rouge": "ROUGE on the retain set", "fluency": "share of answers that are text"}


def is_fluent(text: str) -> bool:
    """Whether an answer holds a word, and does not say the same three words again and again."""
    words = split_unicode_words(text)
    return bool(words) and repetition(words, 3) < REPEATED


def measure_working_order(working: Mapping[str, Outcome], level: float) -> dict[str, Any]:
    """What is left of a model's work, of the retain rows asked directly.

    Args:
        working: outcomes by role; without target and retain model only fluency can be judged.
        level: chance that an interval misses.

    Returns:
        By figure (`retain_rouge`, `fluency`): its mean by role; of the unlearned model its
        `interval`, the share that is left of the target's (else of the retain model's), that
        share's interval and `lost`: it is below half of it, interval and all.
    """
    figures = {"retain_rouge": read_rouge(working), "fluency": read_fluency(working)}
    return {
        name: compare_work(of_roles, level, always=name == "fluency")
        for name, of_roles in figures.items()
        if UNLEARNED in of_roles
    }


def read_rouge(working: Mapping[str, Outcome]) -> dict[str, NDArray[np.float64]]:
    """ROUGE-L recall by role, [R]; a row that a broken model gave no text for has 0."""
    return {
        role: np.array([value or 0.0 for value in outcome.scores["rouge"]])
        for role, outcome in working.items()
        if outcome.scores.get("rouge")
    }


def read_fluency(working: Mapping[str, Outcome]) -> dict[str, NDArray[np.float64]]:
    """1 for each answer that is text, by role, [R]."""
    return {
        role: np.array([float(is_fluent(text)) for text in outcome.texts])
        for role, outcome in working.items()
        if outcome.texts
    }


def compare_work(
    values: Mapping[str, NDArray[np.float64]], level: float, always: bool
) -> dict[str, Any]:
    """A figure by role, and what is left of it.

    Args:
        values: of each row, by role, [R] each.
        always: without another model it is held against 1.
    """
    ours = values[UNLEARNED]
    ones, units = np.ones(len(ours)), choose_units(range(len(ours)))
    entry: dict[str, Any] = {role: float(of_role.mean()) for role, of_role in values.items()}
    entry["interval"] = estimate_ratio(ours, ones, units, level).interval
    before = values.get(TARGET, values.get(RETAIN, ones if always else None))
    if before is None or not before.any():
        return entry
    left = estimate_ratio(ours, before, units, level)
    upper = left.interval[1] if left.interval else left.value
    lost = len(ours) >= LEAST_UNITS and upper < LEAST_SHARE_LEFT
    return {**entry, "share_left": left.value, "share_interval": left.interval, "lost": lost}


def list_losses(works: Mapping[str, Any]) -> list[str]:
    """What was lost, in words; empty where nothing was, or nothing is known."""
    return [
        f"{TITLES[name]} {entry[UNLEARNED]:.2f} is {entry['share_left']:.0%} of what it was"
        for name, entry in works.items()
        if entry.get("lost")
    ]
