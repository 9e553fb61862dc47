"""`--multirun`: from the words of a command line to its runs, who carries them out, and the table.

`hydra/launcher=NAME` says who, `hydra/sweeper=optuna` that the next runs follow from the figures of
those before. The runs of a batch are composed before the first one begins, so that what is wrong is
said at once; processes that carry out runs get the resolved text and know nothing of Hydra.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from undial_cli.config.identity import KEYS_WITHOUT_RESULTS, collect_identity, hash_json
from undial_cli.config.schema import Run, TrainingRun
from undial_cli.errors import UserError, bad_value
from undial_cli.evaluation.selection_rule import SELECTION, score_choice
from undial_cli.reporting.collect import RunRecord, get_part
from undial_cli.runs import config_errors
from undial_cli.runs.compose import compose_run, translate_words
from undial_cli.runs.hydra_configs import (
    COMPOSITION_ERRORS,
    compose_config,
    is_group_choice,
    start_hydra,
)
from undial_cli.runs.trust import check_file_words, is_said, refuse_variables
from undial_cli.sweeps.executors import make_executor
from undial_cli.sweeps.jobs import Job
from undial_cli.sweeps.optimise import BatchRunner, run_study
from undial_cli.sweeps.sweep import Executor, Sweep


def run_sweep(command: str, words: list[str], folder: str | None) -> int:
    """Carry out all runs that the words of a command line describe; the exit code.

    Args:
        folder: of the user, with more config groups.

    Raises:
        UserError: one of the runs is wrong; none of its batch has begun.
    """
    words = translate_words(command, words, folder, aloud=True)
    try:
        launcher, sweeper, overrides = parse_sweep_words(command, words, folder)
        searches = sweeper.get("library") == "optuna"
        batches = [] if searches else BasicSweeper.split_arguments(
            overrides, sweeper.get("max_batch_size")
        )  # fmt: skip
    except COMPOSITION_ERRORS as error:
        raise config_errors.explain_composition_error(error, command, words) from error
    sweep = make_sweep(command, words)
    carry_out = make_batch_runner(sweep, launcher, folder)
    if searches:
        fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
        names = compose_run(command, fixed, folder).objective
        assert sweep.folder is not None
        run_study(sweeper, overrides, names, carry_out, sweep.folder)
    for batch in batches:
        carry_out(batch)
    return sweep.conclude()


def make_batch_runner(sweep: Sweep, launcher: dict[str, Any], folder: str | None) -> BatchRunner:
    """What carries out the runs of a batch of words, as the keys of the launcher say."""
    assert sweep.folder is not None
    joblib = launcher.get("library") == "joblib"
    slots = [f"hardware.slots={count_slots(launcher['n_jobs'])}"] if joblib else []
    return partial(run_batch, sweep, make_executor(launcher, sweep.folder), folder, slots)


@refuse_variables()
def parse_sweep_words(
    command: str, words: list[str], folder: str | None
) -> tuple[dict[str, Any], dict[str, Any], list[Override]]:
    """Keys of the launcher, keys of the sweeper, and what is said of the runs."""
    start_hydra(folder)
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides(words)
    for override in overrides:
        if override.is_hydra_override() and override.is_sweep_override():
            raise UserError(f"{override.input_line}: how runs are carried out cannot be swept")
    # the launcher's and the sweeper's keys may come from an experiment: its choice is composed too
    fixed = [o for o in overrides if is_group_choice(o, folder) and not o.is_sweep_override()]
    chosen = [str(o.input_line) for o in fixed]
    settings = compose_config(command, chosen, folder, with_hydra=True).hydra
    launcher: Any = OmegaConf.to_container(settings.launcher, resolve=True)
    sweeper: Any = OmegaConf.to_container(settings.sweeper, resolve=True)
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    of_files = [word for word in params if not is_said(f"hydra.sweeper.params.{word}", words)]
    check_file_words(of_files, "hydra.sweeper.params")
    of_runs = [o for o in overrides if not o.is_hydra_override()]
    return launcher, sweeper, [*parser.parse_overrides(params), *of_runs]


def run_batch(
    sweep: Sweep,
    executor: Executor | None,
    folder: str | None,
    more: list[str],
    batch: Sequence[Sequence[str]],
) -> list[float | list[float] | None]:
    """Compose runs and carry them out; what a sweeper optimises, of each.

    Args:
        executor: who carries them out; None: slots on this machine.
        more: words for every run that are not part of its name.
        batch: the words of each run.
    """
    jobs = [compose_job(sweep, list(words), more, folder) for words in batch]
    check_distinct_folders([*(run.job for run in sweep.runs), *jobs])
    sweep.run(jobs, executor)
    ended = sweep.runs[-len(jobs) :]
    return [read_objective(run.job, list_objectives(run.record)) for run in ended]


def compose_job(sweep: Sweep, words: list[str], more: list[str], folder: str | None) -> Job:
    """The run that a sweeper's words describe."""
    run = compose_run(sweep.command, [*words, *more], folder)
    check_objective(run)
    values = list_swept_values(words, sweep.words)
    label = " ".join(f"{key}={value}" for key, value in values.items()) or " ".join(words)
    return Job(label or sweep.command, run, values)


