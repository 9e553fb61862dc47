"""What processes share and send, by arithmetic and as two processes on a CPU do it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import prepare, write_qa

from undial_cli.config.schema import TrainingRun
from undial_cli.planning.plan import TrainingPlan, make_plan
from undial_cli.runs.compose import compose_run
from undial_cli.runs.resolved import ResolvedRun

TESTS = Path(__file__).parents[1]
FSDP = [
    "+hardware.args.fsdp=true",
    "+hardware.args.fsdp_config={version: 2, auto_wrap_policy: TRANSFORMER_BASED_WRAP, "
    "reshard_after_forward: true, state_dict_type: FULL_STATE_DICT, cpu_ram_efficient_loading: false}",
]  # fmt: skip


def plan_pair(words: list[str]) -> TrainingPlan:
    """The plan of a run on two processes."""
    run = compose_run("unlearn", [*words, "hardware.num_processes=2"])
    assert isinstance(run, TrainingRun)
    inputs, resolved = prepare(run, weights=False), ResolvedRun(run)
    method, anchor, teacher = resolved.trained_method, resolved.anchor, resolved.teacher
    return make_plan(run, resolved.base, inputs.sets, inputs.samples, method, anchor, teacher)


def measure_pair(words: list[str], folder: Path) -> list[dict[str, Any]]:
    """What each of two processes took and sent in the second step of a run."""
    script = str(TESTS / "planning" / "shared_on_cpu.py")
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         script, str(folder), "unlearn", *words, "name=pair"],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_processes_take_and_send_what_was_planned(
    engine: str, adapter: str, precision: str, wide_model: Path, tmp_path: Path
) -> None:
    words = [
        "data=jsonl", f"data.forget_file={write_qa(tmp_path / 'f.jsonl', 8)}",
        f"data.retain_file={write_qa(tmp_path / 'r.jsonl', 8, 50)}", "method.retain=gdr",
        f"model.path={wide_model}", "hardware=cpu", "eval=none", "report=false",
        f"adapter={adapter}", "train.batch_size=8", "train.max_steps=3", "train.optim=adamw_torch",
        f"hardware.precision={precision}", f"output_dir={tmp_path}",
        *(FSDP if engine == "fsdp" else []),
    ]  # fmt: skip
    plan = plan_pair(words)
    for process in measure_pair(words, tmp_path):
        print(engine, adapter, precision, process, plan.traffic, plan.memory)
