"""Slots: what each is given, one run after the other, and what ends with them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import HURRIED, refused
from forked import Command
from swept import seeds

from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_folder import RunFolder
from undial_cli.sweeps import slots
from undial_cli.sweeps.jobs import Job, JobOutcome
from undial_cli.sweeps.slots import Slot, run_in_slots


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


def slot_of(script: str, monkeypatch: pytest.MonkeyPatch) -> Slot:
    """A slot whose process is this script in place of undial's."""
    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> subprocess.Popen:
        assert command[1:] == ["-m", "undial_cli.sweeps.slot_process"]
        return real([sys.executable, "-c", script], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(slots.subprocess, "Popen", popen)
    return Slot({"UNDIAL_SLOT": "3"})


ANSWER = (
    "import json, os, sys\n"
    "for line in sys.stdin:\n"
    "    folder = json.loads(line)['folder']\n"
    "    answer = {'status': STATUS, 'folder': folder, 'reason': os.environ['UNDIAL_SLOT'],\n"
    "              'seconds': float(os.getpid())}\n"
    "    print(json.dumps(answer), flush=True)\n"
)


def test_a_slot_carries_out_one_run_after_the_other_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = slot_of(ANSWER.replace("STATUS", "'done'"), monkeypatch)
    first, second = (slot.run(job) for job in seeds(2, tmp_path))
    assert (first.status, first.reason) == ("done", "3")
    assert first.seconds == second.seconds  # the number of the process
    process = slot.process
    assert process is not None
    slot.end()
    assert process.poll() is not None
    slot.end()  # nothing is left to end


def test_a_slot_whose_run_failed_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = slot_of(ANSWER.replace("STATUS", "'failed'"), monkeypatch)
    first, second = (slot.run(job) for job in seeds(2, tmp_path))
    assert (first.status, second.status) == ("failed", "failed")
    assert first.seconds != second.seconds
    assert slot.process is None


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("raise SystemExit('no\\nlast words')", "exit code 1: last words"),
        ("raise SystemExit(3)", "its process ended with exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "was ended by SIGTERM"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "for want of memory perhaps"),
        ("print('{\"status\": ', end='')", "exit code 0"),
    ],
)
def test_a_process_that_died_is_the_failure_of_its_run_alone(
    script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = seeds(1, tmp_path)
    outcome = slot_of(script, monkeypatch).run(job)
    assert (outcome.status, outcome.folder) == ("failed", job.folder)
    assert reason in outcome.reason


# Stops itself in the run of seed 0, after seven steps.
HANG = ANSWER.replace("STATUS", "'done'").replace(
    "    folder =",
    "    if 'seed: 0' in json.loads(line)['run']:\n"
    "        from undial_cli.system.supervision import give_beat\n"
    "        give_beat('training', 7)\n"
    "        os.kill(os.getpid(), 19)\n"
    "    folder =",
)


@pytest.mark.slow
def test_a_run_that_hangs_ends_within_its_time_and_the_next_one_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "GRACE_SECONDS", 0)
    slot = slot_of(HANG, monkeypatch)
    hanging, other = seeds(2, tmp_path, "hardware.timeout=1")
    folder = RunFolder(hanging.folder)
    folder.path.mkdir(parents=True)
    folder.set_status("running")
    monkeypatch.setattr(slots, "END_SECONDS", 0.1)
    outcome = slot.run(hanging)
    assert outcome.status == "failed"
    assert outcome.reason.startswith("its process has not answered for ")
    assert outcome.reason.endswith("(training, last step 7)")
    assert slot.process is None
    status = json.loads((folder.path / "status.json").read_text())
    assert status == {"status": "failed", "reason": outcome.reason}
    assert slot.run(other).status == "done"
    slot.end()


class FakeSlot:
    """A slot in this process, which notes what it was asked."""

    all: list[FakeSlot]

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment, self.jobs = environment, []
        self.asked = self.ended = False
        FakeSlot.all.append(self)

    def run(self, job: Job) -> JobOutcome:
        if job.label == "seed=9":
            raise OSError("no more processes")
        self.jobs.append(job.label)
        time.sleep(0.02)
        return JobOutcome("done", job.folder, job.label)

    def ask_to_end(self) -> None:
        self.asked = True

    def end(self, grace: float) -> None:
        assert self.asked  # all are asked before one is waited for
        self.ended = True


@pytest.fixture
def fake_slots(monkeypatch: pytest.MonkeyPatch) -> type[FakeSlot]:
    """Two slots on a machine of eight cores."""
    monkeypatch.setattr(slots, "Slot", FakeSlot)
    monkeypatch.setattr(FakeSlot, "all", [], raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    return FakeSlot


TWO = ["hardware=cpu", "hardware.slots=2"]


def test_runs_share_the_slots_and_come_back_with_their_numbers(
    fake_slots: type[FakeSlot], tmp_path: Path
) -> None:
    begun: list[int] = []
    outcomes = dict(run_in_slots(seeds(5, tmp_path, *TWO), begun.append))
    assert {number: outcome.reason for number, outcome in outcomes.items()} == {
        n: f"seed={n}" for n in range(5)
    }
    assert sorted(begun) == [0, 1, 2, 3, 4]
    assert len(fake_slots.all) == 2
    assert all(slot.jobs and slot.ended for slot in fake_slots.all)


def test_there_are_no_more_slots_than_runs(fake_slots: type[FakeSlot], tmp_path: Path) -> None:
    list(run_in_slots(seeds(1, tmp_path, *TWO), lambda number: None))
    assert len(fake_slots.all) == 1


def test_an_error_of_a_slot_is_raised_where_the_sweep_waits(
    fake_slots: type[FakeSlot], tmp_path: Path
) -> None:
    jobs = seeds(10, tmp_path, *TWO)[9:]
    with pytest.raises(OSError, match="no more processes"):
        list(run_in_slots(jobs, lambda number: None))
    assert all(slot.ended for slot in fake_slots.all)


def test_a_sweep_that_is_interrupted_begins_no_other_run(
    fake_slots: type[FakeSlot], tmp_path: Path
) -> None:
    running = run_in_slots(seeds(20, tmp_path, *TWO), lambda number: None)
    next(running)
    running.close()
    time.sleep(0.1)
    assert sum(len(slot.jobs) for slot in fake_slots.all) <= 4
    assert all(slot.ended for slot in fake_slots.all)


def test_the_visible_gpus_are_those_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    run = compose_run("unlearn", [])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for named, gpus in (("", ["0", "1"]), ("3,5", ["3", "5"]), ("7", ["0", "1"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert slots.list_visible_gpus(run) == gpus
    assert slots.list_visible_gpus(compose_run("unlearn", ["hardware=cpu"])) == []


@pytest.mark.slow
def test_a_slot_that_is_killed_fails_its_run_alone(tmp_path: Path) -> None:
    words = ["seed=0,1", "train.max_steps=4000", *HURRIED, "report=false", "eval=none"]
    process = Command(["unlearn", "--multirun", *words], tmp_path, heeded=signal.SIGINT)
    deadline = time.monotonic() + 200
    slot = None
    while slot is None and time.monotonic() < deadline and process.poll() is None:
        started = list(tmp_path.glob("outputs/unlearn/*/metrics.jsonl"))
        if started:
            found = subprocess.run(
                ["pgrep", "-P", str(process.pid), "-f", "undial_cli.sweeps.slot_process"],
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
    done = process.finish(timeout=60)
    assert done.returncode == 130
    assert "SIGKILL" in done.stderr
    assert len(list(tmp_path.glob("outputs/unlearn/*/metrics.jsonl"))) == 2
