"""A sweep: its runs, how each ended, and what is shown and written of all of them.

`run_all` carries out composed runs and keeps one table alive on the screen; a Sweep with a folder
also keeps sweep.json and results.csv there up to date. A failed run is a row like any other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table

from undial_cli import ui
from undial_cli.config.schema import TrainingRun
from undial_cli.evaluation import results as store
from undial_cli.reporting.collect import RunRecord, make_sweep_text
from undial_cli.reporting.sheet import format_csv
from undial_cli.reporting.summary import make_sweep_table
from undial_cli.sweeps.jobs import Job, Outcome, pack_job, run_job, unpack_outcome
from undial_cli.sweeps.slots import run_in_slots
from undial_cli.system import processes
from undial_cli.system.files import write_whole_text

# Carries out jobs, tells when each begins, yields (number of the job, outcome) as they end.
Executor = Callable[[list[Job], Callable[[int], None]], Iterator[tuple[int, Outcome]]]


@dataclass
class SweepRun:
    """A run of a sweep and what is known of it."""

    job: Job
    status: str = "waiting"
    reason: str = ""
    seconds: float = 0.0
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where the run is, or would be."""
        return self.job.folder

    def end(self, found: Outcome) -> None:
        """Take over how the run ended."""
        self.status, self.reason, self.seconds = found.status, found.reason, found.seconds
        if found.status == "done":
            self.results = store.read_results_json(self.folder / "evaluation")

    def record(self) -> RunRecord:
        """What reports read of the run."""
        return RunRecord(
            self.folder, self.status, self.reason, round(self.seconds, 1), self.job.label,
            values=self.job.values,
        )  # fmt: skip

    def state(self) -> str:
        """The status in words, with the last logged step of one that runs."""
        if self.status in ("failed", "refused"):
            return f"{self.status}: {self.reason}"
        if self.status != "running":
            return self.status
        step = read_last_step(self.folder / "metrics.jsonl")
        return f"running, step {step}" if step else "running"


@dataclass
class Sweep:
    """Runs that belong together; `folder`: where sweep.json and results.csv go, None: nowhere."""

    title: str
    command: str = ""
    words: list[str] = field(default_factory=list)
    folder: Path | None = None
    rows: list[SweepRun] = field(default_factory=list)

    def run(self, jobs: list[Job], executor: Executor | None = None) -> list[Outcome]:
        """Carry out jobs and add them to the rows; outcomes in the order of the jobs.

        Raises:
            UserError: there are not the GPUs that a run asks for.
        """
        rows = [SweepRun(job) for job in jobs]
        self.rows += rows
        outcomes: dict[int, Outcome] = {}

        def started(number: int) -> None:
            rows[number].status = "running"
            if is_plan_only(jobs[number]):
                ui.say(jobs[number].label, "bold")

        with self.watched():
            for number, found in (executor or choose_executor(jobs))(jobs, started):
                rows[number].end(found)
                outcomes[number] = found
                self.say(rows[number])
                self.write()
        return [outcomes[number] for number in range(len(jobs))]

    def say(self, row: SweepRun) -> None:
        """One line for a run that ended."""
        if row.status != "done":
            ui.print_error(f"{row.job.label}: {row.reason}")
        elif not (is_plan_only(row.job) or ui.make_console().is_terminal):
            ended = sum(r.status not in ("waiting", "running") for r in self.rows)
            ui.say(f"{ended}/{len(self.rows)} {row.job.label}: {row.seconds:.0f} s")

    def table(self) -> Table:
        """All runs and their main metrics; target and retain model above, where they are shared."""
        runs = [
            dataclasses.replace(row.record(), status=row.state(), results=row.results)
            for row in self.rows
        ]
        return make_sweep_table(runs, self.title)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """On a terminal: the table, alive."""
        console = ui.make_console()
        if not (ui.is_speaker() and console.is_terminal) or has_plans(self.rows):
            yield
            return
        with Live(get_renderable=self.table, console=console, refresh_per_second=1, transient=True):
            yield

    def write(self) -> None:
        """sweep.json and results.csv, whole or not at all; nothing while all were refused."""
        refused = all(row.status == "refused" for row in self.rows)
        if self.folder is None or refused or not ui.is_speaker() or has_plans(self.rows):
            return
        runs = [row.record() for row in self.rows]
        content = make_sweep_text(self.command, self.words, self.title, runs, self.folder)
        write_whole_text(self.folder / "sweep.json", content)
        write_whole_text(self.folder / "results.csv", self.csv())

    def csv(self) -> str:
        """A row per run: label, swept keys, status, reason, folder, every metric."""
        keys = list(dict.fromkeys(key for row in self.rows for key in row.job.values))
        figures = [row.results.get("metrics", {}) for row in self.rows]
        names = list(dict.fromkeys(name for found in figures for name in found))
        rows = [["run", *keys, "status", "reason", "folder", *names]]
        for row, found in zip(self.rows, figures, strict=True):
            values = [row.job.values.get(key, "") for key in keys]
            ended = [row.status, row.reason, str(row.folder)]
            rows.append([row.job.label, *values, *ended, *(found.get(n) for n in names)])
        return format_csv(rows)

    def report(self) -> None:
        """Pictures and page of all runs, where they are wanted and there is something to show."""
        wanted = all(row.job.run.report for row in self.rows)
        if wanted and self.folder is not None and (self.folder / "sweep.json").is_file():
            from undial_cli.reporting.report import try_write_report

            page = try_write_report([self.folder], self.folder / "report")
            ui.say(f"report: {page}" if page else f"everything is in {self.folder}")

    def conclude(self) -> int:
        """Show the table, make the report; the exit code: of the worst of the runs."""
        if self.rows and not has_plans(self.rows):
            self.write()
            ui.say(self.table())
            self.report()
        worst = {"refused": 2, "failed": 1}
        return max((worst.get(row.status, 0) for row in self.rows), default=0)


def run_jobs(jobs: list[Job], title: str) -> list[Outcome]:
    """Carry out composed runs side by side, with a live table; outcomes in their order.

    A finished run is not run again and a failed one ends nothing.

    Args:
        jobs: runs of one kind of hardware, whose first says how many run side by side.
        title: of the table.
    """
    return Sweep(title).run(jobs) if jobs else []


def choose_executor(jobs: list[Job]) -> Executor:
    """In slots; in this process where it is one of several itself, or where plans are printed."""
    alone = processes.is_launched() or any(is_plan_only(job) for job in jobs)
    return run_one_by_one if alone else run_in_slots


def run_one_by_one(
    jobs: list[Job], started: Callable[[int], None]
) -> Iterator[tuple[int, Outcome]]:
    """Carry out jobs in this process."""
    for number, job in enumerate(jobs):
        started(number)
        yield number, unpack_outcome(run_job(pack_job(job)))


def is_plan_only(job: Job) -> bool:
    """Whether a job only prints what it would take."""
    return isinstance(job.run, TrainingRun) and job.run.plan


def has_plans(rows: list[SweepRun]) -> bool:
    """Whether the runs only print what they would take."""
    return any(is_plan_only(row.job) for row in rows)


def read_last_step(metrics: Path) -> int | None:
    """The last step in a metrics.jsonl, if there is one."""
    try:
        with open(metrics, "rb") as file:
            file.seek(max(0, metrics.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
        return int(json.loads(lines[-1])["step"])
    except (OSError, ValueError, KeyError, IndexError):
        return None
