"""Hydra's launchers: how the runs of `--multirun` are carried out, behind `hydra/launcher=NAME`.

The parent composes every run before the first one begins, so that what is wrong is said at once;
processes that carry out runs get the resolved text and know nothing of Hydra.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from undial_cli.compose import to_run
from undial_cli.errors import UserError, bad_value
from undial_cli.run_folder import folder_of
from undial_cli.schema import NOT_IN_HASH, Run, digest, identity
from undial_cli.sweeping.job import Job
from undial_cli.sweeping.sweep import Executor, Sweep


class SweepLauncher(Launcher):
    """Composes the runs of a batch, has them carried out, returns what a sweeper optimises."""

    __module__ = "hydra_plugins.undial"
    sweep: Sweep  # of this command; set before Hydra starts

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra."""
        self.context, self.config = hydra_context, config

    def executor(self) -> Executor | None:
        """What carries out the runs; None: slots on this machine."""
        return None

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Carry out a batch of the sweep.

        Raises:
            UserError: one of its runs is wrong; none has begun.
        """
        jobs = [self.compose(list(words)) for words in job_overrides]
        check_folders([*(row.job for row in self.sweep.rows), *jobs])
        outcomes = self.sweep.run(jobs, self.executor())
        rows = self.sweep.rows[-len(jobs) :]
        answers = []
        for words, job, row, _ in zip(job_overrides, jobs, rows, outcomes, strict=True):
            answer = JobReturn(overrides=list(words), status=JobStatus.COMPLETED)
            answer.return_value = objective(job, row.results.get("metrics", {}))
            answers.append(answer)
        return answers

    def compose(self, words: list[str]) -> Job:
        """The run that a sweeper's overrides describe."""
        config = self.context.config_loader.load_sweep_config(self.config, words)
        with open_dict(config):
            del config["hydra"]
        values = swept(words, self.sweep.words)
        label = " ".join(f"{key}={value}" for key, value in values.items()) or " ".join(words)
        run = to_run(config)
        check_objective(run)
        return Job(label or self.sweep.command, run, values)


def swept(words: list[str], given: list[str]) -> dict[str, str]:
    """The keys of a run's overrides that the command line did not fix, with their values."""
    parser = OverridesParser.create()
    fixed = {o.key_or_group for o in parser.parse_overrides(given) if not o.is_sweep_override()}
    found = {}
    for override in parser.parse_overrides(words):
        if override.key_or_group not in fixed:
            found[override.key_or_group] = str(override.get_value_element_as_str())
    return found


def check_folders(jobs: list[Job]) -> None:
    """Raise UserError if runs that differ would go to one folder."""
    found: dict[Path, Run] = {}
    for job in jobs:
        other = found.setdefault(folder_of(job.run).path, job.run)
        if other is not job.run and identity(other) != identity(job.run):
            raise UserError(
                f"name={job.run.name}: the runs of a sweep would all go to this folder; leave name "
                "out, or sweep it as well"
            )


def check_objective(run: Run) -> None:
    """Raise UserError for an objective that the run's evaluation does not give."""
    suite = run.eval
    given = [f"{name}_{m}" for name, s in suite.sets.items() for m in s.metrics] + suite.metrics
    for name in run.objective:
        if not given:
            raise UserError(f"objective={name}: nothing is evaluated with eval={suite.name}")
        if name not in given and not suite.harness.tasks:
            raise bad_value("objective", name, given)


def objective(job: Job, metrics: dict[str, float]) -> float | list[float] | None:
    """What a sweeper optimises, NaN where a run did not end with it; None where nothing is asked.

    Raises:
        UserError: the run has other metrics only.
    """
    names = job.run.objective
    unknown = [name for name in names if name not in metrics]
    if metrics and unknown:
        raise bad_value("objective", unknown[0], metrics)
    values = [float(v) if (v := metrics.get(n)) is not None else math.nan for n in names]
    return (values if len(values) > 1 else values[0]) if values else None


def sweep_of(command: str, words: list[str]) -> Sweep:
    """The sweep of a command line: its folder follows from what is swept, not from where."""
    fixed = {key: value for key, _, value in (word.partition("=") for word in words)}
    skipped = ("hydra/launcher", "hydra.launcher", "hydra.sweeper.n_", *NOT_IN_HASH)
    what = sorted(word for word in words if not word.lstrip("+").startswith(skipped))
    given = fixed.get("hydra.sweep.dir")
    place = Path(fixed.get("output_dir", "outputs")).expanduser() / "sweep"
    folder = Path(given) if given else place / f"{command}-{digest(what)}"
    return Sweep(f"{command}: {' '.join(words)}", command, words, folder)
