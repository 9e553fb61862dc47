"""A sweep: its runs, how each ended, and what is shown and written of all of them.

`run_jobs` carries out composed runs and shows one table of them, alive, on the screen; a Sweep with
a folder also rewrites sweep.json and results.csv there after every run. A failed run is a row like
any other. Knows no launcher.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.live import Live
from rich.table import Table

from undial_cli import ui
from undial_cli.config.schema import TrainingRun
from undial_cli.evaluation import results as store
from undial_cli.reporting.collect import RunRecord, make_sweep_text
from undial_cli.reporting.notes import read_verdict
from undial_cli.reporting.sheet import format_csv
from undial_cli.reporting.summary import make_sweep_table
from undial_cli.runs.evidence import settle_ledgers
from undial_cli.sweeps.jobs import EXIT_CODES, Job, JobOutcome, pack_job, run_job, unpack_outcome
from undial_cli.sweeps.slots import run_in_slots
from undial_cli.system import launcher_environment
from undial_cli.system.files import parse_json, write_whole_text

# Carries out jobs, tells when each begins, yields (number of the job, outcome) as they end.
Executor = Callable[[list[Job], Callable[[int], None]], Iterator[tuple[int, JobOutcome]]]

# Of those that run, as many stand in a line.
SHOWN_RUNS = 4


@dataclass
class SweepRun:
    """A run of a sweep, and what reports know of it."""

    job: Job
    record: RunRecord

    @classmethod
    def waiting(cls, job: Job) -> SweepRun:
        """A run that has not begun."""
        record = RunRecord(job.folder, "waiting", seconds=0.0, label=job.label, values=job.values)
        return cls(job, record)

    def end(self, outcome: JobOutcome) -> None:
        """Note how the run ended."""
        self.record.status, self.record.reason = outcome.status, outcome.reason
        self.record.seconds = round(outcome.seconds, 1)
        if outcome.status == "done":
            self.record.results = store.read_results_json(self.job.folder / "evaluation")

    def describe_status(self) -> str:
        """The status in words; of a run at work its request, if any, and its last logged step."""
        status, folder = self.record.status, self.job.folder
        if status in ("failed", "refused"):
            return f"{status}: {self.record.reason}"
        if status != "running":
            return status
        words = [status]
        served = len([path for path in folder.glob("request_*") if path.is_dir()])
        if served:
            words.append(f"request {served}")
            folder /= f"request_{served}"
        step = read_last_step(folder / "metrics.jsonl")
        return ", ".join([*words, f"step {step}"] if step else words)


@dataclass
class Sweep:
    """Runs that belong together; `folder`: where sweep.json and results.csv go, None: nowhere.

    `total`: how many there will be, where that is known before they are.
    """

    title: str
    command: str = ""
    words: list[str] = field(default_factory=list)
    folder: Path | None = None
    runs: list[SweepRun] = field(default_factory=list)
    total: int = 0

    @property
    def records(self) -> list[RunRecord]:
        """What reports know of the runs."""
        return [run.record for run in self.runs]

    def run(self, jobs: list[Job], executor: Executor | None = None) -> list[JobOutcome]:
        """Carry out jobs and add them to the runs; outcomes in the order of the jobs.

        Raises:
            UserError: there are not the GPUs that a run asks for.
        """
        runs = [SweepRun.waiting(job) for job in jobs]
        self.runs += runs
        outcomes: dict[int, JobOutcome] = {}

        def started(number: int) -> None:
            runs[number].record.status = "running"
            if is_plan_only(jobs[number]):
                ui.say(jobs[number].label, "bold")

        with self.show_runs():
            for number, outcome in (executor or choose_executor(jobs))(jobs, started):
                runs[number].end(outcome)
                outcomes[number] = outcome
                self.say_ended(runs[number], outcome)
                self.write()
        return [outcomes[number] for number in range(len(jobs))]

    def say_ended(self, run: SweepRun, outcome: JobOutcome) -> None:
        """One line for a run that ended; on a terminal the table shows those that are done."""
        if outcome.status != "done":
            ui.print_error(f"{run.job.label}: {outcome.reason}")
        elif not (is_plan_only(run.job) or ui.make_console().is_terminal):
            ended = sum(record.status not in ("waiting", "running") for record in self.records)
            total = max(self.total, len(self.runs))
            ui.say(f"{ended}/{total} {run.job.label}: {outcome.seconds:.0f} s")

    def make_table(self) -> Table:
        """All runs and their main metrics; target and retain model above, where they are shared."""
        records = [
            dataclasses.replace(run.record, status=run.describe_status()) for run in self.runs
        ]
        return make_sweep_table(records, self.title)

    def has_plans(self) -> bool:
        """Whether the runs only print what they would take."""
        return any(is_plan_only(run.job) for run in self.runs)

    @contextlib.contextmanager
    def show_runs(self) -> Iterator[None]:
        """On a terminal: the table, alive; elsewhere a line every half minute."""
        console = ui.make_console()
        if not ui.is_speaker() or self.has_plans():
            yield
        elif console.is_terminal:
            with Live(
                get_renderable=self.make_table, console=console, refresh_per_second=1,
                transient=True,
            ):  # fmt: skip
                yield
        else:
            with self.speak_regularly():
                yield

    @contextlib.contextmanager
    def speak_regularly(self) -> Iterator[None]:
        """Have a thread say how the runs stand: this one waits for them."""
        is_over = threading.Event()

        def speak() -> None:
            while not is_over.wait(ui.PLAIN_SECONDS):
                # In no log: one that is open is a run's.
                ui.say(self.describe_progress(), log=False)

        speaker = threading.Thread(target=speak, daemon=True)
        speaker.start()
        try:
            yield
        finally:
            is_over.set()
            speaker.join()

    def describe_progress(self) -> str:
        """How many runs have ended, what is running, and what is left, in a line."""
        running = [run for run in self.runs if run.record.status == "running"]
        ended = [run for run in self.runs if run.record.status not in ("running", "waiting")]
        total = max(self.total, len(self.runs))
        parts = [f"{len(ended)}/{total} runs"]
        parts += [f"{run.job.label}: {run.describe_status()}" for run in running[:SHOWN_RUNS]]
        if len(running) > SHOWN_RUNS:
            parts.append(f"and {len(running) - SHOWN_RUNS} more")
        # Those that were done before took next to no time, and say nothing of the pace.
        seconds = [run.record.seconds or 0.0 for run in ended]
        seconds = [one for one in seconds if one > ui.KEPT_SECONDS]
        if seconds and running:
            left = fmean(seconds) * (total - len(ended)) / len(running)
            parts.append(f"{ui.format_duration(left)} left")
        return "  ".join(parts)

    def write(self) -> None:
        """sweep.json and results.csv, whole or not at all; nothing while all were refused."""
        refused = all(record.status == "refused" for record in self.records)
        if self.folder is None or refused or not ui.is_speaker() or self.has_plans():
            return
        content = make_sweep_text(self.command, self.words, self.title, self.records, self.folder)
        write_whole_text(self.folder / "sweep.json", content)
        write_whole_text(self.folder / "results.csv", self.format_results())

    def format_results(self) -> str:
        """results.csv, a row per run: label, swept keys, status, verdict, folder, every metric."""
        keys = list(dict.fromkeys(key for record in self.records for key in record.values))
        metrics = list(dict.fromkeys(name for record in self.records for name in record.figures()))
        rows: list[list[Any]] = [["run", *keys, "status", "reason", "folder", "verdict", *metrics]]
        for record in self.records:
            values = [record.values.get(key, "") for key in keys]
            word = read_verdict(record.results).get("word", "")
            ended = [record.status, record.reason, str(record.folder), word]
            figures = [record.figures().get(name) for name in metrics]
            rows.append([record.label, *values, *ended, *figures])
        return format_csv(rows)

    def report(self) -> None:
        """Pictures and page of all runs, where they are wanted and there is something to show."""
        wanted = all(run.job.run.report for run in self.runs)
        if wanted and self.folder is not None and (self.folder / "sweep.json").is_file():
            from undial_cli.reporting.report import try_write_report

            page = try_write_report([self.folder], self.folder / "report")
            settle_ledgers([record.folder for record in self.records])
            ui.say(f"report: {page}" if page else f"everything is in {self.folder}")

    def conclude(self) -> int:
        """Show the table, make the report; the exit code: of the worst of the runs."""
        if self.runs and not self.has_plans():
            self.write()
            ui.say(self.make_table())
            self.report()
        return max((EXIT_CODES.get(record.status, 0) for record in self.records), default=0)


def run_jobs(jobs: list[Job], title: str) -> list[JobOutcome]:
    """Carry out composed runs side by side, with a live table; outcomes in their order.

    A finished run is not run again and a failed one ends nothing.

    Args:
        jobs: runs of one kind of hardware, whose first says how many run side by side.
        title: of the table.
    """
    return Sweep(title).run(jobs) if jobs else []


def choose_executor(jobs: list[Job]) -> Executor:
    """In slots; in this process where it is one of several itself, or where plans are printed."""
    alone = launcher_environment.is_launched() or any(is_plan_only(job) for job in jobs)
    return run_one_by_one if alone else run_in_slots


def run_one_by_one(
    jobs: list[Job], started: Callable[[int], None]
) -> Iterator[tuple[int, JobOutcome]]:
    """Carry out jobs in this process."""
    for number, job in enumerate(jobs):
        started(number)
        yield number, unpack_outcome(run_job(pack_job(job)))


def is_plan_only(job: Job) -> bool:
    """Whether a job only prints what it would take."""
    return isinstance(job.run, TrainingRun) and job.run.plan


def read_last_step(metrics: Path) -> int | None:
    """The last step in a metrics.jsonl, if there is one; once a second, so only its end is read."""
    try:
        with open(metrics, "rb") as file:
            file.seek(max(0, metrics.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
        return int(parse_json(lines[-1])["step"])
    except (OSError, ValueError, KeyError, IndexError):
        return None
