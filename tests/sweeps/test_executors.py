"""Runs through Ray and submitit: their keys, what is sent, and a real local run of each."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import refused, undial
from swept import rows_of

from undial_cli.runs.compose import compose_run
from undial_cli.sweeps import executors
from undial_cli.sweeps.executors import make_remote_executor
from undial_cli.sweeps.jobs import Job, Outcome

SHORT = ["hardware=cpu", "eval=none", "report=false", "data.retain_split=retain90"]


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
        assert isinstance(found[number], Outcome)
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


class Submitted:
    """A job of the fake submitit below."""

    def __init__(self, packed: dict[str, Any]) -> None:
        self.packed = packed

    def result(self) -> dict[str, Any]:
        if "lost" in self.packed:
            raise RuntimeError("node failure\nslurmstepd: cancelled")
        return {"status": "done", **self.packed}


class Executor:
    """submitit.AutoExecutor, which notes what it was given."""

    last: Executor

    def __init__(self, **options: Any) -> None:
        self.options, self.parameters = options, {}
        Executor.last = self

    def update_parameters(self, **parameters: Any) -> None:
        self.parameters = parameters

    def map_array(self, call: Any, packed: list[dict[str, Any]]) -> list[Submitted]:
        assert isinstance(call, executors.ResumableJob)
        return [Submitted(one) for one in packed]


def test_keys_of_the_cluster_carry_its_name_and_the_shared_ones_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitit, helpers = ModuleType("submitit"), ModuleType("submitit.helpers")
    submitit.AutoExecutor = Executor  # type: ignore[attr-defined]
    helpers.as_completed = reversed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "submitit", submitit)
    monkeypatch.setitem(sys.modules, "submitit.helpers", helpers)
    options = {
        "cluster": "slurm", "submitit_folder": None, "timeout_min": 60, "partition": "gpu",
        "account": None, "setup": ["module load cuda"], "max_num_timeout": 3,
    }  # fmt: skip
    answers = list(executors.submit_to_submitit(options, tmp_path, [{"a": 1}, {"lost": 1}]))
    assert Executor.last.options == {
        "folder": f"{tmp_path}/.submitit/%j", "cluster": "slurm", "slurm_max_num_timeout": 3,
    }  # fmt: skip
    assert Executor.last.parameters == {
        "timeout_min": 60, "slurm_partition": "gpu", "slurm_setup": ["module load cuda"],
    }  # fmt: skip
    lost, done = answers  # in the order in which they ended
    assert lost == (1, executors.make_failed_answer(RuntimeError("slurmstepd: cancelled")))
    assert done == (0, {"status": "done", "a": 1})


@pytest.mark.parametrize("ours", [True, False])
def test_a_ray_that_was_running_is_not_shut_down(
    ours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    class RayError(Exception):
        pass

    def get(ready: Any) -> Any:
        if ready == ("sent", 1):
            raise RayError("worker died")
        return {"status": "done"}

    ray, errors = ModuleType("ray"), ModuleType("ray.exceptions")
    ray.is_initialized = lambda: not ours  # type: ignore[attr-defined]
    ray.init = lambda **keys: said.append(f"init {keys}")  # type: ignore[attr-defined]
    ray.shutdown = lambda: said.append("shutdown")  # type: ignore[attr-defined]
    ray.wait = lambda waiting, num_returns: (waiting[-1:], waiting[:-1])  # type: ignore[attr-defined]
    ray.get = get  # type: ignore[attr-defined]
    task = SimpleNamespace(remote=lambda number: ("sent", number))
    ray.remote = lambda **keys: lambda function: task  # type: ignore[attr-defined]
    errors.RayError = RayError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.exceptions", errors)
    keys = {"ray": {"init": {"num_cpus": 2}, "remote": {"num_cpus": 1}}}
    packed: list[Any] = [0, 1]
    answers = list(executors.submit_to_ray(keys, tmp_path, packed))
    assert answers == [
        (1, executors.make_failed_answer(RayError("worker died"))), (0, {"status": "done"}),
    ]  # fmt: skip
    assert said == (["init {'num_cpus': 2}", "shutdown"] if ours else [])


def test_a_run_whose_time_is_up_is_submitted_again_as_it_was() -> None:
    pytest.importorskip("submitit")
    resumable = executors.ResumableJob()
    again = resumable.checkpoint({"run": "text"})
    assert (again.function, again.args) == (resumable, ({"run": "text"},))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_a_launcher_carries_out_all_runs_and_reports_one_that_failed(
    launcher: str, random_model: Path, tmp_path: Path
) -> None:
    if launcher != "joblib":  # slots by another name
        pytest.importorskip(launcher.split("_")[0])
    words = [f"model.path={random_model}", "train.learning_rate=1e-4,1e9", "train.max_steps=3"]
    wild = ["method=ga", "train.max_grad_norm=0"]
    command = ["unlearn", "--multirun", *words, *wild, *SHORT, f"hydra/launcher={launcher}"]
    done = undial(*command, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    rows = rows_of(tmp_path)
    good, bad = (rows[f"train.learning_rate={value}"] for value in ("0.0001", "1000000000.0"))
    assert (good["status"], good["reason"]) == ("done", "")
    assert bad["status"] == "failed"
    assert "diverged" in bad["reason"]
    assert (tmp_path / good["folder"] / "checkpoint" / "model.safetensors").is_file()
    assert not (tmp_path / bad["folder"] / "checkpoint").exists()
    again = undial(*command, cwd=tmp_path)
    assert again.returncode == 1
    assert rows_of(tmp_path)["train.learning_rate=0.0001"]["status"] == "done"
