"""The bootstrap: every figure of an evaluation on resamples of its samples.

Subjects (or rows, where nothing says who a row is about) are drawn with replacement, the same ones
for all metrics of a set and for all models, so that differences are paired. A figure of several
sets draws from each. Axes: B resamples, N samples. Knows no model and no file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from undial_cli.evaluation import catalog, joint, metrics
from undial_cli.evaluation.catalog import Evaluation, Metric, Missing
from undial_cli.evaluation.config import FORGET, HOLDOUT, EvalConfig, role_of
from undial_cli.evaluation.subjects import unit_of

RESAMPLES = 1000

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    """One set's values and how often each of them is in every resample.

    `values` [N]; `weights` [B, N], whole numbers; `samples`: of each value, what it is drawn with
    and its row.
    """

    set_name: str
    values: Array
    weights: NDArray[np.uint8]
    samples: tuple[tuple[tuple[str, Any], Any], ...]

    @property
    def units(self) -> int:
        """How many subjects or rows there are to draw."""
        return len({unit for unit, _ in self.samples})

    @property
    def by_subject(self) -> bool:
        """Whether something says whom the rows are about."""
        return any(kind == "subject" for (kind, _), _ in self.samples)


@dataclass(frozen=True)
class Resampled:
    """A figure of every resample [B], and what it was drawn from."""

    values: Array
    sets: tuple[Drawn, ...]

    @property
    def n(self) -> int:
        """Samples, of the smallest set."""
        return min(len(drawn.values) for drawn in self.sets)

    @property
    def subjects(self) -> int | None:
        """Subjects, of the set with the fewest; None where none is drawn by subject."""
        return min((drawn.units for drawn in self.sets if drawn.by_subject), default=None)

    def is_paired_with(self, other: Resampled) -> bool:
        """Whether both were drawn from the same samples."""
        ours, theirs = ([(d.set_name, d.samples) for d in r.sets] for r in (self, other))
        return ours == theirs


@functools.lru_cache(maxsize=16)
def counts_of_units(set_name: str, units: int) -> NDArray[np.uint8]:
    """How often each of the units of a set is drawn: [B, units]; the same every time."""
    draws = np.random.default_rng(zlib.crc32(set_name.encode()))
    return draws.multinomial(units, [1 / units] * units, size=RESAMPLES).astype(np.uint8)


def draw(evaluation: Evaluation, set_name: str, key: str) -> Drawn:
    """The values of a set and the resamples of them.

    Raises:
        Missing: there are none, or some are not finite.
    """
    samples = evaluation.samples_with(set_name, key)
    if not samples:
        raise Missing(f"no sample has {key}")
    numbers: dict[Any, int] = {}
    number_of = [numbers.setdefault(unit_of(sample), len(numbers)) for sample in samples]
    weights = counts_of_units(set_name, len(numbers))[:, number_of]
    values = np.array([sample[key] for sample in samples], dtype=np.float64)
    rows = tuple((unit_of(sample), sample.get("index")) for sample in samples)
    return Drawn(set_name, values, weights, rows)


def of_set(evaluation: Evaluation, set_name: str, key: str, metric: Metric, role: str) -> Resampled:
    """The aggregate of a metric of one set."""
    drawn = draw(evaluation, set_name, metric.stored or key)
    means = drawn.weights @ metric.term(drawn.values, role) / drawn.weights.sum(1, dtype=float)
    with np.errstate(over="ignore"):
        return Resampled(metric.finish(means), (drawn,))


def cumulated(drawn: Drawn) -> tuple[Array, Array]:
    """The values in order [N], and how many of each resample lie below a place [B, N + 1]."""
    order = np.argsort(drawn.values, kind="stable")
    below_BN = np.zeros((len(drawn.weights), len(order) + 1))
    np.cumsum(drawn.weights[:, order], axis=1, out=below_BN[:, 1:])
    return drawn.values[order], below_BN


def weighted_auc(forget: Drawn, holdout: Drawn) -> Array:
    """`metrics.attack_auc` of every resample."""
    ordered, below_BN = cumulated(forget)
    left, right = (np.searchsorted(ordered, holdout.values, side=s) for s in ("left", "right"))
    wins = ((below_BN[:, left] + below_BN[:, right]) * holdout.weights).sum(1) / 2
    return wins / (below_BN[:, -1] * holdout.weights.sum(1, dtype=float))


def weighted_distance(one: Drawn, other: Drawn) -> Array:
    """The Kolmogorov-Smirnov distance of every resample."""
    points = np.unique(np.concatenate([one.values, other.values]))
    shares = []
    for ordered, below_BN in map(cumulated, (one, other)):
        places = np.searchsorted(ordered, points, side="right")
        shares.append(below_BN[:, places] / below_BN[:, -1:])
    return np.abs(shares[0] - shares[1]).max(1)


def of_attack(
    name: str, ours: Evaluation, theirs: Evaluation | None, config: EvalConfig
) -> Resampled:
    """The AUC of a membership attack."""
    sets = [joint.set_of(config, role) for role in (FORGET, HOLDOUT)]
    forget, holdout = (draw(ours, set_name, name) for set_name in sets)
    return Resampled(weighted_auc(forget, holdout), (forget, holdout))


def of_reference_attack(
    ours: Evaluation, theirs: Evaluation | None, config: EvalConfig
) -> Resampled:
    """The AUC of the loss attack relative to the retain model."""
    assert theirs is not None
    sets = [joint.set_of(config, role) for role in (FORGET, HOLDOUT)]
    both = joint.reference_scores(ours, theirs, config)
    forget, holdout = (
        dataclasses.replace(drawn, values=np.array(scores))
        for scores, drawn in zip(both, (draw(ours, s, "mia_loss") for s in sets), strict=True)
    )
    return Resampled(weighted_auc(forget, holdout), (forget, holdout))


def of_privleak(ours: Evaluation, theirs: Evaluation | None, config: EvalConfig) -> Resampled:
    """PrivLeak, the retain model's AUC resampled with ours where its scores are known."""
    auc = of_attack("mia_min_k", ours, None, config)
    try:
        known: Any = of_attack("mia_min_k", theirs, None, config).values if theirs else None
    except Missing:
        known = None
    if known is None:
        known = joint.known_auc(theirs, config)
    with np.errstate(divide="ignore", invalid="ignore"):
        return Resampled((known - auc.values) / (1 - known) * 100, auc.sets)


