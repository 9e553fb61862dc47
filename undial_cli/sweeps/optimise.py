"""`hydra/sweeper=optuna`: the next runs follow from the figures of those before.

Takes the keys of Hydra's own plugin, which is bound to an optuna of years ago. The study is kept in
the sweep's folder: the same command goes on with it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
    Transformer,
)
from omegaconf import OmegaConf

from undial_cli import ui
from undial_cli.errors import UserError, bad_value
from undial_cli.sweeps.executors import require_library
from undial_cli.system.files import write_whole_text

SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "grid": "GridSampler",
    "cmaes": "CmaEsSampler",
    "nsgaii": "NSGAIISampler",
}
DIRECTIONS = ("minimize", "maximize")

# Carries out the runs of a batch of words; the objective or objectives of each.
BatchRunner = Callable[[Sequence[Sequence[str]]], list[Any]]


def run_study(
    options: dict[str, Any],
    overrides: list[Override],
    names: list[str],
    carry_out: BatchRunner,
    folder: Path,
) -> None:
    """Conduct a study, say its best runs and write them down; arguments as of `conduct_study`."""
    write_best_runs(conduct_study(options, overrides, names, carry_out, folder), names, folder)


def conduct_study(
    options: dict[str, Any],
    overrides: list[Override],
    names: list[str],
    carry_out: BatchRunner,
    folder: Path,
    first: dict[str, Any] | None = None,
) -> Any:
    """Ask a study for runs, have them carried out, tell it what they gave, `n_trials` times.

    Args:
        options: the keys of `hydra.sweeper`.
        overrides: what is said of the runs; swept keys are searched.
        names: the metrics that are optimised.
        folder: where the study goes.
        first: values that the first run has, of some of the swept keys or of all.

    Raises:
        UserError: objective, direction, sampler or a parameter is wrong.
    """
    require_library("optuna", "hydra/sweeper")
    directions = parse_directions(options["direction"], names)
    known = {o.get_key_element(): o for o in overrides}
    fixed = [
        f"{key}={o.get_value_element_as_str()}"
        for key, o in known.items()
        if not o.is_sweep_override()
    ]
    space = {key: make_distribution(o) for key, o in known.items() if o.is_sweep_override()}
    if not space:
        raise UserError("hydra/sweeper=optuna: no key to search, such as seed=range(0,5)")

    def measure(batch: Sequence[dict[str, Any]]) -> list[list[float]]:
        """The objectives of runs with these values."""
        words = [
            [*fixed, *(f"{key}={format_drawn_value(value)}" for key, value in one.items())]
            for one in batch
        ]
        return [value if isinstance(value, list) else [value] for value in carry_out(words)]

    make_sampler = choose_sampler(options, space)
    study = make_study(options, directions, folder)
    count = options["n_trials"]
    if options["sampler"] == "grid":
        count = min(count, math.prod(len(list_grid_choices(*one)) for one in space.items()))

    def ask(number: int) -> Any:
        """The trial of a number."""
        study.sampler = make_sampler(number)
        if number == 0 and first and options["sampler"] != "grid":  # which has it anyway
            study.enqueue_trial(first, skip_if_exists=True)
        return study.ask(space)

    run_trials(study, count, options["n_jobs"], ask, measure)
    return study


def choose_sampler(options: dict[str, Any], space: dict[str, Any]) -> Callable[[int], Any]:
    """What draws the trial of a number: a sampler seeded for it alone.

    What a trial draws then follows from the figures of those before, and not from whether the
    search was interrupted.
    """
    import optuna

    kind = options["sampler"]
    if kind not in SAMPLERS:
        raise bad_value("hydra.sweeper.sampler", kind, SAMPLERS)
    arguments = dict(options["sampler_args"] or {})
    seed = arguments.pop("seed", options["seed"])
    if kind == "grid":
        arguments["search_space"] = {name: list_grid_choices(name, d) for name, d in space.items()}
    make = functools.partial(getattr(optuna.samplers, SAMPLERS[kind]), **arguments)
    # A grid is numbered in an order that its seed shuffles: all of its trials need the same.
    return lambda number: make(seed=seed if kind == "grid" else seed + number)


def make_study(options: dict[str, Any], directions: list[Any], folder: Path) -> Any:
    """The study of this sweep, as far as it has come."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = options["storage"]
    if storage is None:
        folder.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "study.log")))
    return optuna.create_study(
        storage=storage,
        study_name=options["study_name"] or folder.name,
        directions=directions,
        load_if_exists=True,
    )


