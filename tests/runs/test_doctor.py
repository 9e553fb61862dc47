"""What `undial doctor` says of this machine was tried, not guessed."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from conftest import undial
from huggingface_hub import constants
from packaging.requirements import Requirement

from undial_cli.cli import run_command
from undial_cli.errors import WorldError
from undial_cli.runs.commands import doctor
from undial_cli.runs.commands.doctor import list_trials
from undial_cli.runs.commands.doctor_engines import ENGINES, Engine, draw_picture, try_engine
from undial_cli.runs.commands.doctor_machine import (
    ask_hub,
    judge_versions,
    list_requirements,
    read_tested_versions,
    run_on_device,
    write_to_folder,
)
from undial_cli.system.trials import Finding, Measurement, Trial, carry_out_trials


class AnsweringHub(BaseHTTPRequestHandler):
    """Answers every question with one status."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the screen."""


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if HF_HUB_OFFLINE were not set, which is read when the library is imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a hub that answers."""
    server = HTTPServer(("127.0.0.1", 0), AnsweringHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def test_a_hub_that_answers_is_said_to(
    online: None, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    measured = ask_hub()
    assert measured.text.startswith(f"http://127.0.0.1:{port} answered in ")
    assert measured.text.endswith("(status 200)")


def test_a_hub_where_nobody_listens_cannot_be_reached(
    online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(WorldError, match="cannot be reached"):
            ask_hub()


def test_a_silent_hub_is_waited_for_briefly(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        with pytest.raises(WorldError, match=r"did not answer|cannot be reached"):
            ask_hub(0.3)
        assert time.monotonic() - begun < 2


def test_offline_is_said_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert ask_hub() == Measurement("not asked: offline (HF_HUB_OFFLINE=1)")


def test_versions_are_held_against_ranges_and_those_tested() -> None:
    tested = read_tested_versions()
    needed = list_requirements()
    assert {"torch", "transformers", "lm-eval"} <= set(tested)
    assert {"torch", "peft"} <= {requirement.name for requirement in needed}
    assert not {"ray", "optuna"} & {requirement.name for requirement in needed}
    numpy, version = Requirement("numpy>=1"), tested["numpy"]
    assert judge_versions([numpy], {"numpy": version}).state == "ok"
    older = judge_versions([numpy], {"numpy": "1.0"})
    assert "numpy" in older.text
    assert "(tested 1.0)" in older.text
    assert "numpy" in older.advice
    for wrong, text in (("numpy>=99", "needed is >=99"), ("no-such-package", "is missing")):
        with pytest.raises(WorldError, match=text):
            judge_versions([Requirement(wrong)], {})


def test_a_device_runs_forward_and_backward() -> None:
    assert run_on_device("cpu").text.startswith("forward and backward in ")


def test_a_folder_is_written_to_and_left_as_it_was(tmp_path: Path) -> None:
    measured = write_to_folder(tmp_path / "outputs" / "deep")
    assert f"tried in {tmp_path}" in measured.text
    assert "MB/s" in measured.text
    assert not list(tmp_path.iterdir())
    with pytest.raises(WorldError, match="needed are"):
        write_to_folder(tmp_path, needed=1 << 60)
    (tmp_path / "file").write_text("x")
    with pytest.raises(WorldError, match="not a folder"):
        write_to_folder(tmp_path / "file" / "below")
    with pytest.raises(WorldError, match="/proc"):
        write_to_folder(Path("/proc/undial"), needed=0)


def measure_nothing() -> Measurement:
    print("not to be seen")
    return Measurement("fine")


def warn_gently() -> Measurement:
    return Measurement("little room", "make room")


def crash_by_signal() -> Measurement:
    ctypes.string_at(0)
    return Measurement("fine")


def exit_early() -> Measurement:
    os._exit(3)


def raise_world_error() -> Measurement:
    raise WorldError("the disk is gone")


def hang_with_child() -> Measurement:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(123.25)"], check=True)
    return Measurement("fine")


def try_all(*trials: Trial) -> dict[str, Finding]:
    return {finding.name: finding for finding in carry_out_trials(trials)}


def test_each_trial_is_alone_with_its_fault(capfd: pytest.CaptureFixture[str]) -> None:
    findings = try_all(
        Trial("fine", measure_nothing, "-"),
        Trial("gentle", warn_gently, "-"),
        Trial("crash", crash_by_signal, "reinstall", needed=True),
        Trial("optional crash", crash_by_signal, "reinstall"),
        Trial("exit", exit_early, "-"),
        Trial("error", raise_world_error, "mount it", needed=True),
    )
    outcomes = {name: (f.state, f.measured, f.advice) for name, f in findings.items()}
    assert outcomes == {
        "fine": ("ok", "fine", ""),
        "gentle": ("warn", "little room", "make room"),
        "crash": ("fail", f"ended by {signal.Signals.SIGSEGV.name}", "reinstall"),
        "optional crash": ("warn", "ended by SIGSEGV", "reinstall"),
        "exit": ("warn", "ended by exit code 3", "-"),
        "error": ("fail", "the disk is gone", "mount it"),
    }
    assert capfd.readouterr().out == ""


def test_a_trial_that_hangs_is_ended_with_its_processes() -> None:
    begun = time.monotonic()
    finding = try_all(Trial("hang", hang_with_child, "wait", seconds=0.5, needed=True))["hang"]
    assert (finding.state, finding.measured) == ("fail", "gave no answer within 0.5 s")
    assert time.monotonic() - begun < 20
    words = [Path(f"/proc/{pid}/cmdline") for pid in os.listdir("/proc") if pid.isdecimal()]
    assert not [w for w in words if w.exists() and b"time.sleep(123.25)" in w.read_bytes()]


def test_an_engine_is_run_or_absent() -> None:
    absent = try_engine(Engine("no_such_engine", "no-such", "ray", "nothing", draw_picture))
    assert (absent.state, absent.text) == ("absent", "not installed")
    assert "pip install 'undial[ray]'" in absent.advice
    tried = try_engine(ENGINES[1])
    assert ": a picture of " in tried.text
    extras = {engine.extra for engine in ENGINES if engine.extra}
    assert extras == {"quality", "qlora", "deepspeed", "harness", "focus", "vllm", "ray",
                      "submitit", "optuna", "gguf", "smollm2"}  # fmt: skip


def test_two_processes_are_tried_over_what_a_run_would_take() -> None:
    trials = {trial.name: trial for trial in list_trials()}
    assert {"packages", "cpu", "processes", "output", "cache", "hub", "default run"} <= set(trials)
    assert trials["processes"].arguments[0] in ("gloo", "nccl")
    assert not trials["hub"].needed  # the default run takes nothing from it


@pytest.mark.slow
def test_the_command_says_what_it_tried_as_json(tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    done = undial("doctor", "--json", cwd=tmp_path, UNDIAL_CACHE_DIR=cache)
    report = json.loads(done.stdout)
    states = {trial["name"]: trial["state"] for trial in report["trials"]}
    assert (done.returncode, report["default_run"], done.stderr) == (0, "ok", "")
    assert {states[name] for name in ("cpu", "processes", "output", "cache", "default run")} == {
        "ok"
    }
    assert "fail" not in states.values()
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


@pytest.mark.slow
def test_a_trial_that_fails_is_a_line_and_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "file"))
    trials = [trial for trial in list_trials() if trial.name in ("output", "cache")]
    monkeypatch.setattr(doctor, "list_trials", lambda: trials)
    assert run_command(["doctor"]) == 1
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if line.split()[:2] == ["cache", "fail"])
    assert "is not a folder" in line
    assert "would fail" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"file"}
