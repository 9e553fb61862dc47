"""The bootstrap: every figure of an evaluation on resamples of its samples.

Subjects (or rows, where nothing says who a row is about) are drawn with replacement, the same ones
for all metrics of a set and for all models, so that differences are paired. A figure of several
sets draws from each. Axes: B resamples, N samples. Knows no model and no file.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from undial_cli.config.suites import EvalConfig, resolve_role
from undial_cli.evaluation import metrics
from undial_cli.evaluation.catalog import Metric, find_set_metric
from undial_cli.evaluation.evidence import Evaluation, MissingFigure, list_groups
from undial_cli.evaluation.joint_metrics import ComparedModels
from undial_cli.evaluation.resampling_units import find_resampling_unit
from undial_cli.evaluation.suite_metrics import list_suite_metrics

RESAMPLES = 1000


@dataclass(frozen=True)
class DrawnSet:
    """One set's values and how often each of them is in every resample.

    `values` [N]; `weights` [B, N], whole numbers; `samples`: of each value, what it is drawn with
    and its row.
    """

    set_name: str
    values: NDArray[np.float64]
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
class ResampledFigure:
    """A figure of every resample [B], and what it was drawn from."""

    values: NDArray[np.float64]
    sets: tuple[DrawnSet, ...]

    def is_paired_with(self, other: ResampledFigure) -> bool:
        """Whether both were drawn from the same samples."""
        ours, theirs = ([(d.set_name, d.samples) for d in r.sets] for r in (self, other))
        return ours == theirs


@dataclass
class ResampledEvaluation(Evaluation):
    """An evaluation of which samples were drawn, for metrics that join sets.

    `number`: which resample it is; `figures`: the resampled figures that there are; `drawn`: what
    it was asked for, by set and value.
    """

    number: int = 0
    figures: dict[str, ResampledFigure] = field(default_factory=dict)
    drawn: dict[tuple[str, str], DrawnSet] = field(default_factory=dict)

    def values(self, set_name: str, key: str) -> NDArray[np.float64]:
        """A per-sample value of the samples that were drawn."""
        if (set_name, key) not in self.drawn:
            self.drawn[set_name, key] = draw_set(self, set_name, key)
        drawn = self.drawn[set_name, key]
        return np.repeat(drawn.values, drawn.weights[self.number])

    def figure(self, name: str) -> float:
        """A figure of the samples that were drawn; of results without samples, that of all."""
        if name not in self.figures:
            return super().figure(name)
        self.drawn |= {(drawn.set_name, ""): drawn for drawn in self.figures[name].sets}
        return float(self.figures[name].values[self.number])

    @property
    def sets(self) -> tuple[DrawnSet, ...]:
        """What was drawn of each set that was asked for."""
        return tuple({drawn.set_name: drawn for drawn in reversed(self.drawn.values())}.values())


@functools.lru_cache(maxsize=16)
def draw_unit_counts(set_name: str, units: int) -> NDArray[np.uint8]:
    """How often each of the units of a set is drawn: [B, units]; the same every time."""
    # Seeded by the set's name alone: all models and metrics get the same draws, which pairs them.
    draws = np.random.default_rng(zlib.crc32(set_name.encode()))
    return draws.multinomial(units, [1 / units] * units, size=RESAMPLES).astype(np.uint8)


def draw_set(evaluation: Evaluation, set_name: str, key: str) -> DrawnSet:
    """The values of a set and the resamples of them.

    Raises:
        MissingFigure: there are none, or some are not finite.
    """
    samples = evaluation.samples_with(set_name, key)
    if not samples:
        raise MissingFigure(f"no sample has {key}")
    units = [find_resampling_unit(sample) for sample in samples]
    numbers = {unit: number for number, unit in enumerate(dict.fromkeys(units))}
    weights = draw_unit_counts(set_name, len(numbers))[:, [numbers[unit] for unit in units]]
    values = np.array([sample[key] for sample in samples], dtype=np.float64)
    rows = tuple((unit, s.get("index")) for unit, s in zip(units, samples, strict=True))
    return DrawnSet(set_name, values, weights, rows)


def resample_set_metric(
    evaluation: Evaluation, set_name: str, metric: Metric, role: str
) -> ResampledFigure:
    """The aggregate of a metric of one set."""
    drawn = draw_set(evaluation, set_name, metric.key)
    means = drawn.weights @ metric.term(drawn.values, role) / drawn.weights.sum(1, dtype=float)
    with np.errstate(over="ignore"):
        return ResampledFigure(metric.finish(means), (drawn,))


def resample_sets(evaluation: Evaluation, config: EvalConfig) -> dict[str, ResampledFigure]:
    """The figures of single sets; those without their samples are left out."""
    resampled = {}
    for set_name, options in config.sets.items():
        parts = (set_name, *list_groups(evaluation.samples, set_name))
        for part, key in itertools.product(parts, options.metrics):
            name, metric = f"{part}_{key}", find_set_metric(key)
            if metric is not None and evaluation.metrics.get(name) is not None:
                with contextlib.suppress(MissingFigure):  # of results that were made elsewhere
                    role = resolve_role(set_name, options)
                    resampled[name] = resample_set_metric(evaluation, part, metric, role)
    return resampled


def resample_joint_metric(
    metric: Metric, ours: ResampledEvaluation, models: ComparedModels
) -> ResampledFigure:
    """A metric that joins sets, of the samples of each resample of all models.

    Args:
        ours: that of `models`, with its figures so far.
    """
    compute = metric.spread or metric.joint
    assert compute is not None
    others = [x for x in (models.theirs, models.target) if isinstance(x, ResampledEvaluation)]
    for resample in (ours, *others):
        resample.drawn = {}
    values = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        for resample in (ours, *others):
            resample.number = number
        values[number] = compute(models)
    if metric.name != "forget_quality":
        return ResampledFigure(values, ours.sets)
    # A distance of resamples is larger than that of the samples: they are shifted to it.
    sets = (*ours.sets, *others[0].sets)
    distance = metrics.ks_distance(*(one.values for one in sets))
    return ResampledFigure(np.clip(values + distance - np.median(values), 0, 1), sets)


def resample_figures(
    ours: Evaluation,
    theirs: Evaluation | None,
    config: EvalConfig,
    target: Evaluation | None = None,
) -> dict[str, ResampledFigure]:
    """The resamples of all figures of an evaluation; of forget_quality those of its D.

    Args:
        theirs: the retain model's evaluation.
        target: that of the model before unlearning.
    """
    drawn, other, before = (
        evaluation and ResampledEvaluation(
            evaluation.metrics, evaluation.samples, figures=resample_sets(evaluation, config)
        )
        for evaluation in (ours, theirs, target)
    )  # fmt: skip
    assert drawn is not None
    models, resampled = ComparedModels(drawn, other, config, before), drawn.figures
    for metric in list_suite_metrics(config):
        if metric.name in ours.metrics:
            with contextlib.suppress(MissingFigure):
                figure = resample_joint_metric(metric, drawn, models.reading(metric.name))
                if figure.sets:
                    resampled[metric.name] = figure
    return resampled
