"""A sweep on a Ray cluster of two nodes, one of which is lost in the middle."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from forked import Command
from swept import rows_of

from undial_cli.cli import run_command
from undial_cli.training.states import SEAL_FILE

WORDS = [
    "unlearn", "--multirun", "hardware=cpu", "eval=none", "report=false", "train.max_steps=120",
    "data.retain_split=retain90", "train.save_steps=5", "seed=0,1",
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
        on_cluster = ["hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster.address}"]
        sweep = Command([*words, *on_cluster], tmp_path / "lost", {"RAY_DEDUP_LOGS": "0"})
        runs = tmp_path / "lost" / "outputs" / "unlearn"
        # Both nodes are in a run that has saved a state; a run that is done has none left.
        while len({seal.parents[1] for seal in runs.glob(f"*/resume/*/{SEAL_FILE}")}) < 2:
            assert sweep.poll() is None, sweep.finish()
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)
        done = sweep.finish(timeout=300)
    finally:
        cluster.shutdown()
    assert done.returncode == 0, done
    rows = rows_of(tmp_path / "lost")
    assert [row["status"] for row in rows.values()] == ["done"] * 2
    logs = [(tmp_path / "lost" / row["folder"] / "log.txt").read_text() for row in rows.values()]
    assert sum("resuming at step" in log for log in logs) == 1
    monkeypatch.chdir(tmp_path / "calm")
    assert run_command(words) == 0
    assert read_weights(tmp_path / "lost") == read_weights(tmp_path / "calm")