def run_trials(
    study: Any,
    count: int,
    at_once: int,
    ask: Callable[[int], Any],
    measure: Callable[[Sequence[dict[str, Any]]], list[list[float]]],
) -> None:
    """Runs of before into the table; those that were cut off, and new ones, until all are.

    A run without its objective counts as the worst of all; with several objectives, as failed.
    """
    from optuna.trial import TrialState

    # A grid that is worked off stops its study, which optuna allows inside optimize() only.
    study.stop = lambda: None
    worst = [math.inf if one.name == "MINIMIZE" else -math.inf for one in study.directions]
    begun = [t for t in study.trials if t.state != TrialState.WAITING]
    ended = [t for t in begun if t.state.is_finished()]
    cut: list[Any] = [t for t in begun if t.state == TrialState.RUNNING]
    if ended:
        measure([t.params for t in ended])
    total = len(begun)
    while total < count or cut:
        batch, cut = cut[:at_once], cut[at_once:]
        asked = max(0, min(at_once - len(batch), count - total))
        batch += [ask(number) for number in range(total, total + asked)]
        total += asked
        for trial, values in zip(batch, measure([t.params for t in batch]), strict=True):
            is_failed = any(math.isnan(value) for value in values)
            if is_failed and len(worst) > 1:
                study.tell(trial.number, state=TrialState.FAIL)
            else:
                study.tell(trial.number, worst if is_failed else values)


def format_drawn_value(value: Any) -> str:
    """A drawn value as an override; numbers to six digits, which a person can read and repeat."""
    if value is None:
        return "null"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def parse_directions(given: Any, names: list[str]) -> list[str]:
    """A direction for each objective.

    Raises:
        UserError: there is no objective, or not a direction for each.
    """
    if not names:
        raise UserError(
            "objective=[]: hydra/sweeper=optuna needs one or more metrics, as in "
            "objective=[forget_rouge,retain_rouge]"
        )
    directions = [given] if isinstance(given, str) else list(given)
    for word in directions:
        if word not in DIRECTIONS:
            raise bad_value("hydra.sweeper.direction", word, DIRECTIONS)
    if len(directions) != len(names):
        raise UserError(
            f"hydra.sweeper.direction=[{','.join(directions)}]: expected one for each of the "
            f"{len(names)} metrics of objective"
        )
    return directions


def make_distribution(override: Override) -> Any:
    """What optuna draws a swept key from: choice, range, interval (with `tag(log, ...)`)."""
    import optuna

    sweep: Any = override.value()
    low: Any
    high: Any
    step: Any
    if isinstance(sweep, ChoiceSweep):
        drawn: list[Any] = list(override.sweep_iterator(transformer=encode_choice))
        return optuna.distributions.CategoricalDistribution(drawn)
    is_log, step = "log" in sweep.tags, None
    if isinstance(sweep, RangeSweep):
        low, high, step = sweep.start, sweep.stop, sweep.step
        if all(isinstance(v, int) for v in (low, high, step)):
            high = low + (high - low - 1) // step * step  # a range leaves its end out
    else:
        assert isinstance(sweep, IntervalSweep)
        low, high = sweep.start, sweep.end
    if isinstance(low, int) and isinstance(high, int):
        return optuna.distributions.IntDistribution(low, high, log=is_log, step=step or 1)
    return optuna.distributions.FloatDistribution(low, high, log=is_log, step=step)


def encode_choice(value: Any) -> Any:
    """A choice as a value that optuna stores."""
    encoded = Transformer.encode(value)
    return encoded if isinstance(encoded, int | float | bool | str | None) else str(encoded)


def list_grid_choices(name: str, distribution: Any) -> list[Any]:
    """All values of a key, for a grid.

    Raises:
        UserError: there are infinitely many.
    """
    if hasattr(distribution, "choices"):
        return list(distribution.choices)
    if getattr(distribution, "step", None) is None:
        raise UserError(f"{name}: hydra.sweeper.sampler=grid takes choices and ranges only")
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    return [distribution.low + i * distribution.step for i in range(count)]


def write_best_runs(study: Any, names: list[str], folder: Path) -> None:
    """Say the best runs and write them to optimization_results.yaml."""
    solutions = [
        {"params": dict(trial.params), "values": dict(zip(names, trial.values, strict=True))}
        for trial in study.best_trials
        if all(map(math.isfinite, trial.values))
    ]
    content = OmegaConf.create({"name": "optuna", "solutions": solutions})
    write_whole_text(folder / "optimization_results.yaml", OmegaConf.to_yaml(content))
    for one in solutions:
        words = (f"{key}={format_drawn_value(value)}" for key, value in one["params"].items())
        figures = (f"{name} {value:.3f}" for name, value in one["values"].items())
        ui.say(f"best: {' '.join(words)}: {', '.join(figures)}")
