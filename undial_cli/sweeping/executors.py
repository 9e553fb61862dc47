"""Runs carried out by joblib, Ray or submitit (SLURM), behind the keys of Hydra's own plugins.

Hydra's plugins for these send the program's functions to their processes; here the resolved text of
a run goes out and its outcome comes back, so that one table, resume and error lines hold for all.
Each library is an extra and is imported when its launcher is used.
"""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

from omegaconf import OmegaConf

from undial_cli.errors import UserError
from undial_cli.run_folder import folder_of
from undial_cli.sweeping.job import Job, Outcome, fulfil, order, outcome
from undial_cli.sweeping.launchers import SweepLauncher
from undial_cli.sweeping.sweep import Executor

Answers = Iterator[tuple[int, dict[str, Any]]]


def silently(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out a run without a word on the screen; its log has them."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return fulfil(order)


def numbered(number: int, order: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """The same, with the run's number beside the answer."""
    return number, silently(order)


def reason_of(error: Exception) -> str:
    """An executor's error in one line; the last of a remote traceback says what it was."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


class RemoteLauncher(SweepLauncher):
    """What the launchers share: their keys, and that a lost process is the failure of its runs."""

    __module__ = "hydra_plugins.undial"
    library = ""

    def __init__(self, **options: Any) -> None:
        self.options: dict[str, Any] = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in options.items()
        }

    def executor(self) -> Executor:
        """Carries out jobs through the library.

        Raises:
            UserError: the library is not installed.
        """
        try:
            __import__(self.library)
        except ImportError as error:
            raise UserError(
                f"hydra/launcher: {self.library} is not installed; pip install "
                f"'undial[{self.library}]'"
            ) from error

        def carry_out(
            jobs: list[Job], started: Callable[[int], None]
        ) -> Iterator[tuple[int, Outcome]]:
            left = set(range(len(jobs)))
            for number in left:
                started(number)
            try:
                for number, answer in self.answers([order(job) for job in jobs]):
                    left.discard(number)
                    folder = folder_of(jobs[number].run).path
                    yield number, outcome({"folder": str(folder), **answer})
            except Exception as error:
                for number in sorted(left):
                    folder = folder_of(jobs[number].run).path
                    yield number, Outcome("failed", folder, reason_of(error))

        return carry_out

    @abstractmethod
    def answers(self, orders: list[dict[str, Any]]) -> Answers:
        """Answers of `fulfil` to numbered orders, as they come."""

    def failed(self, error: Exception) -> dict[str, Any]:
        """The answer in place of one that did not come."""
        return {"status": "failed", "reason": reason_of(error), "seconds": 0.0}


class JoblibLauncher(RemoteLauncher):
    """`hydra/launcher=joblib`: processes of this machine, or of a backend that joblib knows."""

    __module__ = "hydra_plugins.undial"
    library = "joblib"

    def answers(self, orders: list[dict[str, Any]]) -> Answers:
        """See RemoteLauncher."""
        from joblib import Parallel, delayed

        pool = Parallel(return_as="generator_unordered", **self.options)
        answers: Any = pool(delayed(numbered)(n, one) for n, one in enumerate(orders))
        yield from answers


class RayLauncher(RemoteLauncher):
    """`hydra/launcher=ray`: a Ray cluster, or one started here."""

    __module__ = "hydra_plugins.undial"
    library = "ray"

    def answers(self, orders: list[dict[str, Any]]) -> Answers:
        """See RemoteLauncher."""
        import ray
        from ray.exceptions import RayError

        keys = self.options["ray"]
        ours = not ray.is_initialized()
        if ours:
            ray.init(**keys["init"])
        try:
            task = ray.remote(**keys["remote"])(silently)
            waiting = {task.remote(one): number for number, one in enumerate(orders)}
            while waiting:
                (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
                number = waiting.pop(ready)
                try:
                    yield number, ray.get(ready)
                except RayError as error:
                    yield number, self.failed(error)
        finally:
            if ours:
                ray.shutdown()


class Resumable:
    """A run that submitit may submit again when its time is up: it goes on where it was saved."""

    def __call__(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out the run."""
        return silently(order)

    def checkpoint(self, order: dict[str, Any]) -> Any:
        """What is submitted in its place."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, order)


class SubmititLauncher(RemoteLauncher):
    """`hydra/launcher=submitit_slurm` (a SLURM job per run) and `submitit_local` (processes)."""

    __module__ = "hydra_plugins.undial"
    library = "submitit"
    # Keys that AutoExecutor takes as they are; the others are the cluster's own.
    SHARED = (
        "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes",
        "name", "stderr_to_stdout",
    )  # fmt: skip

    def answers(self, orders: list[dict[str, Any]]) -> Answers:
        """See RemoteLauncher."""
        import submitit
        from submitit.helpers import as_completed

        options = {key: value for key, value in self.options.items() if value is not None}
        cluster = options.pop("cluster")
        folder = options.pop("submitit_folder", None) or f"{self.sweep.folder}/.submitit/%j"
        retries = options.pop("max_num_timeout", None)
        first = {} if retries is None else {f"{cluster}_max_num_timeout": retries}
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **first)
        executor.update_parameters(
            **{k if k in self.SHARED else f"{cluster}_{k}": v for k, v in options.items()}
        )
        jobs = executor.map_array(Resumable(), orders)
        for job in as_completed(jobs):
            number = next(n for n, other in enumerate(jobs) if other is job)
            try:
                yield number, job.result()
            except Exception as error:
                yield number, self.failed(error)
