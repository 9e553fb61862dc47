"""One run on two machines: as on one process; and when one of them is lost, the other ends.

The machines are two launchers on this one, which meet at a port. Started as srun does it and as
torchrun does it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import undial
from test_distributed import ROWS, write_answers

# By number and port: the command of a node, and what its environment says.
Start = Callable[[int, int], tuple[list[str], dict[str, str]]]
# A node that has lost another one ends within so many seconds.
GRACE = 60


def find_free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def as_srun(node: int, port: int) -> tuple[list[str], dict[str, str]]:
    """The command of a node's task, and what srun tells it."""
    told = {
        "SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_STEP_NODELIST": "localhost,other",
        "SLURM_NODEID": str(node), "SLURM_PROCID": str(node), "SLURM_LOCALID": "0",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    return [sys.executable, "-m", "undial_cli.cli"], told


def as_torchrun(node: int, port: int) -> tuple[list[str], dict[str, str]]:
    """The same of torchrun: a launcher on each node."""
    words = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node),
        "--master-addr", "127.0.0.1", "--master-port", str(port), "--nproc-per-node", "1",
        "-m", "undial_cli.cli",
    ]  # fmt: skip
    return words, {}


@pytest.fixture
def words(tmp_path: Path, random_model: Path) -> list[str]:
    forget = write_answers(tmp_path / "forget.jsonl", range(ROWS))
    retain = write_answers(tmp_path / "retain.jsonl", range(100, 123))
    return [
        "unlearn", "data=jsonl", f"data.forget_file={forget}", f"data.retain_file={retain}",
        f"model.path={random_model}", "method.retain=gdr", "hardware=cpu", "eval=none",
        "model.dtype=float64", "train.batch_size=8", "report=false", "name=run",
    ]  # fmt: skip


def start_nodes(start: Start, words: list[list[str]], cwd: Path) -> list[subprocess.Popen]:
    """A node for each list of words, of one run."""
    port, nodes = find_free_port(), []
    for node, words_of_it in enumerate(words):
        command, told = start(node, port)
        nodes.append(
            subprocess.Popen(
                [*command, *words_of_it],
                cwd=cwd,
                env={**os.environ, **told},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )
    return nodes


def read_losses(folder: Path) -> list[float]:
    lines = (folder / "unlearn" / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("start", [as_srun, as_torchrun])
def test_two_nodes_train_as_one_process_does(
    start: Start, words: list[str], tmp_path: Path
) -> None:
    words = [*words, "train.max_steps=5"]
    nodes = start_nodes(start, [[*words, "output_dir=two"]] * 2, tmp_path)
    texts = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], texts
    assert [text.count("done, without evaluation") for text in texts] == [1, 0]
    folder = tmp_path / "two" / "unlearn" / "run"
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    alone = undial(*words, "output_dir=one", "hardware.num_processes=1", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    losses = read_losses(tmp_path / "two")
    assert losses == pytest.approx(read_losses(tmp_path / "one"), rel=1e-9)
    assert len(set(losses)) == 5


@pytest.mark.slow
def test_a_node_ends_when_the_other_is_lost(words: list[str], tmp_path: Path) -> None:
    nodes = start_nodes(as_srun, [[*words, "train.epochs=1000"]] * 2, tmp_path)
    metrics = tmp_path / "outputs" / "unlearn" / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 3):
        assert nodes[0].poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(nodes[1].pid, signal.SIGKILL)
    text = nodes[0].communicate(timeout=GRACE)[0]
    assert nodes[0].returncode == 1
    line = text.strip().splitlines()[-1]
    assert line.startswith("undial: process 0 of 2: another process of this run is gone")
    status = json.loads(metrics.with_name("status.json").read_text())
    assert status["status"] == "failed"
    assert "another process of this run is gone" in status["reason"]


@pytest.mark.slow
def test_nodes_that_were_given_different_runs_are_refused(words: list[str], tmp_path: Path) -> None:
    nodes = start_nodes(as_srun, [[*words, f"seed={seed}"] for seed in range(2)], tmp_path)
    texts = [node.communicate(timeout=120)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [2, 2], texts
    assert "undial: seed=1 in process 1 and 0 in process 0: what torchrun" in texts[0]
    assert not (tmp_path / "outputs").exists()
