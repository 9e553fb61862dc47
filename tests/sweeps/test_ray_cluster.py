"""A sweep on a Ray cluster of two nodes, one of which is lost in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from swept import rows_of

from undial_cli.cli import run_command
from undial_cli.training.states import SEAL_FILE

WORDS = [
    "unlearn", "--multirun", "hardware=cpu", "eval=none", "report=false", "train.max_steps=60",
    "data.retain_split=retain90", "train.save_steps=2", "seed=0,1,2,3",
]  # fmt: skip


def read_weights(folder: Path) -> dict[str, bytes]:
    """The weights of each run of a sweep, by its name."""
    return {
        label: (folder / row["folder"] / "checkpoint" / "model.safetensors").read_bytes()
        for label, row in rows_of(folder).items()
    }


@pytest.mark.slow
def test_a_sweep_goes_on_when_a_node_is_lost(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    words = [*WORDS, f"model.path={random_model}"]
    (tmp_path / "lost").mkdir()
    (tmp_path / "calm").mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        sweep = subprocess.Popen(
            [sys.executable, "-m", "undial_cli.cli", *words, "hydra/launcher=ray",
             f"hydra.launcher.ray.init.address={cluster.address}"],
            cwd=tmp_path / "lost", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "RAY_DEDUP_LOGS": "0"},
        )  # fmt: skip
        runs = tmp_path / "lost" / "outputs" / "unlearn"
        # Both nodes are in a run that has saved a state to its end.
        while len({seal.parents[1] for seal in runs.glob(f"*/resume/*/{SEAL_FILE}")}) < 2:
            assert sweep.poll() is None, sweep.stdout and sweep.stdout.read()
            time.sleep(0.1)
        cluster.remove_node(node, allow_graceful=False)
        text = sweep.communicate(timeout=300)[0]
    finally:
        cluster.shutdown()
    assert sweep.returncode == 0, text
    rows = rows_of(tmp_path / "lost")
    assert [row["status"] for row in rows.values()] == ["done"] * 4
    logs = [(tmp_path / "lost" / row["folder"] / "log.txt").read_text() for row in rows.values()]
    assert sum("resuming at step" in log for log in logs) == 1
    monkeypatch.chdir(tmp_path / "calm")
    assert run_command(words) == 0
    assert read_weights(tmp_path / "lost") == read_weights(tmp_path / "calm")
