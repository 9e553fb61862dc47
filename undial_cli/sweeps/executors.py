"""Runs carried out by Ray or submitit (SLURM), behind the keys of Hydra's own plugins.

Hydra's plugins for these send the program's functions to their processes; here the resolved text of
a run goes out and its outcome comes back, so that one table, resume and error lines hold for all.
Each library is an extra and is imported when its launcher is used.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from undial_cli.errors import Interrupted, UserError, bad_value
from undial_cli.sweeps.jobs import Job, JobOutcome, pack_job, run_job, unpack_outcome
from undial_cli.sweeps.sweep import Executor
from undial_cli.system import signals

PackedJob = dict[str, Any]
# What `run_job` returns of numbered jobs, as they end.
JobAnswers = Iterator[tuple[int, dict[str, Any]]]

# Launchers that are slots on this machine; the last one is Hydra's own.
SLOT_LAUNCHERS = ("slots", "joblib", "hydra._internal.core_plugins.basic_launcher.BasicLauncher")
# Keys that submitit.AutoExecutor takes as they are; the others are the cluster's own.
SUBMITIT_KEYS = (
    "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes",
    "name", "stderr_to_stdout",
)  # fmt: skip


def make_executor(launcher: dict[str, Any], folder: Path) -> Executor | None:
    """Who carries out the runs of a sweep; None: slots on this machine.

    Args:
        launcher: the keys of `hydra.launcher`.
        folder: of the sweep.

    Raises:
        UserError: the launcher is not known, or its library is not installed.
    """
    library = launcher.get("library") or launcher["_target_"]
    if library in SLOT_LAUNCHERS:
        return None
    if library not in SUBMITTERS:
        raise bad_value("hydra/launcher", library, [*SLOT_LAUNCHERS[:2], *SUBMITTERS])
    require_library(library, "hydra/launcher")
    if library == "ray":
        check_ray_resources(launcher["ray"])
    options = {key: value for key, value in launcher.items() if key != "library"}
    return make_remote_executor(partial(SUBMITTERS[library], options, folder))


def require_library(library: str, key: str) -> None:
    """Raise UserError if a library that is an extra is not installed."""
    if find_spec(library) is None:
        raise UserError(f"{key}: {library} is not installed; pip install 'undial[{library}]'")


def names_ray_cluster(init: dict[str, Any]) -> bool:
    """Whether config or environment name a cluster to join; else one is started here."""
    return bool(init.get("address") or os.environ.get("RAY_ADDRESS"))


def check_ray_resources(keys: dict[str, Any]) -> None:
    """Raise UserError for a run that a Ray started here could never carry out: it would wait."""
    if names_ray_cluster(keys["init"]):
        return  # it may grow
    here = {"num_cpus": os.cpu_count() or 1, "num_gpus": torch.cuda.device_count()}
    for name, count in here.items():
        given = keys["init"].get(name)
        most = count if given is None else given
        if (keys["remote"].get(name) or 0) > most:
            allowed = f"at most {most}, what Ray has here; or hydra.launcher.ray.init.address=..."
            raise bad_value(f"hydra.launcher.ray.remote.{name}", keys["remote"][name], allowed)


# What submitit says behind the traceback of a job: where its logs lie.
SUBMITIT_HINT = "You can check full logs"


def make_remote_executor(submit: Callable[[list[PackedJob]], JobAnswers]) -> Executor:
    """Carries out jobs elsewhere; a lost executor is the failure of the runs that it had left."""

    def carry_out(
        jobs: list[Job], started: Callable[[int], None]
    ) -> Iterator[tuple[int, JobOutcome]]:
        left = dict(enumerate(jobs))
        for number in left:
            started(number)  # the cluster does not say when one really begins
        try:
            for number, answer in submit([pack_job(job) for job in jobs]):
                job = left.pop(number)
                yield number, unpack_outcome({"folder": str(job.folder), **answer})
        except Exception as error:
            for number, job in left.items():
                yield number, JobOutcome("failed", job.folder, describe_executor_error(error))

    return carry_out


def make_failed_answer(error: BaseException) -> dict[str, Any]:
    """The answer in place of one that did not come."""
    return {"status": "failed", "reason": describe_executor_error(error), "seconds": 0.0}


def describe_executor_error(error: BaseException) -> str:
    """An executor's error in one line; the last of a remote traceback says what it was."""
    text = str(error).partition(SUBMITIT_HINT)[0]  # submitit frames the traceback with dashes
    lines = [line.strip() for line in text.splitlines() if line.strip(" -")]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


