"""Sweeps: what is composed, how runs share a machine, and that nothing done is done again."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import HURRIED, refused, undial

from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_yaml import dump_run_yaml, parse_run_yaml
from undial_cli.sweeps import slots
from undial_cli.sweeps.jobs import Job, Outcome
from undial_cli.sweeps.launchers import list_swept_values, make_sweep, read_objective
from undial_cli.sweeps.sweep import Sweep, read_last_step

SIX = ["method=undial,npo,ga", "seed=0,1", "train.max_steps=4", *HURRIED]


def rows_of(folder: Path) -> list[dict[str, str]]:
    """results.csv of the one sweep below a folder."""
    (file,) = (folder / "outputs" / "sweep").glob("*/results.csv")
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def figures(row: dict[str, str]) -> dict[str, str]:
    """A row without where and how it came about."""
    return {k: v for k, v in row.items() if k != "folder"}


def test_a_run_is_named_by_what_the_command_line_leaves_open() -> None:
    given = ["data=demo", "method=undial,npo", "train.learning_rate=1e-4", "seed=range(0,2)"]
    words = ["data=demo", "method=npo", "train.learning_rate=0.0001", "seed=1"]
    assert list_swept_values(words, given) == {"method": "npo", "seed": "1"}
    assert list_swept_values(words, words) == {}


def test_the_folder_of_a_sweep_does_not_depend_on_where_it_runs() -> None:
    words = ["method=undial,npo", "seed=0,1"]
    same = [*reversed(words), "hardware.slots=2", "hydra/launcher=joblib", "report=false"]
    assert make_sweep("unlearn", words).folder == make_sweep("unlearn", same).folder
    assert make_sweep("unlearn", words).folder != make_sweep("unlearn", ["seed=0,1"]).folder
    assert make_sweep("finetune", words).folder != make_sweep("unlearn", words).folder
    rates = [
        make_sweep("unlearn", [f"train.learning_rates.none={r}"]).folder for r in ("1,2", "1,3")
    ]
    assert rates[0] != rates[1]
    named = make_sweep("unlearn", [*words, "hydra.sweep.dir=mine"]).folder
    assert named == Path("mine")


def test_where_and_how_runs_are_carried_out_is_not_part_of_a_run() -> None:
    plain = compose_run("unlearn", [])
    other = compose_run(
        "unlearn", ["hardware.slots=3", "hardware.gpus_per_run=2", "objective=[a]", "report=false"]
    )
    from undial_cli.config.identity import make_default_name

    assert make_default_name(plain) == make_default_name(other)
    assert parse_run_yaml(dump_run_yaml(plain)) == plain


def test_slots_share_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    run = compose_run("unlearn", ["hardware.gpus_per_run=2"])
    monkeypatch.setattr(slots, "list_visible_gpus", lambda run: ["0", "1", "5", "6", "7"])
    assert slots.make_slot_environments(run) == [
        {"CUDA_VISIBLE_DEVICES": g} for g in ("0,1", "5,6")
    ]
    whole = compose_run("unlearn", [])
    assert slots.make_slot_environments(whole) == [{"CUDA_VISIBLE_DEVICES": "0,1,5,6,7"}]
    few = compose_run("unlearn", ["hardware.gpus_per_run=1", "hardware.slots=2"])
    assert [e["CUDA_VISIBLE_DEVICES"] for e in slots.make_slot_environments(few)] == ["0", "1"]
    much = compose_run("unlearn", ["hardware.gpus_per_run=6"])
    refused(lambda: slots.make_slot_environments(much), "hardware.gpus_per_run=6", "up to 5")

    monkeypatch.undo()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    words = ["hardware=cpu", "hardware.slots=2", "hardware.num_processes=2"]
    assert (
        slots.make_slot_environments(compose_run("unlearn", words))
        == [{"OMP_NUM_THREADS": "2"}] * 2
    )
    assert slots.make_slot_environments(compose_run("unlearn", ["hardware=cpu"])) == [{}]


def test_a_run_that_failed_has_no_value_to_optimise() -> None:
    job = Job("a", compose_run("unlearn", ["objective=[forget_rouge,retain_rouge]"]))
    assert read_objective(job, {"forget_rouge": 0.5, "retain_rouge": 1.0}) == [0.5, 1.0]
    lost = read_objective(job, {})
    assert isinstance(lost, list)
    assert [value == value for value in lost] == [False, False]
    refused(
        lambda: read_objective(job, {"forget_rouge": 1.0}), "objective=retain_rouge", "forget_rouge"
    )
    assert read_objective(Job("a", compose_run("unlearn", [])), {"forget_rouge": 0.5}) is None


def test_results_are_whole_after_every_run(tmp_path: Path) -> None:
    runs = [compose_run("unlearn", [f"seed={n}", f"output_dir={tmp_path}"]) for n in range(3)]
    jobs = [Job(f"seed={n}", run, {"seed": str(n)}) for n, run in enumerate(runs)]
    sweep = Sweep("title", "unlearn", ["seed=0,1,2"], tmp_path / "sweep")
    seen = []

    def executor(jobs, started):
        for number, status in ((2, "done"), (0, "failed"), (1, "refused")):
            started(number)
            sweep.write()
            seen.append(json.loads((tmp_path / "sweep" / "sweep.json").read_text())["runs"])
            yield number, Outcome(status, tmp_path, "a, reason" if status != "done" else "", 2.0)

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


def test_the_last_step_is_read_from_a_log_that_grows(tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    assert read_last_step(log) is None
    log.write_text("".join(json.dumps({"step": n, "x": "y" * 50}) + "\n" for n in range(200)))
    assert read_last_step(log) == 199
    with open(log, "a") as file:
        file.write('{"step": 20')
    assert read_last_step(log) is None


@pytest.mark.slow
def test_a_wrong_value_in_one_run_is_refused_before_any_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from undial_cli.cli import run_command

    monkeypatch.chdir(tmp_path)
    assert run_command(["unlearn", "--multirun", "seed=0,1", "method=undial,npi"]) == 2
    words = ["train.batch_size=4,0", "hardware=cpu", "hydra.sweep.dir=mine"]
    assert run_command(["unlearn", "--multirun", *words]) == 2
    assert run_command(["unlearn", "--multirun", "seed=0,1", "name=mine", "hardware=cpu"]) == 2
    for aim in ("objective=[forget_rogue]", "objective=[forget_rouge] eval=none"):
        assert run_command(["unlearn", "--multirun", "seed=0,1", *aim.split()]) == 2
    err = capfd.readouterr().err.splitlines()
    assert len(err) == 5
    parts = ("did you mean 'npo'", "train.batch_size=0", "name=mine", "'forget_rouge'", "eval=none")
    for line, part in zip(err, parts, strict=True):
        assert part in line
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGKILL after the third of six runs: the same command does the rest, and only that."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    killed.mkdir()
    whole.mkdir()
    command = [sys.executable, "-m", "undial_cli.cli", "unlearn", "--multirun", *SIX]
    process = subprocess.Popen(command, cwd=killed, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        done = list(killed.glob("outputs/unlearn/*/report/summary.md"))
        if len(done) >= 3 or process.poll() is not None:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = [f for f in killed.glob("outputs/unlearn/*/status.json") if "done" in f.read_text()]
    assert 2 <= len(finished) < 6
    before = {f: f.stat().st_mtime_ns for f in finished}
    again = undial("unlearn", "--multirun", *SIX, cwd=killed)
    assert again.returncode == 0, again.stderr
    assert {f: f.stat().st_mtime_ns for f in finished} == before
    undisturbed = undial("unlearn", "--multirun", *SIX, "hardware.slots=2", cwd=whole)
    assert undisturbed.returncode == 0, undisturbed.stderr
    table, other = rows_of(killed), rows_of(whole)
    assert len(table) == 6
    assert [figures(row) for row in table] == [figures(row) for row in other]


@pytest.mark.slow
def test_two_sweeps_at_once_in_one_folder_share_their_runs(tmp_path: Path) -> None:
    ends = ["train.max_steps=3", *HURRIED, "report=false"]
    commands = [["seed=0,1", *ends], ["seed=1,2", *ends]]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "undial_cli.cli", "unlearn", "--multirun", *words],
            cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for words in commands
    ]  # fmt: skip
    for process in running:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
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
    rows = {row["run"]: row for row in rows_of(tmp_path)}
    assert len(rows) == 4
    for name, row in rows.items():
        wild = "1000000" in name
        assert row["status"] == ("failed" if wild else "done"), (name, row)
        assert ("NaN" in row["reason"]) == wild
        assert bool(row["forget_rouge"]) == (not wild)
    assert "NaN" in done.stdout


@pytest.mark.slow
def test_a_slot_that_is_killed_fails_its_run_alone(tmp_path: Path) -> None:
    words = ["seed=0,1", "train.max_steps=4000", *HURRIED, "report=false", "eval=none"]
    process = subprocess.Popen(
        [sys.executable, "-m", "undial_cli.cli", "unlearn", "--multirun", *words],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell's job in the background ignores SIGINT, and so does all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 200
    slot = None
    while slot is None and time.monotonic() < deadline and process.poll() is None:
        started = list(tmp_path.glob("outputs/unlearn/*/metrics.jsonl"))
        if started:
            found = subprocess.run(
                ["pgrep", "-P", str(process.pid), "-f", "undial_cli.sweeps.slot"],
                capture_output=True, text=True,
            )  # fmt: skip
            slot = int(found.stdout.split()[0])
        time.sleep(0.2)
    assert slot is not None
    os.kill(slot, signal.SIGKILL)
    while (
        time.monotonic() < deadline
        and len(list(tmp_path.glob("outputs/unlearn/*/metrics.jsonl"))) < 2
    ):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "SIGKILL" in err
    assert len(list(tmp_path.glob("outputs/unlearn/*/metrics.jsonl"))) == 2
