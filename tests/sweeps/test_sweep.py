"""A sweep: how runs stand, what is written after each, and that nothing done is done again."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import HURRIED, undial
from forked import Command
from swept import rows_of, seeds

from undial_cli import ui
from undial_cli.reporting import report
from undial_cli.sweeps import sweep as sweeps
from undial_cli.sweeps.jobs import Job, JobOutcome
from undial_cli.sweeps.sweep import Sweep, SweepRun, read_last_step

FOUR = ["method=undial,npo", "seed=0,1", "train.max_steps=4", *HURRIED]


def test_results_are_whole_after_every_run(tmp_path: Path) -> None:
    jobs = seeds(3, tmp_path)
    sweep = Sweep("title", "unlearn", ["seed=0,1,2"], tmp_path / "sweep")
    seen = []

    def executor(jobs, started):
        for number, status in ((2, "done"), (0, "failed"), (1, "refused")):
            started(number)
            sweep.write()
            seen.append(json.loads((tmp_path / "sweep" / "sweep.json").read_text())["runs"])
            yield number, JobOutcome(status, tmp_path, "a, reason" if status != "done" else "", 2.0)

    found = sweep.run(jobs, executor)
    assert [o.status for o in found] == ["failed", "refused", "done"]
    assert [[run["status"] for run in runs] for runs in seen] == [
        ["waiting", "waiting", "running"],
        ["running", "waiting", "done"],
        ["failed", "running", "done"],
    ]
    with open(tmp_path / "sweep" / "results.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["run"], row["status"], row["reason"]) for row in rows] == [
        ("seed=0", "failed", "a, reason"), ("seed=1", "refused", "a, reason"),
        ("seed=2", "done", ""),
    ]  # fmt: skip
    written = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["runs"]
    assert (tmp_path / "sweep" / written[0]["folder"]).resolve() == (
        tmp_path / "unlearn" / Path(written[0]["folder"]).name
    )


def test_without_a_terminal_a_line_says_how_the_runs_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ui, "PLAIN_SECONDS", 0.05)
    sweep = Sweep("title", total=5)

    def executor(jobs: list[Job], started: Callable[[int], None]) -> Iterator:
        started(0)
        yield 0, JobOutcome("done", tmp_path, seconds=40.0)
        started(1)
        started(2)
        jobs[1].folder.mkdir(parents=True)
        (jobs[1].folder / "metrics.jsonl").write_text('{"step": 7}\n')
        line = "1/5 runs  seed=1: running, step 7  seed=2: running  80 s left"
        limit, said = time.monotonic() + 20, ""
        while line not in said.splitlines():
            assert time.monotonic() < limit, said
            time.sleep(0.01)
            said += capsys.readouterr().out
        yield 1, JobOutcome("done", tmp_path)
        yield 2, JobOutcome("done", tmp_path)

    sweep.run(seeds(3, tmp_path), executor)
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().out == ""


def test_the_last_step_is_read_from_a_log_that_grows(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    assert read_last_step(log) is None
    log.write_text("".join(json.dumps({"step": n, "x": "y" * 50}) + "\n" for n in range(200)))
    assert read_last_step(log) == 199
    with open(log, "a") as file:
        file.write('{"step": 20')
    assert read_last_step(log) is None


def ended(status: str, reason: str = "") -> Callable:
    """An executor whose runs all end like this."""

    def executor(
        jobs: list[Job], started: Callable[[int], None]
    ) -> Iterator[tuple[int, JobOutcome]]:
        for number, job in enumerate(jobs):
            started(number)
            yield number, JobOutcome(status, job.folder, reason, 1.26)

    return executor


def finish(job: Job, **metrics: float) -> None:
    """The results of a run that is done."""
    folder = job.folder / "evaluation"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"metrics": metrics}))


@pytest.mark.parametrize(
    ("statuses", "code"),
    [(["done"], 0), (["done", "failed"], 1), (["refused", "failed"], 2), ([], 0)],
)
def test_the_exit_code_is_that_of_the_worst_run(
    statuses: list[str], code: int, tmp_path: Path
) -> None:
    sweep = Sweep("t")
    for job, status in zip(seeds(len(statuses), tmp_path), statuses, strict=True):
        sweep.run([job], ended(status))
    assert sweep.conclude() == code


def test_results_have_a_column_for_every_swept_key_and_every_metric(tmp_path: Path) -> None:
    jobs = seeds(2, tmp_path)
    finish(jobs[0], forget_rouge=0.25)
    finish(jobs[1], retain_rouge=0.5)
    sweep = Sweep("t")
    sweep.run(jobs, ended("done"))
    rows = list(csv.DictReader(sweep.format_results().splitlines()))
    assert [(r["run"], r["seed"], r["forget_rouge"], r["retain_rouge"]) for r in rows] == [
        ("seed=0", "0", "0.25", ""), ("seed=1", "1", "", "0.5"),
    ]  # fmt: skip


def test_a_failed_run_has_no_figures_even_where_old_results_lie(tmp_path: Path) -> None:
    (job,) = seeds(1, tmp_path)
    finish(job, forget_rouge=0.25)
    sweep = Sweep("t")
    sweep.run([job], ended("failed", "NaN"))
    assert sweep.runs[0].record.figures() == {}


def test_nothing_is_written_while_all_were_refused(tmp_path: Path) -> None:
    first, second = seeds(2, tmp_path)
    sweep = Sweep("t", folder=tmp_path / "sweep")
    sweep.run([first], ended("refused", "no such model"))
    assert not (tmp_path / "sweep").exists()
    sweep.run([second], ended("failed", "NaN"))
    written = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [(run["status"], run["seconds"]) for run in written["runs"]] == [
        ("refused", 1.3), ("failed", 1.3),
    ]  # fmt: skip


def test_a_run_that_is_running_shows_its_last_step(tmp_path: Path) -> None:
    (job,) = seeds(1, tmp_path)
    run = SweepRun.waiting(job)
    assert run.describe_status() == "waiting"
    run.record.status = "running"
    assert run.describe_status() == "running"
    job.folder.mkdir(parents=True)
    (job.folder / "metrics.jsonl").write_text('{"step": 7}\n')
    assert run.describe_status() == "running, step 7"
    for number in (1, 2):
        (job.folder / f"request_{number}").mkdir()
        assert run.describe_status() == f"running, request {number}"
    (job.folder / "request_1" / "metrics.jsonl").write_text('{"step": 25}\n')
    (job.folder / "request_2" / "metrics.jsonl").write_text('{"step": 3}\n')
    assert run.describe_status() == "running, request 2, step 3"
    run.end(JobOutcome("failed", job.folder, "NaN"))
    assert run.describe_status() == "failed: NaN"


def test_each_run_that_ends_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs = seeds(3, tmp_path)
    sweep = Sweep("t")
    sweep.run(jobs[:2], ended("done"))
    sweep.run(jobs[2:], ended("failed", "out of memory"))
    out, err = capfd.readouterr()
    assert out.splitlines() == ["1/2 seed=0: 1 s", "2/2 seed=1: 1 s"]
    assert "seed=2: out of memory" in err


def test_plans_are_printed_one_by_one_without_a_table_or_files(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    jobs = seeds(2, tmp_path, "plan=true")
    sweep = Sweep("t", folder=tmp_path / "sweep")
    sweep.run(jobs, ended("done"))
    assert sweep.conclude() == 0
    assert capfd.readouterr().out.splitlines() == ["seed=0", "seed=1"]
    assert not (tmp_path / "sweep").exists()


def test_runs_are_carried_out_here_where_plans_are_printed_or_processes_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps.launcher_environment, "is_launched", lambda: False)
    assert sweeps.choose_executor(seeds(1, tmp_path)) is sweeps.run_in_slots
    planned = seeds(1, tmp_path, "plan=true")
    assert sweeps.choose_executor(planned) is sweeps.run_one_by_one
    monkeypatch.setattr(sweeps.launcher_environment, "is_launched", lambda: True)
    assert sweeps.choose_executor(seeds(1, tmp_path)) is sweeps.run_one_by_one


def test_a_report_is_made_of_a_sweep_whose_runs_want_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[list[Path]] = []
    monkeypatch.setattr(report, "try_write_report", lambda paths, to: reported.append(paths))
    for number, words in enumerate(([], ["report=false"])):
        sweep = Sweep("t", folder=tmp_path / str(number))
        sweep.run(seeds(1, tmp_path, *words), ended("done"))
        sweep.conclude()
    assert reported == [[tmp_path / "0"]]


def test_no_jobs_are_no_sweep() -> None:
    assert sweeps.run_jobs([], "t") == []


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGKILL after the second of four runs: the same command does the rest, and only that."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    process = Command(["unlearn", "--multirun", *FOUR], killed)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        done = list(killed.glob("outputs/unlearn/*/report/summary.md"))
        if len(done) >= 2 or process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    finished = [f for f in killed.glob("outputs/unlearn/*/status.json") if "done" in f.read_text()]
    assert 1 <= len(finished) < 4
    before = {f: f.stat().st_mtime_ns for f in finished}
    again = undial("unlearn", "--multirun", *FOUR, cwd=killed)
    assert again.returncode == 0, again.stderr
    assert {f: f.stat().st_mtime_ns for f in finished} == before
    undisturbed = undial("unlearn", "--multirun", *FOUR, "hardware.slots=2", cwd=whole)
    assert undisturbed.returncode == 0, undisturbed.stderr
    table, other = rows_of(killed), rows_of(whole)
    assert len(table) == 4
    for run in (*table.values(), *other.values()):
        del run["folder"]
    assert list(table.items()) == list(other.items())


@pytest.mark.slow
def test_two_sweeps_at_once_in_one_folder_share_their_runs(tmp_path: Path) -> None:
    ends = ["train.max_steps=3", *HURRIED, "report=false"]
    commands = [["seed=0,1", *ends], ["seed=1,2", *ends]]
    running = [Command(["unlearn", "--multirun", *words], tmp_path) for words in commands]
    for done in [command.finish(timeout=300) for command in running]:
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "outputs" / "unlearn").iterdir())) == 3
    tables = list((tmp_path / "outputs" / "sweep").glob("*/results.csv"))
    assert len(tables) == 2
    found = {}
    for file in tables:
        with open(file, newline="") as stream:
            for row in csv.DictReader(stream):
                assert row["status"] == "done"
                assert found.setdefault(row["run"], row) == row
    assert sorted(found) == ["seed=0", "seed=1", "seed=2"]


@pytest.mark.slow
def test_a_run_out_of_its_depth_is_a_row_with_its_reason(tmp_path: Path) -> None:
    words = ["train.learning_rate=1e6,1e-4", "method=ga,undial", "train.max_grad_norm=0"]
    done = undial("unlearn", "--multirun", *words, "train.max_steps=4", *HURRIED, cwd=tmp_path)
    assert done.returncode == 1
    rows = rows_of(tmp_path)
    assert len(rows) == 4
    for name, row in rows.items():
        wild = "1000000" in name
        assert row["status"] == ("failed" if wild else "done"), (name, row)
        assert ("NaN" in row["reason"]) == wild
        assert bool(row["forget_rouge"]) == (not wild)
    assert "NaN" in done.stdout
