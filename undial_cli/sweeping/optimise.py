"""`hydra/sweeper=optuna`: the next runs follow from the figures of those before.

Takes the keys of Hydra's own plugin, which is bound to an optuna of years ago. The study is kept in
the sweep's folder: the same command goes on with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
    Transformer,
)
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from undial_cli import ui
from undial_cli.cache import write_text
from undial_cli.errors import UserError, bad_value
from undial_cli.sweeping.launchers import SweepLauncher

SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "grid": "GridSampler",
    "cmaes": "CmaEsSampler",
    "nsgaii": "NSGAIISampler",
}
DIRECTIONS = ("minimize", "maximize")


class OptunaSweeper(Sweeper):
    """Asks an optuna study for runs, has them carried out, tells it what they gave."""

    __module__ = "hydra_plugins.undial"

    def __init__(self, **options: Any) -> None:
        self.options: dict[str, Any] = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in options.items()
        }

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra."""
        self.context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the study to `n_trials` runs.

        Raises:
            UserError: objective, direction, sampler or a parameter is wrong.
        """
        assert self.config is not None
        assert self.context is not None
        names = list(self.config.objective)
        directions = directions_of(self.options["direction"], names)
        given = [f"{key}={value}" for key, value in (self.options["params"] or {}).items()]
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        known = {o.get_key_element(): o for o in parser.parse_overrides([*given, *arguments])}
        fixed = [
            f"{key}={o.get_value_element_as_str()}"
            for key, o in known.items()
            if not o.is_sweep_override()
        ]
        space = {key: distribution(o) for key, o in known.items() if o.is_sweep_override()}
        if not space:
            raise UserError("hydra/sweeper=optuna: no key to search, such as seed=range(0,5)")
        folder = SweepLauncher.sweep.folder
        assert folder is not None
        study = self.study(folder, directions, space)
        self.carry_out(study, fixed, space)
        conclude(study, names, folder)

    def study(self, folder: Path, directions: list[Any], space: dict[str, Any]) -> Any:
        """The study of this sweep, as far as it has come."""
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = self.options["storage"]
        if storage is None:
            folder.mkdir(parents=True, exist_ok=True)
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / "study.log")))
        study = optuna.create_study(
            storage=storage,
            study_name=self.options["study_name"] or folder.name,
            directions=directions,
            load_if_exists=True,
        )
        kind = self.options["sampler"]
        if kind not in SAMPLERS:
            raise bad_value("hydra.sweeper.sampler", kind, SAMPLERS)
        options = dict(self.options["sampler_args"] or {})
        options.setdefault("seed", self.options["seed"] + len(study.trials))
        if kind == "grid":
            options["search_space"] = {name: choices(name, d) for name, d in space.items()}
        study.sampler = getattr(optuna.samplers, SAMPLERS[kind])(**options)
        return study

    def carry_out(self, study: Any, fixed: list[str], space: dict[str, Any]) -> None:
        """Runs of before into the table; those that were cut off, and new ones, until all are."""
        from optuna.trial import TrialState

        ended = [t for t in study.trials if t.state.is_finished()]
        cut = [t for t in study.trials if t.state == TrialState.RUNNING]
        if ended:
            self.launch(fixed, [t.params for t in ended], 0)
        while len(study.trials) < self.options["n_trials"] or cut:
            size = self.options["n_jobs"]
            batch, cut = cut[:size], cut[size:]
            asked = min(size - len(batch), self.options["n_trials"] - len(study.trials))
            batch += [study.ask(space) for _ in range(asked)]
            values = self.launch(fixed, [t.params for t in batch], len(study.trials))
            for trial, found in zip(batch, values, strict=True):
                if any(math.isnan(value) for value in found):
                    study.tell(trial.number, state=TrialState.FAIL)
                else:
                    study.tell(trial.number, found)

    def launch(
        self, fixed: list[str], batch: Sequence[dict[str, Any]], number: int
    ) -> list[list[float]]:
        """The objectives of runs with these values."""
        words = [[*fixed, *(f"{key}={said(value)}" for key, value in one.items())] for one in batch]
        assert self.launcher is not None
        found = [answer.return_value for answer in self.launcher.launch(words, number)]
        return [value if isinstance(value, list) else [value] for value in found]


def said(value: Any) -> str:
    """A drawn value as an override; numbers to six digits, which a person can read and repeat."""
    if value is None:
        return "null"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def directions_of(given: Any, names: list[str]) -> list[str]:
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


def distribution(override: Override) -> Any:
    """What optuna draws a swept key from: choice, range, interval (with `tag(log, ...)`)."""
    import optuna

    sweep: Any = override.value()
    low: Any
    high: Any
    step: Any
    if isinstance(sweep, ChoiceSweep):
        drawn: list[Any] = list(override.sweep_iterator(transformer=plain))
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


def plain(value: Any) -> Any:
    """A choice as a value that optuna stores."""
    found = Transformer.encode(value)
    return found if isinstance(found, int | float | bool | str | None) else str(found)


def choices(name: str, distribution: Any) -> list[Any]:
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


def conclude(study: Any, names: list[str], folder: Path) -> None:
    """Say the best runs and write them to optimization_results.yaml."""
    best = study.best_trials
    found = [
        {"params": dict(trial.params), "values": dict(zip(names, trial.values, strict=True))}
        for trial in best
    ]
    write_text(
        folder / "optimization_results.yaml",
        OmegaConf.to_yaml(OmegaConf.create({"name": "optuna", "solutions": found})),
    )
    for one in found:
        words = " ".join(f"{key}={said(value)}" for key, value in one["params"].items())
        figures = ", ".join(f"{name} {value:.3f}" for name, value in one["values"].items())
        ui.say(f"best: {words}: {figures}")
