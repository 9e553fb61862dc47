"""What large models take of each GPU on 1, 8 and 64 of them: the tables of docs/scale.md.

    python scripts/scale_table.py [--cases 8b 70b-lora 70b-qlora] [--processes 1 8 64]

Memory, work and traffic are those of `plan=true`: the run's own code replayed without numbers on
its largest micro-batch, then shared out (undial_cli/planning). Time is arithmetic on them and on
the figures of the hardware below, which are assumptions: nothing here was measured on a GPU. Needs
no weights and no network; a replay of 70B takes a minute or two on a CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from undial_cli.config.schema import UnlearnRun
from undial_cli.data.encode import IGNORE, Example
from undial_cli.losses.chunked import LOGITS_PER_CHUNK
from undial_cli.methods import make_method
from undial_cli.planning.plan import TrainingPlan, make_plan
from undial_cli.runs.compose import compose_run
from undial_cli.system.quiet import silence_libraries
from undial_cli.training.teacher_pass import TEACHER_PASS_TOKENS

# The published shapes of Llama 3.1.
SHAPES: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                     "num_attention_heads": 32},
    "Llama-3.1-70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
                      "num_attention_heads": 64},
}  # fmt: skip
COMMON = {"vocab_size": 128256, "num_key_value_heads": 8, "tie_word_embeddings": False}
# Shape, and what is trained.
CASES = {
    "8b": ("Llama-3.1-8B", "none"),
    "70b-lora": ("Llama-3.1-70B", "lora"),
    "70b-qlora": ("Llama-3.1-70B", "qlora"),
}
# A step: so many forget and as many retain sequences of so many tokens, half of them targets.
BATCH, TOKENS = 64, 512
# The most sequences that a device takes at a time.
MOST_AT_ONCE = 4
# Assumed of each GPU: FLOP/s in bfloat16 that its maker states, the share of them that is reached,
# its memory, and what it sends a second within a node of 8 and between nodes.
PEAK, SHARE, MEMORY = 989e12, 0.4, 80e9
WITHIN, BETWEEN = 300e9, 40e9


@dataclass
class Estimate:
    """A case on so many processes."""

    processes: int
    plan: TrainingPlan

    @property
    def compute(self) -> float:
        """Seconds of matrix products in a step."""
        return self.plan.step.flops / (PEAK * SHARE)

    @property
    def exchange(self) -> float:
        """Seconds that a step's traffic takes by itself."""
        return self.plan.traffic / (WITHIN if self.processes <= 8 else BETWEEN)


def count_parameters(shape: str) -> tuple[float, float]:
    """Billions of parameters of a shape: in linear layers but the head, and outside them."""
    width, inner = SHAPES[shape]["hidden_size"], SHAPES[shape]["intermediate_size"]
    layers, heads = SHAPES[shape]["num_hidden_layers"], SHAPES[shape]["num_attention_heads"]
    shared = COMMON["num_key_value_heads"] / heads
    linear = layers * (width * width * (2 + 2 * shared) + 3 * width * inner)
    rest = 2 * COMMON["vocab_size"] * width + (2 * layers + 1) * width
    return linear / 1e9, rest / 1e9


def make_examples() -> list[Example]:
    """A step's sequences, of random tokens."""
    numbers = random.Random(0)
    examples = []
    for _ in range(BATCH):
        ids = [numbers.randrange(COMMON["vocab_size"]) for _ in range(TOKENS)]
        half = TOKENS // 2
        examples.append(Example(ids, [IGNORE] * half + ids[half:], TOKENS))
    return examples