def count_slots(n_jobs: int) -> int:
    """Runs at once by joblib's count: -1 is one for each core, -2 one less, and so on."""
    return n_jobs if n_jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + n_jobs)


def list_swept_values(words: list[str], given: list[str]) -> dict[str, str]:
    """The keys of a run's overrides that the command line did not fix, with their values."""
    parser = OverridesParser.create()
    fixed = {o.key_or_group for o in parser.parse_overrides(given) if not o.is_sweep_override()}
    return {
        override.key_or_group: str(override.get_value_element_as_str())
        for override in parser.parse_overrides(words)
        if override.key_or_group not in fixed
    }


def check_distinct_folders(jobs: list[Job]) -> None:
    """Raise UserError if runs that differ would go to one folder."""
    run_by_folder: dict[Path, Run] = {}
    for job in jobs:
        other = run_by_folder.setdefault(job.folder, job.run)
        if other is not job.run and collect_identity(other) != collect_identity(job.run):
            raise UserError(
                f"name={job.run.name}: the runs of a sweep would all go to this folder; leave name "
                "out, or sweep it as well"
            )


def check_objective(run: Run) -> None:
    """Raise UserError for an objective that the run's evaluation does not give."""
    suite = run.eval
    given = [f"{name}_{m}" for name, s in suite.sets.items() for m in s.metrics]
    given += [*suite.metrics, *suite.combine]
    if given and isinstance(run, TrainingRun) and run.train.select is not None:
        given.append(SELECTION)
    for name in run.objective:
        if not given:
            raise UserError(f"objective={name}: nothing is evaluated with eval={suite.name}")
        if name not in given and not suite.harness.tasks:
            raise bad_value("objective", name, given)


def list_objectives(record: RunRecord) -> dict[str, Any]:
    """What a sweeper may optimise of a run: its figures, and the score of the chosen step."""
    chosen = get_part(record.results, SELECTION)
    return {**record.figures(), **({SELECTION: score_choice(chosen)} if chosen else {})}


def read_objective(job: Job, metrics: dict[str, float]) -> float | list[float] | None:
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


def make_sweep(command: str, words: list[str]) -> Sweep:
    """The sweep of a command line: its folder follows from what is swept, not from where."""
    fixed = {key: value for key, _, value in (word.partition("=") for word in words)}
    skipped = ("hydra/launcher", "hydra.launcher", "hydra.sweeper.n_", *KEYS_WITHOUT_RESULTS)
    # sorted: the same sweep in another order goes on in the same folder
    telling = sorted(word for word in words if not word.lstrip("+").startswith(skipped))
    sweeps = Path(fixed.get("output_dir", "outputs")).expanduser() / "sweep"
    given = fixed.get("hydra.sweep.dir")
    folder = Path(given) if given else sweeps / f"{command}-{hash_json(telling)}"
    return Sweep(f"{command}: {' '.join(words)}", command, words, folder)
