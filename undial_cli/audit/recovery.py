"""How much of what the target knows an attack got back: figures, intervals, tests.

`recovered` is 0 where the unlearned model gives an attack as much as the retain model does, 1 where
it gives all that the target knows beyond it. All models are asked for the same rows, and rows about
one person are not independent: subjects are resampled, with all their rows and for all models at
once. Knows neither attacks nor verdicts, no model and no file.

Shapes: R rows; U units that are drawn; B resamples.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr, stdtrit

from undial_cli.config.attacks import RETAIN, TARGET, UNLEARNED
from undial_cli.evaluation.resampling import RESAMPLES

# Resamples of fewer subjects or rows than this do not tell how far a figure carries.
LEAST_UNITS = 8
# Where the target's lead over the retain model may be this small, a score tells them not apart.
LEAST_LEAD = 0.05
# Less than this is rounding.
ROUNDING = 1e-9

RowVector = NDArray[np.float64]


@dataclass(frozen=True)
class Units:
    """What is drawn with replacement: subjects, or rows.

    `numbers`: of each row its unit [R]; `strata`: the number of units of each group that is drawn
    by itself; `subjects`: how many there are; `method`: in words.
    """

    numbers: NDArray[np.int64]
    strata: tuple[int, ...]
    subjects: int
    method: str

    @property
    def count(self) -> int:
        """Number of units, U."""
        return sum(self.strata)

    @property
    def freedom(self) -> int:
        """Degrees of freedom of what is measured on them."""
        return self.count - len(self.strata)

    def sum_rows(self, values: RowVector) -> RowVector:
        """The sum over the rows of each unit: [R] -> [U]."""
        return np.asarray(np.bincount(self.numbers, values, self.count), np.float64)


@dataclass(frozen=True)
class Ratio:
    """A ratio of two means, its interval (None: cannot be given), and whether it varies at all."""

    value: float
    interval: list[float] | None
    varies: bool = True


def choose_units(subjects: Sequence[int]) -> Units:
    """What is resampled of rows about the given subjects [R].

    Few subjects stand for no others, and what is found holds for them alone: then the rows of each
    are drawn, as many as it has.
    """
    _, of_row, sizes = np.unique(np.asarray(subjects), return_inverse=True, return_counts=True)
    rows, count = len(of_row), len(sizes)
    if count >= LEAST_UNITS:
        names = "rows" if count == rows else "subjects"
        return Units(of_row, (count,), count, f"bootstrap, {RESAMPLES} resamples of {names}")
    by_subject = count > 1 and sizes.min() > 1
    numbers = np.argsort(np.argsort(of_row, kind="stable")) if by_subject else np.arange(rows)
    strata = tuple(map(int, sizes)) if by_subject else (rows,)
    several = f"{count} subjects" if count > 1 else "1 subject"
    method = (
        f"bootstrap, {RESAMPLES} resamples of the rows of {several}: it speaks of these subjects "
        "only"
    )
    return Units(numbers, strata, count, method)


@functools.lru_cache(maxsize=4)
def draw_counts(strata: tuple[int, ...]) -> RowVector:
    """How often each unit is in each resample, [B, U]; the same every time."""
    draws = np.random.default_rng(zlib.crc32(str(strata).encode()))
    return np.hstack([draws.multinomial(n, [1 / n] * n, RESAMPLES).astype(float) for n in strata])


def estimate_ratio(
    numerator: RowVector, denominator: RowVector, units: Units, level: float
) -> Ratio:
    """A ratio of means over rows, with an expanded percentile interval.

    Percentiles of a bootstrap are too narrow for few units, by what a normal distribution lacks
    against Student's and a standard deviation of n against one of n - 1: Hesterberg, What Teachers
    Should Know About the Bootstrap, 2015, section 4.1. Measured coverage: docs/audit.md.

    Args:
        numerator, denominator: of each row, [R].
        level: chance that the interval misses.
    """
    tops, bottoms = units.sum_rows(numerator), units.sum_rows(denominator)
    value = float(tops.sum() / bottoms.sum())
    if units.count < LEAST_UNITS or units.freedom < 1:
        return Ratio(value, None)
    counts = draw_counts(units.strata)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = (counts @ tops) / (counts @ bottoms)
    ratios = ratios[np.isfinite(ratios)]
    if len(ratios) < RESAMPLES / 2:
        return Ratio(value, None)
    if np.ptp(ratios) < ROUNDING:
        return Ratio(value, None, varies=False)
    widening = np.sqrt(units.count / units.freedom)
    share = float(ndtr(stdtrit(units.freedom, level / 2) * widening))
    low, high = np.quantile(ratios, [share, 1 - share])
    return Ratio(value, [float(low), float(high)])


def compute_p_value(contrast: RowVector, units: Units) -> float | None:
    """One-sided p of "the mean of a contrast [R] is not above 0".

    Student's t test of the units' sums (of as many rows as they have). A contrast that is the same
    in all of them has no spread to test with, but its sign: that of all of U units is chance in
    one of 2^U cases. None for a single unit.
    """
    if units.count < 2 or units.freedom < 1:
        return None
    mean = float(contrast.mean())
    excess = units.sum_rows(contrast - mean)  # [U]
    variance, first = 0.0, 0
    for size in units.strata:
        part = excess[first : first + size]
        first += size
        if size > 1:
            variance += size / (size - 1) * float(((part - part.mean()) ** 2).sum())
    error = np.sqrt(variance) / len(contrast)
    if error < ROUNDING:
        return 0.5**units.count if mean > ROUNDING else 1.0
    return float(stdtr(units.freedom, -mean / error))


def estimate_recovery(
    attacked: Mapping[str, RowVector],
    plain: Mapping[str, RowVector],
    subjects: Sequence[int],
    margin: float,
    level: float,
    assume_target: bool = False,
) -> dict[str, Any]:
    """What an attack recovered by one score, as audit.json holds it.

    Args:
        attacked: scores under the attack of `unlearned` and, where known, `retain`: [R] each.
        plain: scores without it of `target` and `retain`.
        subjects: whom each row is about, [R].
        margin: recovered up to this counts as nothing.
        level: chance that an interval misses.
        assume_target: where `plain` has no target, none is known, and it is taken to know every
            answer (a score of 1); what is recovered is then rather too small.

    Returns:
        recovered, interval, p ("no more than margin is recovered"), p_below ("no less than -margin
        is recovered"), varies (false: the same in all resamples, and without an interval), n,
        subjects, method; where recovered is None, reason.
    """
    rows = len(subjects)
    entry: dict[str, Any] = dict.fromkeys(("recovered", "interval", "p", "p_below"))
    entry |= {"varies": True, "n": rows, "subjects": len(set(subjects)), "method": ""}
    if not rows:
        return {**entry, "reason": "no row has this score of all models"}
    needed = ((UNLEARNED, attacked), (RETAIN, attacked), (RETAIN, plain), (TARGET, plain))
    for role, of_roles in needed:
        if role not in of_roles and not (role == TARGET and assume_target):
            return {**entry, "reason": f"there is no such figure of a {role} model"}
    units = choose_units(subjects)
    gained = attacked[UNLEARNED] - attacked[RETAIN]
    known = plain.get(TARGET, np.ones(rows)) - plain[RETAIN]
    lead = estimate_ratio(known, np.ones(rows), units, level)
    if (lead.interval[0] if lead.interval else lead.value) <= LEAST_LEAD:
        return {**entry, "reason": "this score does not tell the target from the retain model"}
    recovered = estimate_ratio(gained, known, units, level)
    entry |= {
        "recovered": recovered.value,
        "interval": recovered.interval,
        "p": compute_p_value(gained - margin * known, units),
        "p_below": compute_p_value(-gained - margin * known, units),
        "varies": recovered.varies,
        "method": describe_method(recovered, units),
    }
    if TARGET not in plain:
        entry["method"] += "; no target is known: it is taken to know every answer"
    return entry


def describe_method(estimate: Ratio, units: Units) -> str:
    """How an interval was made, or why there is none."""
    if not estimate.varies:
        return "no interval: all resamples give the same"
    if estimate.interval is None:
        return f"no interval: {units.count} {'row is' if units.count == 1 else 'rows are'} too few"
    return units.method


def correct_by_holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down correction (1979): the chance of any false rejection is kept.

    A hypothesis that was not tested (None) counts for nothing.
    """
    tested = sorted((p, name) for name, p in p_values.items() if p is not None)
    corrected, largest = dict[str, float | None](dict.fromkeys(p_values)), 0.0
    for rank, (p, name) in enumerate(tested):
        largest = max(largest, min(1.0, p * (len(tested) - rank)))
        corrected[name] = largest
    return corrected