def compose_case(case: str, processes: int, folder: Path) -> UnlearnRun:
    """The run of a case; it is planned as on GPUs, with bf16 autocast."""
    shape, adapter = CASES[case]
    LlamaConfig(**COMMON, **SHAPES[shape], max_position_embeddings=8192).save_pretrained(folder)
    micro = min(MOST_AT_ONCE, -(-BATCH // processes))
    words = [
        "model=llama8b", f"model.path={folder}", "data=jsonl", "method=undial",
        "method.retain=gdr", f"adapter={adapter}", f"train.batch_size={BATCH}",
        "train.activation_checkpointing=true", f"hardware.micro_batch_size={micro}",
        f"hardware.num_processes={processes}", "hardware.precision=bf16", "teacher.cache=disk",
        "data.max_length=512", "train.max_steps=1", "train.packing=off",
        # 4-bit weights are not shared: a copy on each is as good, and sends less.
        f"hardware={'single_gpu' if processes == 1 else 'ddp' if adapter == 'qlora' else 'fsdp'}",
    ]  # fmt: skip
    run = compose_run("unlearn", words)
    assert isinstance(run, UnlearnRun)
    return run


def estimate_case(case: str, processes: int, examples: list[Example]) -> Estimate:
    """The plan of a case."""
    with tempfile.TemporaryDirectory(prefix="undial-scale-") as folder:
        run = compose_case(case, processes, Path(folder))
        sets = {"forget": examples, "retain": examples}
        method = make_method(run.method, run.seed)
        with contextlib.redirect_stdout(io.StringIO()):
            plan = make_plan(run, folder, sets, {}, method, "forget", run.teacher)
        return Estimate(processes, plan)


def show_case(case: str, estimates: list[Estimate]) -> None:
    """A table of a case, and its arithmetic."""
    shape, adapter = CASES[case]
    kind = {"none": "full fine-tuning", "lora": "LoRA", "qlora": "QLoRA (NF4), a copy on each"}[
        adapter
    ]
    plan = estimates[0].plan
    print(f"\n### {shape}, {kind}\n")
    parameters = sum(count_parameters(shape))
    print(f"{parameters:.2f} billion parameters, {plan.trained / 1e6:.1f} million trained.\n")
    print("| GPUs | sequences at once | weights | optimiser | gradients | peak | fits 80 GB | "
          "PFLOP each | sent by each | products | exchange | s a step |")  # fmt: skip
    print("| ---: |" + " ---: |" * 11)
    for e in estimates:
        m, p = e.plan.memory, e.plan
        low, high = max(e.compute, e.exchange), e.compute + e.exchange
        fits = "yes" if m.peak <= 0.9 * MEMORY else "no"
        print(
            f"| {e.processes} | {p.micro} | {m.weights / 1e9:.1f} GB | {m.optimiser / 1e9:.1f} GB "
            f"| {m.gradients / 1e9:.1f} GB | {m.peak / 1e9:.1f} GB | {fits} "
            f"| {p.step.flops / 1e15:.2f} | {p.traffic / 1e9:.1f} GB | {e.compute:.2f} s "
            f"| {e.exchange:.2f} s | {low:.2f} to {high:.2f} |",
            flush=True,
        )
    print("\nBy hand:\n")
    show_arithmetic(shape, adapter, estimates)


def show_arithmetic(shape: str, adapter: str, estimates: list[Estimate]) -> None:
    """The figures of a table once more, from the number of parameters alone."""
    tokens, plan = 2 * BATCH * TOKENS, estimates[0].plan
    linear, rest = count_parameters(shape)
    billions, trained = linear + rest, plan.trained / 1e9
    passes_of_work = 8 if adapter == "none" else 6
    counted = estimates[0].plan.step.flops * estimates[0].processes / 1e15
    print(
        f"- work: {passes_of_work} (2 forward, 2 forward again, {passes_of_work - 4} backward) x "
        f"{billions:.2f} billion x {tokens} tokens = "
        f"{passes_of_work * billions * tokens / 1e6:.1f} PFLOP on all GPUs together; the replay "
        f"counts {counted:.1f}: it has attention too, and the head at targets alone"
    )
    for e in estimates:
        n, away = e.processes, 1 - 1 / e.processes
        if adapter == "none":
            each = (2, 4, 2) if n == 1 else (4, 8, 4)  # see docs/scale.md on the two
            held = sum(each) * billions / n
            print(f"- held on {n}: ({each[0]} weights + {each[1]} optimiser + {each[2]} gradients) "
                  f"x {billions:.2f} GB / {n} = {held:.1f} GB")  # fmt: skip
        elif adapter == "lora":
            print(f"- held on {n}: 2 x {billions:.2f} GB / {n} = {2 * billions / n:.1f} GB of "
                  "weights; all else is small")  # fmt: skip
        else:
            outside = e.plan.memory.weights / 1e9 - 0.516 * linear
            print(f"- held on each of {n}: 0.516 x {linear:.2f} GB in 4 bits, and "
                  f"{outside / rest:.1f} x {rest:.2f} GB: embedding, head, adapter")  # fmt: skip
        if n > 1 and adapter != "qlora":
            passes = 2 * -(-BATCH // (n * e.plan.micro))
            sent = passes * away * 2 * (2 * billions + trained)
            print(f"- sent by each of {n}: {passes} passes x {away:.3f} x 2 bytes x (2 x "
                  f"{billions:.2f} weights + {trained:.2f} gradients) = {sent:.0f} GB; the head is "
                  "gathered only once a pass")  # fmt: skip


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="what large models take on 1, 8 and 64 GPUs")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 8, 64])
    given = parser.parse_args()
    silence_libraries()
    for sizes in (LOGITS_PER_CHUNK, TEACHER_PASS_TOKENS):  # what a GPU takes, planned on a CPU
        sizes["cpu"] = sizes["cuda"]
    print(f"A step: {BATCH} forget and {BATCH} retain sequences of {TOKENS} tokens, half of them "
          f"targets; undial with gdr, bf16, activation checkpointing. Assumed: "
          f"{PEAK / 1e12:.0f} TFLOP/s of which {SHARE:.0%} are reached, {WITHIN / 1e9:.0f} GB/s "
          f"within a node of 8, {BETWEEN / 1e9:.0f} GB/s between nodes.")  # fmt: skip
    examples = make_examples()
    for case in given.cases:
        show_case(case, [estimate_case(case, n, examples) for n in given.processes])


if __name__ == "__main__":
    main()
