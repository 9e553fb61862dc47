"""Tasks of a SLURM step get the variables that torchrun would set; all other processes get none."""

from __future__ import annotations

import os

import pytest
from conftest import refused

from undial_cli.system.launcher_environment import (
    LAUNCHER_VARIABLES,
    MEETING_VARIABLES,
    adopt_slurm_step,
    is_launched,
)

# As srun sets them for the last task of a step of five, on three nodes.
STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "gpu[007,009-010]",
    "SLURM_NODEID": "2",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing of a launcher is set, nor stays so."""
    for name in (*LAUNCHER_VARIABLES, *MEETING_VARIABLES, "LOCAL_WORLD_SIZE", "GROUP_RANK"):
        monkeypatch.setenv(name, "")  # put back in the end, whatever adopts it meanwhile
        monkeypatch.delenv(name)
    return monkeypatch


def adopt(environment: pytest.MonkeyPatch, **changed: str) -> dict[str, str]:
    """What a task of a step with these variables is told."""
    for name, value in {**STEP, **changed}.items():
        environment.setenv(name, value)
    adopt_slurm_step()
    names = (*LAUNCHER_VARIABLES, *MEETING_VARIABLES, "LOCAL_WORLD_SIZE", "GROUP_RANK")
    return {name: os.environ[name] for name in names if name in os.environ}


def test_a_task_of_a_step_is_a_process_of_one_run(environment: pytest.MonkeyPatch) -> None:
    assert adopt(environment) == {
        "RANK": "4", "WORLD_SIZE": "5", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1",
        "GROUP_RANK": "2", "MASTER_ADDR": "gpu007", "MASTER_PORT": "27378",
    }  # fmt: skip
    assert is_launched()


@pytest.mark.parametrize(
    ("nodes", "tasks", "host"),
    [
        ("node1,node2", "1(x2)", "node1"),
        ("n-a[3].site,login", "1,4", "n-a3.site"),
        ("rack[1-2]x,other", "1(x3)", "rack1x"),
        ("alone", "5", "127.0.0.1"),
    ],
)
def test_the_first_host_of_a_step_is_where_they_meet(
    nodes: str, tasks: str, host: str, environment: pytest.MonkeyPatch
) -> None:
    told = adopt(
        environment, SLURM_STEP_NODELIST=nodes, SLURM_STEP_TASKS_PER_NODE=tasks, SLURM_NODEID="0"
    )
    assert told["MASTER_ADDR"] == host


@pytest.mark.parametrize(("visible", "rank"), [("", "3"), ("0,1,2,3", "3"), ("2", "0")])
def test_a_task_that_sees_one_gpu_takes_it(
    visible: str, rank: str, environment: pytest.MonkeyPatch
) -> None:
    told = adopt(environment, CUDA_VISIBLE_DEVICES=visible, SLURM_LOCALID="3")
    assert told["LOCAL_RANK"] == rank


def test_steps_of_one_job_meet_at_ports_of_their_own(environment: pytest.MonkeyPatch) -> None:
    ports = set()
    for job in ("1", "99999999"):
        for step in ("0", "1", "15"):
            for name in (*LAUNCHER_VARIABLES, "MASTER_PORT"):
                environment.delenv(name, raising=False)
            told = adopt(environment, SLURM_JOB_ID=job, SLURM_STEP_ID=step)
            ports.add(int(told["MASTER_PORT"]))
    assert len(ports) == 6
    assert all(12000 <= port < 32768 for port in ports)


def test_what_a_launcher_or_the_user_set_stays(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MASTER_PORT", "4242")
    assert adopt(environment)["MASTER_PORT"] == "4242"
    for name in LAUNCHER_VARIABLES:
        environment.setenv(name, "0")
    assert adopt(environment)["RANK"] == "0"


def test_a_task_alone_starts_its_own_processes(environment: pytest.MonkeyPatch) -> None:
    assert adopt(environment, SLURM_STEP_NUM_TASKS="1") == {}
    environment.delenv("SLURM_STEP_NUM_TASKS")  # a batch script
    adopt_slurm_step()
    assert not is_launched()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"SLURM_PROCID": "first"}, "SLURM_PROCID=first"),
        ({"SLURM_NODEID": "-1"}, "SLURM_NODEID=-1"),
        ({"SLURM_LOCALID": "-1"}, "SLURM_LOCALID=-1"),
        ({"SLURM_STEP_NUM_TASKS": "-5"}, "SLURM_STEP_NUM_TASKS=-5"),
        ({"SLURM_NODEID": "3"}, "SLURM_STEP_NUM_TASKS=5"),
        ({"SLURM_STEP_TASKS_PER_NODE": "two"}, "SLURM_STEP_TASKS_PER_NODE=two"),
    ],
)
def test_variables_that_do_not_fit_are_refused(
    changed: dict[str, str], text: str, environment: pytest.MonkeyPatch
) -> None:
    refused(lambda: adopt(environment, **changed), "a step of several tasks", text)
