"""Runs through Ray and submitit: their keys, what is sent, and a real local run of each."""

from __future__ import annotations

import json
import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import refused, undial
from planted_secrets import find_planted, list_forms, write_planted_demo
from swept import rows_of

from undial_cli.runs.compose import compose_run
from undial_cli.sweeps import executors
from undial_cli.sweeps.executors import make_remote_executor
from undial_cli.sweeps.jobs import Job, JobOutcome, pack_job

SHORT = ["hardware=cpu", "eval=none", "report=false", "data.retain_split=retain90"]

# In the environment of a sweep.
SECRETS = {
    "HF_TOKEN": "hf_PlantedInTheEnvironment",
    "MY_API_KEY": "planted-key-of-mine",  # pragma: allowlist secret
}


@pytest.fixture
def temporary_folder() -> Iterator[Path]:
    """One with a short path: those of Ray's sockets in it may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="sweep-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_a_lost_executor_fails_the_runs_that_it_had_left() -> None:
    jobs = [Job(str(n), compose_run("unlearn", [f"seed={n}"])) for n in range(3)]

    def answers(orders):
        assert json.loads(json.dumps(orders)) == orders
        yield 1, {"status": "done", "reason": "", "seconds": 1.0}
        raise OSError("first line\n  the cluster is gone")

    begun: list[int] = []
    found = dict(make_remote_executor(answers)(jobs, begun.append))
    assert begun == [0, 1, 2]
    assert found[1].status == "done"
    for number in (0, 2):
        assert isinstance(found[number], JobOutcome)
        assert found[number].status == "failed"
        assert found[number].reason == "OSError: the cluster is gone"


@pytest.mark.parametrize(
    "launcher",
    [
        {"library": "slots"},
        {"library": "joblib", "n_jobs": 2},
        {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
    ],
)
def test_slots_by_any_name_are_of_this_machine(launcher: dict[str, Any], tmp_path: Path) -> None:
    assert executors.make_executor(launcher, tmp_path) is None


def test_an_unknown_launcher_and_one_whose_library_is_missing_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(
        lambda: executors.make_executor({"library": "rai"}, tmp_path), "hydra/launcher=rai", "'ray'"
    )
    monkeypatch.setattr(executors, "find_spec", lambda name: None)
    refused(
        lambda: executors.make_executor({"library": "ray"}, tmp_path),
        "hydra/launcher: ray is not installed", "pip install 'undial[ray]'",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("first\n  last words \n"), "OSError: last words"),
        (ValueError(""), "ValueError: "),
        (  # submitit's, of a run that raised: the traceback in dashes, then where the logs are
            RuntimeError(
                "trace:\n----\n  KeyError: 'x'\n\n----\nYou can check full logs\n  - a.out"
            ),
            "RuntimeError: KeyError: 'x'",
        ),
        (OSError("no output\n----\nslurmstepd: cancelled"), "OSError: slurmstepd: cancelled"),
    ],
)
def test_an_error_of_an_executor_is_its_last_line(error: Exception, line: str) -> None:
    assert executors.describe_executor_error(error) == line
    answer = executors.make_failed_answer(error)
    assert answer == {"status": "failed", "reason": line, "seconds": 0.0}


def test_a_run_that_is_sent_away_says_nothing_on_the_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_job(packed: dict[str, Any]) -> dict[str, Any]:
        print("training ...")
        return {"status": packed["status"]}

    monkeypatch.setattr(executors, "run_job", run_job)
    assert executors.run_job_silently({"status": "done"}) == {"status": "done"}
    assert capsys.readouterr().out == ""


def test_keys_of_the_cluster_carry_its_name_and_the_shared_ones_do_not(tmp_path: Path) -> None:
    options = {
        "cluster": "slurm", "submitit_folder": None, "timeout_min": 60, "partition": "gpu",
        "account": None, "setup": ["module load cuda"], "max_num_timeout": 3,
    }  # fmt: skip
    arguments, parameters = executors.split_submitit_keys(options, tmp_path)
    assert arguments == {
        "folder": f"{tmp_path}/.submitit/%j", "cluster": "slurm", "slurm_max_num_timeout": 3,
    }  # fmt: skip
    assert parameters == {
        "timeout_min": 60, "slurm_partition": "gpu", "slurm_setup": ["module load cuda"],
    }  # fmt: skip


@pytest.mark.slow
def test_a_job_that_submitit_lost_is_a_failed_run(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    options = {"cluster": "local", "timeout_min": 5}
    no_runs: list[Any] = [{}, {}]
    answers = dict(executors.submit_to_submitit(options, tmp_path, no_runs))
    assert {number: answer["status"] for number, answer in answers.items()} == {
        0: "failed", 1: "failed",
    }  # fmt: skip
    assert all("KeyError" in answer["reason"] for answer in answers.values())


@pytest.mark.parametrize("name", ["num_cpus", "num_gpus"])
def test_a_run_that_no_ray_of_this_machine_could_carry_out_is_refused(
    name: str, tmp_path: Path
) -> None:
    init: dict[str, Any] = {"address": None, "num_cpus": None, "num_gpus": None}
    launcher = {"library": "ray", "ray": {"init": init, "remote": {name: 1000}}}
    refused(
        lambda: executors.make_executor(launcher, tmp_path),
        f"hydra.launcher.ray.remote.{name}=1000", "init.address",
    )  # fmt: skip
    for more in ({"address": "auto"}, {name: 1000}):
        there = {"init": {**init, **more}, "remote": {name: 1000}}
        assert executors.make_executor({**launcher, "ray": there}, tmp_path) is not None


@pytest.mark.slow
@pytest.mark.parametrize("ours", [True, False])
def test_a_ray_that_was_running_is_not_shut_down(ours: bool, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    if not ours:
        ray.init(address="local", num_cpus=1)
    try:
        keys = {"ray": {"init": {"num_cpus": 1}, "remote": {"num_cpus": 1}}}
        no_run: list[Any] = [{}]
        ((number, answer),) = executors.submit_to_ray(keys, tmp_path, no_run)
        assert (number, answer["status"]) == (0, "failed")
        assert "KeyError" in answer["reason"]
        assert ray.is_initialized() is not ours
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_a_ray_of_somebody_else_on_this_machine_is_not_joined_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    theirs = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        keys = {"ray": {"init": {"num_cpus": 1}, "remote": {"num_cpus": 1}}}
        no_run: list[Any] = [{}]
        ((_, answer),) = executors.submit_to_ray(keys, tmp_path, no_run)
        assert "KeyError" in answer["reason"]
        assert not ray.is_initialized()
    finally:
        theirs.shutdown()


@pytest.mark.slow
def test_a_run_whose_time_is_up_is_saved_and_submitted_again(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitit = pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    words = [f"model.path={random_model}", "train.max_steps=60", "train.save_minutes=60", *SHORT]
    run = compose_run("unlearn", [*words, "name=timed"])
    executor = submitit.AutoExecutor(tmp_path / "jobs", cluster="local")
    job = executor.submit(executors.ResumableJob(), pack_job(Job("timed", run)))
    folder = tmp_path / "outputs" / "unlearn" / "timed"
    while not (folder / "metrics.jsonl").is_file():
        assert not job.done(), job.results()
        time.sleep(0.05)
    (task,) = [
        process
        for process in psutil.Process(int(job.job_id)).children(recursive=True)
        if "submitit.core._submit" in process.cmdline()
    ]
    task.send_signal(signal.SIGUSR2)  # what submitit sends when the time is nearly up
    (answer,) = job.results()
    assert (answer["status"], answer["reason"]) == ("done", "")
    log = (folder / "log.txt").read_text()
    (step,) = re.findall(r"SIGUSR2: the state of step (\d+) is being saved", log)
    assert f"resuming at step {step} of 60" in log
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").open()]
    assert steps == [*range(1, 61)]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["submitit_local", "ray"])  # joblib's are slots
def test_a_launcher_carries_out_all_runs_and_reports_one_that_failed(
    launcher: str, random_model: Path, tmp_path: Path, temporary_folder: Path
) -> None:
    pytest.importorskip(launcher.split("_")[0])
    sources = tmp_path / "data"
    write_planted_demo(sources)
    surroundings: Any = {
        "UNDIAL_CACHE_DIR": str(tmp_path / "cache"), "TMPDIR": str(temporary_folder), **SECRETS
    }  # fmt: skip
    words = [f"model.path={random_model}", "train.learning_rate=1e-4,1e9", "train.max_steps=3"]
    words.append(f"data.path={sources}")
    wild = ["method=ga", "train.max_grad_norm=0"]
    command = ["unlearn", "--multirun", *words, *wild, *SHORT, f"hydra/launcher={launcher}"]
    done = undial(*command, cwd=tmp_path, **surroundings)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    logs = ".submitit/*/*_log.out" if launcher == "submitit_local" else "ray/session_*/logs/*.out"
    assert [*tmp_path.rglob(logs), *temporary_folder.glob(logs)]
    for folder in (tmp_path, temporary_folder):
        assert not find_planted(folder, [secret.encode() for secret in SECRETS.values()])
    hits = find_planted(tmp_path, list_forms()) | find_planted(temporary_folder, list_forms())
    copies = {file for file in hits if file.parent != sources}
    assert {file.stat().st_mode & 0o077 for file in copies} == {0}  # nobody else reads them
    rows = rows_of(tmp_path)
    good, bad = (rows[f"train.learning_rate={value}"] for value in ("0.0001", "1000000000.0"))
    assert (good["status"], good["reason"]) == ("done", "")
    assert bad["status"] == "failed"
    assert "diverged" in bad["reason"]
    assert (tmp_path / good["folder"] / "checkpoint" / "model.safetensors").is_file()
    assert not (tmp_path / bad["folder"] / "checkpoint").exists()
    again = undial(*command, cwd=tmp_path, **surroundings)
    assert again.returncode == 1
    assert rows_of(tmp_path)["train.learning_rate=0.0001"]["status"] == "done"
