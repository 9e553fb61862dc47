"""What processes share and send, by arithmetic and as two processes on a CPU do it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import prepare, write_qa
from small import random_llama

from undial_cli.config.schema import TrainingRun
from undial_cli.planning.plan import TrainingPlan, make_plan
from undial_cli.planning.rehearsal import DeviceMemory
from undial_cli.planning.sharing import share_among_processes
from undial_cli.runs.compose import compose_run
from undial_cli.runs.resolved import ResolvedRun

TESTS = Path(__file__).parents[1]
FSDP = [
    "hardware.args.fsdp=true",
    "hardware.args.fsdp_config={version: 2, auto_wrap_policy: TRANSFORMER_BASED_WRAP, "
    "reshard_after_forward: true, state_dict_type: FULL_STATE_DICT, "
    "cpu_ram_efficient_loading: false}",
]


def share_with(run_words: list[str], model: Any, processes: int) -> tuple[DeviceMemory, float]:
    """100 bytes of buffers beside the weights, two means, 1000 bytes of activations, two passes."""
    run = compose_run("unlearn", run_words)
    assert isinstance(run, TrainingRun)
    weights = sum(p.nbytes for p in model.parameters())
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    level = 100 + weights + 2 * trained
    memory = DeviceMemory(
        weights=100 + weights, optimiser=2 * trained, gradients=trained,
        step=level + trained + 1000, teacher_pass=100 + weights + 50,
    )  # fmt: skip
    return memory, share_among_processes(run, memory, model, processes, passes=2)


# Of the small model, in numbers: a layer; the head; the embedding and the last norm.
LAYER = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64 + 2 * 32
HEAD, REST = 64 * 32, 64 * 32 + 32


def test_shards_divide_what_is_shared() -> None:
    memory, sent = share_with(FSDP, random_llama(tied=False), 4)
    whole = 4 * (2 * LAYER + HEAD + REST)
    assert memory.weights == 100 + whole / 4
    assert (memory.optimiser, memory.gradients) == (whole / 2, whole / 4)
    # The head and two layers are whole while one computes, and the gradients of one.
    at_once = 4 * (HEAD + 2 * LAYER)
    assert memory.step == 100 + whole + 1000 + at_once + 4 * LAYER
    assert memory.teacher_pass == 100 + whole / 4 + 50 + at_once
    # Two passes, the weights gathered twice in each, but the head once; gradients once.
    assert sent == 2 * 0.75 * (3 * whole - 4 * HEAD)


def test_with_mixed_precision_shards_are_of_float32_and_half_of_it_is_sent() -> None:
    model = random_llama(tied=False, dtype=torch.bfloat16).requires_grad_(True)
    memory, sent = share_with([*FSDP, "hardware.precision=bf16"], model, 4)
    numbers = 2 * LAYER + HEAD + REST
    assert memory.weights == 100 + 4 * numbers / 4
    assert (memory.optimiser, memory.gradients) == (2 * 4 * numbers / 4, 4 * numbers / 4)
    assert sent == 2 * 0.75 * 2 * (3 * numbers - HEAD)


def test_weights_in_four_bits_are_whole_on_each_process() -> None:
    model = random_llama(tied=False).requires_grad_(False)
    for module in model.modules():
        if type(module) is torch.nn.Linear:  # not the head
            held = torch.empty(module.weight.numel() // 2, dtype=torch.uint8)
            module.weight = torch.nn.Parameter(held, requires_grad=False)
    memory, sent = share_with([*FSDP, "adapter=qlora"], model, 4)
    norms = 2 * 2 * 32
    assert memory.weights == 100 + (2 * LAYER - norms) / 2 + 4 * (norms + HEAD + REST) / 4
    assert sent == 2 * 0.75 * 4 * (2 * (norms + REST) + HEAD)


def test_copies_of_a_model_exchange_their_gradients() -> None:
    model = random_llama(tied=False)
    memory, sent = share_with([], model, 4)
    whole = sum(p.nbytes for p in model.parameters())
    assert memory.copies == whole
    assert sent == 2 * 0.75 * whole
    assert share_with([], model, 1)[1] == 0


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
@pytest.mark.parametrize(
    "words",
    [
        # Trained in float32 and computed in bf16, as accelerate has it.
        ["model.dtype=bfloat16", "hardware.precision=bf16", *FSDP],
        ["adapter=lora", *FSDP],
    ],
    ids=["sharded", "adapter"],
)
def test_two_processes_take_and_send_what_was_planned(
    words: list[str], wide_model: Path, tmp_path: Path
) -> None:
    words = [
        "data=jsonl", f"data.forget_file={write_qa(tmp_path / 'f.jsonl', 8)}",
        f"data.retain_file={write_qa(tmp_path / 'r.jsonl', 8, 50)}", "method.retain=gdr",
        f"model.path={wide_model}", "hardware=cpu", "eval=none", "report=false",
        "train.batch_size=8", "train.max_steps=2", "train.optim=adamw_torch",
        f"output_dir={tmp_path}", *words,
    ]  # fmt: skip
    plan = plan_pair(words)
    processes = measure_pair(words, tmp_path)
    for process in processes:
        assert process["sent"] == pytest.approx(plan.traffic, rel=0.01)
    assert plan.memory.step == pytest.approx(max(p["peak"] for p in processes), rel=0.1)
