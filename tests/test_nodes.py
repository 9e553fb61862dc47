"""One run on two machines: as on one process; and when one of them is lost, the other ends.

The machines are two launchers on this one, which meet at a port; or in two network namespaces, each
with an address of its own, joined by a cable. Started as srun does it and as torchrun does it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from conftest import undial
from forked import Command
from test_distributed import ROWS, write_answers

# By number, and the address and port of the first: the command of a node, and what it is told.
Start = Callable[[int, str, int], tuple[list[str], dict[str, str]]]
Node = Command | subprocess.Popen
# A node that has lost another one ends within so many seconds.
GRACE = 60
SHORT = ["train.max_steps=5"]


def find_free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_srun(node: int, host: str, port: int) -> tuple[list[str], dict[str, str]]:
    """A node's task is the command itself; what srun tells it."""
    told = {
        "SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_STEP_NODELIST": f"{host},other",
        "SLURM_NODEID": str(node), "SLURM_PROCID": str(node), "SLURM_LOCALID": "0",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    return [], told


def as_torchrun(node: int, host: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The same of torchrun: a launcher on each node."""
    words = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node),
        "--master-addr", host, "--master-port", str(port), "--nproc-per-node", "1",
        "-m", "undial_cli.cli",
    ]  # fmt: skip
    return words, {}


@dataclass
class Machines:
    """Where the first node is met, and what starts a command on each of the two."""

    host: str
    shells: list[list[str]]


HERE = Machines("127.0.0.1", [[], []])


@pytest.fixture
def machines(request: pytest.FixtureRequest) -> Iterator[Machines]:
    """Both on this machine (False), or each in a network namespace of its own, where root and
    iproute2's ip can make them (True)."""
    if not request.param or shutil.which("ip") is None or os.geteuid() != 0:
        yield HERE
        return
    names = [f"undial-{os.getpid()}-{node}" for node in range(2)]
    hosts = ["10.77.0.1", "10.77.0.2"]
    commands = [f"netns add {name}" for name in names]
    commands.append(f"link add eth0 netns {names[0]} type veth peer name eth0 netns {names[1]}")
    for name, host in zip(names, hosts, strict=True):
        commands += [f"-n {name} address add {host}/24 dev eth0"]
        commands += [f"-n {name} link set {link} up" for link in ("lo", "eth0")]
        commands += [f"netns exec {name} true"]
    try:
        ends = (subprocess.run(["ip", *words.split()], capture_output=True) for words in commands)
        made = all(end.returncode == 0 for end in ends)
        shells = [["ip", "netns", "exec", name] for name in names]
        yield Machines(hosts[0], shells) if made else HERE
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, random_model: Path) -> list[str]:
    folder = tmp_path_factory.mktemp("rows")
    forget = write_answers(folder / "forget.jsonl", range(ROWS))
    retain = write_answers(folder / "retain.jsonl", range(100, 123))
    return [
        "unlearn", "data=jsonl", f"data.forget_file={forget}", f"data.retain_file={retain}",
        f"model.path={random_model}", "method.retain=gdr", "hardware=cpu", "eval=none",
        "model.dtype=float64", "train.batch_size=8", "report=false", "name=run",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def losses_alone(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Of five steps on one process."""
    folder = tmp_path_factory.mktemp("alone")
    alone = undial(*words, *SHORT, "output_dir=one", "hardware.num_processes=1", cwd=folder)
    assert alone.returncode == 0, alone.stderr
    return read_losses(folder / "one")


@contextlib.contextmanager
def start_nodes(
    start: Start, words: list[list[str]], cwd: Path, machines: Machines = HERE
) -> Iterator[list[Node]]:
    """A node for each list of words, of one run; none is left."""
    port, nodes = find_free_port(), list[Node]()
    try:
        for node, words_of_it in enumerate(words):
            command, told = start(node, machines.host, port)
            nodes.append(
                Command(words_of_it, cwd, told)
                if not command
                else subprocess.Popen(
                    [*machines.shells[node], *command, *words_of_it],
                    cwd=cwd,
                    env={**os.environ, **told},
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        yield nodes
    finally:
        for node in nodes:
            if node.poll() is None:
                for process in psutil.Process(node.pid).children(recursive=True):
                    process.kill()
                node.kill()
                node.wait()


def finish_node(node: Node, timeout: float) -> tuple[int, str]:
    """The exit code of a node, once it has ended, and what it said."""
    if isinstance(node, Command):
        done = node.finish(timeout)
        return done.returncode, done.stdout + done.stderr
    text = node.communicate(timeout=timeout)[0]
    return node.returncode, text


def read_losses(folder: Path) -> list[float]:
    lines = (folder / "unlearn" / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "machines"),
    [(as_srun, False), (as_torchrun, True)],
    indirect=["machines"],
)
def test_two_nodes_train_as_one_process_does(
    start: Start, machines: Machines, words: list[str], losses_alone: list[float], tmp_path: Path
) -> None:
    with start_nodes(start, [[*words, *SHORT]] * 2, tmp_path, machines) as nodes:
        codes, texts = zip(*(finish_node(node, 300) for node in nodes), strict=True)
    assert codes == (0, 0), texts
    assert [text.count("done, without evaluation") for text in texts] == [1, 0]
    environment = tmp_path / "outputs" / "unlearn" / "run" / "environment.json"
    assert json.loads(environment.read_text())["processes"] == 2
    losses = read_losses(tmp_path / "outputs")
    assert losses == pytest.approx(losses_alone, rel=1e-9)
    assert len(set(losses)) == 5


@pytest.mark.slow
def test_a_node_ends_when_the_other_is_lost(words: list[str], tmp_path: Path) -> None:
    metrics = tmp_path / "outputs" / "unlearn" / "run" / "metrics.jsonl"
    with start_nodes(as_srun, [[*words, "train.epochs=1000"]] * 2, tmp_path) as nodes:
        deadline = time.monotonic() + 120
        while not (metrics.is_file() and metrics.read_text().count("\n") >= 3):
            assert nodes[0].poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        nodes[1].kill()
        code, text = finish_node(nodes[0], GRACE)
    assert code == 1
    line = text.strip().splitlines()[-1]
    assert line.startswith("undial: process 0 of 2: another process of this run is gone")
    status = json.loads(metrics.with_name("status.json").read_text())
    assert status["status"] == "failed"
    assert "another process of this run is gone" in status["reason"]


@pytest.mark.slow
def test_nodes_that_were_given_different_runs_are_refused(words: list[str], tmp_path: Path) -> None:
    of_each = [[*words, f"seed={seed}"] for seed in range(2)]
    with start_nodes(as_srun, of_each, tmp_path) as nodes:
        codes, texts = zip(*(finish_node(node, 120) for node in nodes), strict=True)
    assert codes == (2, 2), texts
    assert "undial: seed=1 in process 1 and 0 in process 0: what torchrun" in texts[0]
    assert not (tmp_path / "outputs").exists()