def run_job_silently(packed: PackedJob) -> dict[str, Any]:
    """Carry out a run without a word on the screen; its log has them."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        return run_job(packed)


def submit_to_ray(options: dict[str, Any], folder: Path, packed: list[PackedJob]) -> JobAnswers:
    """A Ray cluster, or one started here."""
    import ray
    from ray.exceptions import RayError

    del folder
    keys = options["ray"]
    ours = not ray.is_initialized()  # a cluster of somebody else stays up
    if ours:
        # By itself Ray joins any cluster of this machine, whoever's, and refuses num_cpus then.
        here = {} if names_ray_cluster(keys["init"]) else {"address": "local"}
        ray.init(**{**keys["init"], **here})
    try:
        task = ray.remote(**keys["remote"])(run_job_silently)
        waiting = {task.remote(one): number for number, one in enumerate(packed)}
        while waiting:
            (ready, *_), _ = ray.wait(list(waiting), num_returns=1)
            number = waiting.pop(ready)
            try:
                yield number, ray.get(ready)
            except RayError as error:
                yield number, make_failed_answer(error)
    finally:
        if ours:
            ray.shutdown()


class ResumableJob:
    """A run that submitit submits again when its time is up: it goes on where it was saved."""

    def __call__(self, packed: PackedJob) -> dict[str, Any]:
        """Carry it out; several tasks of one job are the processes of one run.

        The signal that time is up is the run's first, so that it saves its state; then submitit's.
        """
        import submitit
        from submitit.helpers import TorchDistributedEnvironment

        job = submitit.JobEnvironment()
        if job.num_tasks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        sign, came = getattr(signal, f"SIG{job.USR_SIG}"), []
        submit_again: Any = signal.getsignal(sign)

        def save_first(number: int, frame: Any) -> None:
            came.append(number)
            signals.receive_signal(number, frame)

        signals.install_signal_handlers(quiet=True)
        signal.signal(sign, save_first)
        try:
            return run_job_silently(packed)
        except Interrupted as stop:
            if came:
                submit_again(sign, None)  # ends the job; but for the first task's it returns
                time.sleep(signals.SAVING_SECONDS)
            return make_failed_answer(stop)

    def checkpoint(self, packed: PackedJob) -> Any:
        """What is submitted in its place."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, packed)


def split_submitit_keys(
    given: dict[str, Any], folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What AutoExecutor is made with, and what its update_parameters takes.

    Keys that only one cluster has carry its name; those without a value are submitit's to choose.
    """
    options = {key: value for key, value in given.items() if value is not None}
    cluster = options.pop("cluster")
    log_folder = options.pop("submitit_folder", None) or f"{folder}/.submitit/%j"
    arguments = {"folder": log_folder, "cluster": cluster}
    if "max_num_timeout" in options:  # update_parameters refuses this one
        arguments[f"{cluster}_max_num_timeout"] = options.pop("max_num_timeout")
    shared = {k: v for k, v in options.items() if k in SUBMITIT_KEYS}
    return arguments, shared | {
        f"{cluster}_{k}": v for k, v in options.items() if k not in SUBMITIT_KEYS
    }


def submit_to_submitit(given: dict[str, Any], folder: Path, packed: list[PackedJob]) -> JobAnswers:
    """A SLURM job per run, or processes of this machine."""
    import submitit
    from submitit.helpers import as_completed

    arguments, parameters = split_submitit_keys(given, folder)
    executor = submitit.AutoExecutor(**arguments)
    executor.update_parameters(**parameters)
    jobs = executor.map_array(ResumableJob(), packed)
    for job in as_completed(jobs):
        number = next(n for n, other in enumerate(jobs) if other is job)
        try:
            yield number, job.results()[0]  # all tasks of a run have the same
        except Exception as error:
            yield number, make_failed_answer(error)


SUBMITTERS: dict[str, Callable[[dict[str, Any], Path, list[PackedJob]], JobAnswers]] = {
    "ray": submit_to_ray,
    "submitit": submit_to_submitit,
}
