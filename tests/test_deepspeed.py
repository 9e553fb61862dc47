"""DeepSpeed on two CPU processes: what one process gives, and what a killed run gives."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import read_jsonl
from forked import run_together
from test_distributed import LEAN
from test_fsdp import CASES, SCRIPT, assert_resumed_run, compute_logits, read_losses, read_weights
from test_fsdp import words as words

from undial_cli.cli import run_command

pytest.importorskip("deepspeed")
# By itself it would deal out no weight of fewer than 100,000 numbers.
ALL_SHARED = "hardware.args.deepspeed.zero_optimization.stage3_param_persistence_threshold=0"
ZERO3 = ["hardware=deepspeed_zero3", ALL_SHARED]
ZERO2 = ["hardware=deepspeed_zero2"]
OFFLOAD = [f"hardware.args.deepspeed.zero_optimization.offload_{what}.device=cpu"
           for what in ("optimizer", "param")]  # fmt: skip


def run_deepspeed(
    folder: Path, *commands: list[str], processes: int = 2, **env: str
) -> subprocess.CompletedProcess:
    """Commands one after another, in the same processes."""
    argv = [word for command in commands for word in (*command, "--")]
    return run_together(SCRIPT, argv, folder, processes, **env)


@pytest.mark.slow
def test_a_sharded_run_is_the_run_of_one_process(
    words: list[str],
    random_model: Path,
    untied_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cases = [case for case in CASES if "task_arithmetic" not in case[0][0]]
    runs = [
        [*words, "eval=none", *method, f"adapter={adapter}", *LEAN, "train.max_steps=3",
         f"model.path={random_model if tied else untied_model}", f"name=r{i}"]
        for i, (method, adapter, tied) in enumerate(cases)
    ]  # fmt: skip
    engines = [ZERO3] * len(runs)
    engines[1], engines[2], engines[3] = ZERO2, [*ZERO3, *OFFLOAD], [*ZERO2, *OFFLOAD[:1]]
    done = run_deepspeed(tmp_path, *([*r, *e] for r, e in zip(runs, engines, strict=True)))
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "another"))
    for run, (method, adapter, _) in zip(runs, cases, strict=True):
        assert run_command([*run, f"output_dir={tmp_path / 'whole'}"]) == 0
        one, other = (tmp_path / f / "unlearn" / run[-1][5:] for f in ("outputs", "whole"))
        case = f"{' '.join(method)} {adapter}"
        losses = read_losses(one), read_losses(other)
        for a, b in zip(*losses, strict=True):
            assert a == pytest.approx(b, rel=1e-5, abs=1e-5), case
        assert len({row["loss"] for row in losses[0]}) == 3, case
        sharded, whole = read_weights(one), read_weights(other)
        assert sharded.keys() == whole.keys(), case
        logits = [compute_logits(f / "checkpoint") for f in (one, other)]
        # KL's gradient is rounding alone at first, which AdamW brings to full size.
        assert torch.allclose(*logits, rtol=0, atol=1e-2), case


@pytest.mark.slow
def test_a_killed_run_goes_on_with_two_processes_and_with_one(
    words: list[str], random_model: Path, tmp_path: Path
) -> None:
    def name_run(name: str) -> list[str]:
        engine, adapter = (ZERO2, "none") if "zero2" in name else (ZERO3, "lora")
        return [*words, "eval=none", "method=npo", "method.retain=gdr", f"adapter={adapter}",
                *engine, f"name={name}", f"model.path={random_model}", "train.max_steps=5",
                "train.save_steps=2", "hardware.micro_batch_size=2",
                "train.batch_size=6"]  # fmt: skip

    runs = tmp_path / "outputs" / "unlearn"
    whole = name_run("whole_zero2"), name_run("whole_zero3")
    for name, earlier, before in (("zero2", whole, 10), ("zero3", (), 0)):
        # In the third step, when the state of the second is saved.
        killed = run_deepspeed(tmp_path, *earlier, name_run(name), KILL_AFTER=str(before + 3))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        shutil.copytree(runs / name, runs / f"one_{name}")
    engines = ("zero2", "zero3")
    assert run_deepspeed(tmp_path, *map(name_run, engines)).returncode == 0
    done = run_deepspeed(tmp_path, *(name_run(f"one_{e}") for e in engines), processes=1)
    assert done.returncode == 0, done.stderr
    for engine in engines:
        assert_resumed_run(runs, engine, losses=1e-5, weights=1e-6)


@pytest.mark.slow
def test_an_evaluation_on_the_sharded_model_gives_the_figures_of_one_process(
    words: list[str], random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = [*words, "method=undial", f"model.path={random_model}", "eval.batch_size=2",
           "eval.limit=5", "eval.max_new_tokens=4", "train.max_steps=2", "train.eval_steps=1",
           "train.stop.forget_probability=0", "train.stop.every=2", "name=asked",
           "train.select=retain_probability"]  # fmt: skip
    done = run_deepspeed(tmp_path, [*run, *ZERO3])
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "another"))
    assert run_command([*run, f"output_dir={tmp_path / 'whole'}"]) == 0
    rows, others = (
        [row for row in read_jsonl(tmp_path / f / "unlearn/asked/metrics.jsonl") if "lr" not in row]
        for f in ("outputs", "whole")
    )
    assert {"forget_probability", "retain_rouge"} <= rows[-1].keys()
    folders = [tmp_path / f / "unlearn/asked/checkpoint" for f in ("outputs", "whole")]
    chosen = [json.loads((folder / "selection.json").read_text())["step"] for folder in folders]
    assert chosen == [1, 1]  # whose weights were gathered while it trained on
    assert torch.allclose(*map(compute_logits, folders), rtol=0, atol=1e-2)
    for row, other in zip(rows, others, strict=True):
        assert row == pytest.approx(other, rel=1e-3)  # after two steps of AdamW in float32
