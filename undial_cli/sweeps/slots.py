"""Runs side by side on one machine: each slot has its GPUs, or its share of the CPU's cores.

A slot is a process that carries out one run after the other; one that dies, or whose run failed, is
replaced. Knows packed jobs and outcomes, and nothing of what a run is.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from undial_cli.config.schema import Run
from undial_cli.errors import UserError
from undial_cli.runs.run_folder import RunFolder
from undial_cli.sweeps.jobs import Job, JobOutcome, pack_job, unpack_outcome
from undial_cli.system import signals
from undial_cli.system.scratch import make_scratch_folder
from undial_cli.system.supervision import Watch, make_child_environment

# A run of several processes ends those that hang itself; beyond that its own process hangs.
GRACE_SECONDS = 90
# What a process that is told to end has for it.
END_SECONDS = 5


def make_slot_environments(run: Run) -> list[dict[str, str]]:
    """What each slot's process finds in its environment, for runs like this one.

    Raises:
        UserError: a run asks for more GPUs than there are.
    """
    asked, gpus = run.hardware, list_visible_gpus(run)
    if gpus:
        each = asked.gpus_per_run or len(gpus)
        if each > len(gpus):
            raise UserError(
                f"hardware.gpus_per_run={each}: allowed is up to {len(gpus)}, the visible GPUs"
            )
        groups = [gpus[i : i + each] for i in range(0, len(gpus) - each + 1, each)]
        groups = groups[: asked.slots] if asked.slots else groups
        return [{"CUDA_VISIBLE_DEVICES": ",".join(group)} for group in groups]
    slots = asked.slots or 1
    if slots == 1:
        return [{}]
    threads = max(1, (os.cpu_count() or 1) // slots // (asked.num_processes or 1))
    return [{"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}] * slots


def list_visible_gpus(run: Run) -> list[str]:
    """The GPUs that runs may use, as CUDA_VISIBLE_DEVICES names them; none for runs on the CPU."""
    if run.hardware.name == "cpu":
        return []
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return (named if len(named) >= count and named[0] else [str(i) for i in range(count)])[:count]


class Slot:
    """One slot's process, started when it is first needed."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.process: subprocess.Popen[str] | None = None
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self.scratch = make_scratch_folder()
        self.beats = Path(self.scratch.name) / "beat"

    def start(self) -> subprocess.Popen[str]:
        """The process, alive."""
        if self.process is None:
            self.errors.seek(0)
            self.errors.truncate()
            self.beats.write_bytes(b"")
            self.process = subprocess.Popen(
                [sys.executable, "-m", "undial_cli.sweeps.slot_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,  # a file: a pipe that nobody reads would fill and block it
                text=True,
                encoding="utf-8",
                env={
                    **os.environ,
                    **self.environment,
                    **make_child_environment(self.beats),
                },
                start_new_session=True,  # Ctrl-C reaches the parent, which ends it
            )
        return self.process

    def run(self, job: Job) -> JobOutcome:
        """Have a job carried out; that its process died or hung meanwhile is its failure."""
        process = self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        answer, watch = "", Watch({0: self.beats})
        limit = job.run.hardware.timeout + GRACE_SECONDS
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(pack_job(job)) + "\n")
            process.stdin.flush()
            if not wait_for_answer(process.stdout, watch, limit):
                return self.fail(job, f"its process {watch.describe_silence(0)}")
            answer = process.stdout.readline()
        if not answer.endswith("\n"):
            return self.fail(job, self.explain_death(process.wait()))
        outcome = unpack_outcome(json.loads(answer))
        if outcome.status == "failed":
            self.end()  # what it holds of a GPU's memory goes with it
        return outcome

    def fail(self, job: Job, reason: str) -> JobOutcome:
        """End the process, and note the failure where the run itself no longer can."""
        self.end()
        folder = RunFolder(job.folder)
        if folder.status() in ("planned", "running"):
            with contextlib.suppress(OSError):  # the disk may be what failed
                folder.set_status("failed", reason)
        return JobOutcome("failed", job.folder, reason)

    def explain_death(self, code: int) -> str:
        """Why the process is gone: the signal that ended it, or its last words."""
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors if line.strip()]
        stop = signals.find_signal(code)
        if stop is not None:
            return f"its process was interrupted by {stop.name}"
        if code < 0:
            want = ", for want of memory perhaps" if code == -signal.SIGKILL else ""
            return f"its process was ended by {signal.Signals(-code).name}{want}"
        return f"its process ended with exit code {code}" + (f": {lines[-1]}" if lines else "")

    def ask_to_end(self) -> None:
        """Have the run under way saved and ended; `end` waits for it."""
        process = self.process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)

    def end(self, grace: float = END_SECONDS) -> None:
        """End the process and what it started, after `grace` seconds by force."""
        self.ask_to_end()
        process, self.process = self.process, None
        if process is None:
            return
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for a dead disk
                process.wait(END_SECONDS)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def wait_for_answer(answers: IO[str], watch: Watch, limit: float) -> bool:
    """Whether an answer, or the end of the process, comes before it hangs for `limit` seconds."""
    while not select.select([answers], [], [], 1)[0]:
        watch.look()
        if watch.measure_silence() > limit:
            return False
    return True


def run_in_slots(
    jobs: list[Job], started: Callable[[int], None]
) -> Iterator[tuple[int, JobOutcome]]:
    """Carry out jobs side by side; yields (number of the job, outcome) as they end.

    Args:
        started: told the number of each job that begins.
    """
    environments = make_slot_environments(jobs[0].run)[: len(jobs)]
    slots = [Slot(environment) for environment in environments]
    over = threading.Event()
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    ended: queue.SimpleQueue[tuple[int, JobOutcome | BaseException]] = queue.SimpleQueue()
    for number in range(len(jobs)):
        waiting.put(number)

    def serve(slot: Slot) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                number = waiting.get_nowait()
                started(number)
                try:
                    ended.put((number, slot.run(jobs[number])))
                except BaseException as error:
                    # raised where the sweep waits: here it would end this thread only
                    ended.put((number, error))
        over.wait()  # a process goes when the thread that started it does

    signals.raise_signals()
    threads = [threading.Thread(target=serve, args=(slot,), daemon=True) for slot in slots]
    try:
        for thread in threads:
            thread.start()
        for _ in jobs:
            number, outcome = ended.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield number, outcome
    finally:
        # nothing new begins, and what runs is ended: the caller was interrupted
        with contextlib.suppress(queue.Empty):
            while True:
                waiting.get_nowait()
        for slot in slots:
            slot.ask_to_end()
        for slot in slots:
            slot.end(signals.SAVING_SECONDS)
        over.set()