ATTACKS: dict[str, Callable[[Evaluation, Evaluation | None, EvalConfig], Resampled]] = {
    "privleak": of_privleak,
    "mia_reference": of_reference_attack,
    **{
        name: functools.partial(of_attack, name)
        for name, metric in joint.JOINT.items()
        if metric.reads == (name,)
    },
}


def utility(parts: list[Resampled]) -> Resampled:
    """The harmonic mean of the parts of model_utility."""
    values = np.array([part.values for part in parts])
    with np.errstate(divide="ignore"):
        harmonic = len(values) / (1 / np.maximum(values, 0)).sum(0)
    sets = {part.sets[0].set_name: part.sets[0] for part in parts}
    return Resampled(harmonic, tuple(sets.values()))


def distance(ours: Evaluation, theirs: Evaluation, config: EvalConfig) -> Resampled:
    """The distance D behind forget_quality.

    A distance of resamples is larger than that of the samples: the resamples are shifted so that
    their median is D.
    """
    name = joint.set_of(config, FORGET)
    both = [draw(e, name, "log_truth_ratio") for e in (ours, theirs)]
    values, known = weighted_distance(*both), metrics.ks_distance(*(d.values for d in both))
    return Resampled(np.clip(values + known - np.median(values), 0, 1), (both[0], both[1]))


def resample(
    ours: Evaluation, theirs: Evaluation | None, config: EvalConfig
) -> dict[str, Resampled]:
    """The resamples of all figures of an evaluation; of forget_quality those of its D."""
    found: dict[str, Resampled] = {}
    # results that were made elsewhere may hold figures without their samples: these are left out
    for set_name, options in config.sets.items():
        for key in options.metrics:
            metric = catalog.find(key)
            if metric is not None and ours.metrics.get(f"{set_name}_{key}") is not None:
                with contextlib.suppress(Missing):
                    role = role_of(set_name, options)
                    found[f"{set_name}_{key}"] = of_set(ours, set_name, key, metric, role)
    parts = [found[name] for name in joint.utility_parts(config) if name in found]
    if parts and ours.metrics.get("model_utility") is not None:
        found["model_utility"] = utility(parts)
    for name in config.metrics:
        if name in ATTACKS and ours.metrics.get(name) is not None:
            with contextlib.suppress(Missing):
                found[name] = ATTACKS[name](ours, theirs, config)
    if "forget_quality" in ours.metrics and theirs is not None:
        with contextlib.suppress(Missing):
            found["forget_quality"] = distance(ours, theirs, config)
    return found
