"""The parts of `make gpu`: each measures one thing on the device and returns rows of a table.

Every model has random weights that are made on the device; nothing is downloaded. On a rehearsal
the same functions run on the CPU with tiny shapes. Which parts there are, in which order and how
long each may take is bench_gpu.py's.

Shapes: B sequences, T tokens, N target positions, V vocabulary, D width.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench_training import ROPE, SHAPES, Bench, flops, seconds
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import AutoModelForCausalLM, LlamaConfig

from undial_cli.config.schema import AdapterConfig, UnlearnRun
from undial_cli.data.collate import pad_examples, pad_prompts
from undial_cli.data.encode import IGNORE, Example
from undial_cli.evaluation.decoding import Decoding, decode_prompts
from undial_cli.evaluation.scoring import score_answers
from undial_cli.losses.targets import as_targets
from undial_cli.losses.undial import fused_undial_loss, undial_loss
from undial_cli.methods import make_method
from undial_cli.methods.base import CrossEntropy
from undial_cli.models import adapters, lean_forwards, lora
from undial_cli.models.head import install_head
from undial_cli.planning.plan import TrainingPlan, make_plan
from undial_cli.runs.compose import compose_run
from undial_cli.system.quiet import silence_libraries
from undial_cli.training import loop, packing
from undial_cli.training.callbacks import read_metrics
from undial_cli.training.teacher import fill_teacher, make_teacher

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
# Half-precision TFLOP/s of the tensor cores without sparsity, by a part of the device's name, as
# its maker states them. The first that fits counts.
PEAK_TFLOPS = {
    "H100 PCIe": 756, "H100": 989, "H200": 989, "A100": 312, "L40S": 362, "L4": 121, "A10": 125,
    "RTX 4090": 165, "RTX 3090": 71, "RTX A6000": 155,
}  # fmt: skip
STRENGTH = 10.0
TINY_MODEL = "pkg://undial_cli/models/tiny"


class NotDone(Exception):
    """A part does not fit here, or something that it needs is missing."""


@dataclass(frozen=True)
class Data:
    """Random sequences: how many in a batch, how many steps, their lengths, the shared beginning.

    `answer`: the share of the tokens behind the beginning that are targets.
    """

    batch: int
    steps: int
    lengths: tuple[int, int]
    shared: int
    answer: float


@dataclass(frozen=True)
class Scale:
    """On what the parts run, and how large they are."""

    device: torch.device
    tiny: bool

    def shape(self, name: str) -> dict[str, Any]:
        """Sizes of a model, by its name in `SHAPES`."""
        sizes = SHAPES[name][0]
        if not self.tiny:
            return sizes
        return {
            "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2,
            "tie_word_embeddings": sizes["tie_word_embeddings"],
        }  # fmt: skip

    def data(self, name: str) -> Data:
        """Questions and answers of TOFU's lengths, or texts that are targets throughout."""
        if self.tiny:
            return Data(4, 4, (30, 40) if name == "questions" else (60, 60), 10, 0.5)
        return {
            "questions": Data(32, 10, (60, 130), 30, 0.5),
            "few questions": Data(8, 10, (60, 130), 3, 0.5),
            "texts": Data(4, 6, (2048, 2048), 0, 1.0),
        }[name]

    @property
    def peak_tflops(self) -> float | None:
        """What the device's maker states, where it is known."""
        if self.device.type != "cuda":
            return None
        name = torch.cuda.get_device_name()
        return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)

    @property
    def memory(self) -> float:
        """Bytes that the device has; on a CPU more than any tiny model takes."""
        return torch.cuda.mem_get_info()[1] if self.device.type == "cuda" else 1e12

    def check_room(self, needed: float, what: str) -> None:
        """Raise NotDone for what the device cannot hold."""
        if needed > self.memory:
            raise NotDone(f"{what} {needed / 1e9:.1f} GB, the device has {self.memory / 1e9:.1f}")


def make_examples(data: Data, vocab: int) -> list[Example]:
    """The sequences of all steps; the same for every way of training."""
    numbers = random.Random(0)
    beginning = [numbers.randrange(3, vocab) for _ in range(data.shared)]
    examples = []
    for _ in range(data.batch * data.steps):
        length = numbers.randint(*data.lengths)
        ids = beginning + [numbers.randrange(3, vocab) for _ in range(length - data.shared)]
        first = length - round(data.answer * (length - data.shared))
        first = max(first, 1)
        examples.append(Example(ids, [IGNORE] * first + ids[first:], length))
    return examples


def make_config(scale: Scale, shape: str) -> LlamaConfig:
    """The config of a shape."""
    return LlamaConfig(
        **scale.shape(shape), rope_parameters=ROPE, max_position_embeddings=4096,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip


def make_model(scale: Scale, shape: str, adapter: str, lean: bool = False) -> Any:
    """A model in training, in bfloat16, its weights made on the device."""
    torch.manual_seed(0)
    with scale.device:
        model: Any = AutoModelForCausalLM.from_config(
            make_config(scale, shape), dtype=torch.bfloat16, attn_implementation="sdpa"
        )
    install_head(model)
    if lean:
        lean_forwards.make_lean(model)
    if adapter == "qlora":
        quantise_layers(model, scale.device)
    return lora.adapt_model(model, AdapterConfig(name=adapter), seed=0).train()


def quantise_layers(model: Any, device: torch.device) -> None:
    """Put a model's linear layers but the head into 4 bits, one after the other, as in QLoRA."""
    try:
        from bitsandbytes.nn.modules import Linear4bit, Params4bit
    except ImportError as error:
        raise NotDone("bitsandbytes is not installed (extra [qlora])") from error
    how: Any = {"quant_type": "nf4", "compress_statistics": True}
    for module in list(model.modules()):
        for name, layer in module.named_children():
            if type(layer) is nn.Linear:
                four: Any = Linear4bit(
                    layer.in_features, layer.out_features, bias=False,
                    compute_dtype=torch.bfloat16, device="meta", **how,
                )  # fmt: skip
                weight: Any = Params4bit(layer.weight.data, requires_grad=False, **how)
                four.weight = weight.to(device)
                setattr(module, name, four)
    model.is_loaded_in_4bit = True


class PeakWatch:
    """The highest level of the device's memory from `begin` on: `bytes`, once it is closed.

    All that lives on the device is made while it is open.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes, self.profile = device, 0, None

    def __enter__(self) -> PeakWatch:
        if self.device.type == "cpu":
            self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self.profile.__enter__()
        return self

    def begin(self) -> None:
        """What came before was only the making of the model."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        with record_function("peak watch begins"):
            pass

    def __exit__(self, *failure: Any) -> None:
        if self.profile is None:
            self.bytes = torch.cuda.max_memory_allocated()
            return
        self.profile.__exit__(*failure)
        events: Any = self.profile.profiler.kineto_results.events()  # type: ignore[union-attr]
        level, begun = 0, False
        for event in sorted(events, key=lambda e: e.start_ns()):
            begun = begun or event.name() == "peak watch begins"
            if event.name() == "[memory]":
                level += event.nbytes()
                self.bytes = max(self.bytes, level if begun else 0)


def describe_step(
    scale: Scale, step: str, tokens: float, duration: float, peak: int, work: float
) -> Row:
    """A row on a training step: of `tokens` real tokens and `work` FLOPs, in `duration` seconds."""
    tflops, most = work / duration / 1e12, scale.peak_tflops
    return {
        "step": step, "tokens": round(tokens), "s a step": cut(duration),
        "tokens/s": round(tokens / duration), "peak GB": cut(peak / 1e9),
        "TFLOP/s": cut(tflops), "MFU": f"{tflops / most:.1%}" if most else None,
    }  # fmt: skip


def cut(number: float) -> str:
    """A number to three digits."""
    return f"{number:.3g}"


def measure_our_step(
    scale: Scale, shape: str, adapter: str, data: str, optim: str = "adamw_torch_fused"
) -> list[Row]:
    """Our step, by the trainer of every run, beside what `plan=true` says of it."""
    how = scale.data(data)
    with tempfile.TemporaryDirectory(prefix="undial-gpu-") as folder:
        os.environ["UNDIAL_CACHE_DIR"] = f"{folder}/cache"
        path = f"{folder}/model"
        make_config(scale, shape).save_pretrained(path)
        run = compose_run(
            "unlearn",
            ["model=llama1b", f"model.path={path}", "data=jsonl", "method=undial",
             f"adapter={adapter}", f"train.batch_size={how.batch}", f"train.max_steps={how.steps}",
             f"train.optim={optim}", f"method.strength={STRENGTH}", "eval=none",
             f"data.max_length={max(512, how.lengths[1])}", "teacher.cache=memory",
             "hardware=cpu" if scale.device.type == "cpu" else "hardware=single_gpu",
             f"output_dir={folder}"],
        )  # fmt: skip
        assert isinstance(run, UnlearnRun)
        examples = make_examples(how, scale.shape(shape)["vocab_size"])
        return train_and_compare(scale, shape, run, examples)


def train_and_compare(
    scale: Scale, shape: str, run: UnlearnRun, examples: list[Example]
) -> list[Row]:
    """Plan a run, train it, and set both beside each other."""
    sets, path = {"forget": examples}, str(run.model.path)
    method = make_method(run.method, run.seed)
    plan = make_plan(run, path, sets, {}, method, "forget", run.teacher)
    scale.check_room(plan.memory.peak, "it is planned to take")
    folder = Path(run.output_dir)
    with PeakWatch(scale.device) as watch:
        model = make_model(scale, shape, run.adapter.name, lean=True)
        packs = loop.is_packed(run, model)  # tries a batch of data.max_length tokens
        watch.begin()
        schedule = loop.make_schedule(run, sets, {}, "forget", packs)
        teacher = make_teacher(run, run.teacher, model, method.terms(), schedule, "random")
        base = adapters.unwrap_adapter(model)
        attention = packing.PACKED_ATTENTION if packs else base.config._attn_implementation
        with packing.switch_attention(base, attention):
            fill = functools.partial(fill_teacher, run, teacher, model, schedule)
            passed = seconds(scale.device, fill)
        loop.run_training(run, model, method, schedule, teacher, folder, ())
    rows = read_metrics(folder / "metrics.jsonl")
    batch = schedule.dealing.rows
    tokens = [
        schedule.collate([schedule[i] for i in range(s, s + batch)])["forget"].tokens
        for s in range(0, len(schedule), batch)
    ]
    # The first steps make the optimiser's states and find the fastest kernels.
    timed = [n / row["tokens_per_second"] for n, row in zip(tokens, rows, strict=True)][2:]
    name = f"ours, {'packed' if packs else 'padded'}, {run.train.optim}"
    row = describe_step(
        scale, name, statistics.fmean(tokens[2:]), statistics.median(timed), watch.bytes,
        plan.step.flops,
    )  # fmt: skip
    return [{**row, "planned GB": cut(plan.memory.peak / 1e9), "plan": judge_plan(plan, watch),
             "teacher pass s": cut(passed)}]  # fmt: skip


def judge_plan(plan: TrainingPlan, watch: PeakWatch) -> str:
    """How far a plan's peak is from the measured one."""
    gap = plan.memory.peak / watch.bytes - 1
    return f"{gap:+.1%}{' (estimate)' if plan.rough else ''}"


def measure_plain_step(scale: Scale, shape: str, adapter: str, data: str, kind: str) -> list[Row]:
    """transformers' own fine-tuning step, or UnDIAL written plainly, on padded batches."""
    how, sizes = scale.data(data), scale.shape(shape)
    count = count_weights(sizes)
    copies = 2 if kind == "plain UnDIAL" and adapter == "none" else 1
    trained = 3 if adapter == "none" else 0  # gradients and two states, in bfloat16
    if adapter != "qlora":
        scale.check_room(2 * count * (copies + trained), "weights, gradients and states alone take")
    examples = make_examples(how, sizes["vocab_size"])
    with PeakWatch(scale.device) as watch:
        bench = Bench(make_model(scale, shape, adapter), examples, scale.device)
        watch.begin()
        batches = [
            {name: tensor.to(scale.device) for name, tensor in
             pad_examples(examples[i : i + how.batch], 0).items()}
            for i in range(0, len(examples), how.batch)
        ]  # fmt: skip
        step = {"fine-tuning": bench.fine_tuning, "plain UnDIAL": bench.plain_undial}[kind]
        times = [seconds(scale.device, functools.partial(step, batch)) for batch in batches]
    tokens = statistics.fmean(int(batch["attention_mask"].sum()) for batch in batches[2:])
    work = statistics.fmean(flops(functools.partial(step, batch)) for batch in batches[2:4])
    name = {"fine-tuning": "fine-tuning, transformers' own", "plain UnDIAL": kind}[kind]
    return [describe_step(scale, name, tokens, statistics.median(times[2:]), watch.bytes, work)]


def count_weights(sizes: dict[str, Any]) -> int:
    """Parameters of a shape."""
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    shared = sizes["num_key_value_heads"] / sizes["num_attention_heads"]
    layer = width * width * (2 + 2 * shared) + 3 * width * inner
    heads = 1 if sizes["tie_word_embeddings"] else 2
    return int(sizes["num_hidden_layers"] * layer + heads * sizes["vocab_size"] * width)


@dataclass
class HeadCase:
    """Target positions before a head: what a loss is computed from, in bfloat16."""

    hidden_ND: Tensor
    weight_VD: Tensor
    teacher_ND: Tensor
    targets_N: Tensor

    def to(self, dtype: torch.dtype) -> HeadCase:
        """The same numbers in another dtype."""
        return HeadCase(
            self.hidden_ND.detach().to(dtype).requires_grad_(),
            self.weight_VD.detach().to(dtype).requires_grad_(),
            self.teacher_ND.to(dtype),
            self.targets_N,
        )


def make_head_case(scale: Scale, shape: str, count: int) -> HeadCase:
    """Random hidden states and a head whose logits have a spread of about 3."""
    sizes, device = scale.shape(shape), scale.device
    vocab, width = sizes["vocab_size"], sizes["hidden_size"]
    torch.manual_seed(0)
    with device:
        hidden = torch.randn(count, width, dtype=torch.bfloat16)
        weight = torch.randn(vocab, width, dtype=torch.bfloat16) * (3 / width**0.5)
        teacher = hidden + 0.1 * torch.randn(count, width, dtype=torch.bfloat16)
        targets = torch.randint(0, vocab, (count,))
    return HeadCase(hidden.requires_grad_(), weight.requires_grad_(), teacher, targets)


def fused_undial(case: HeadCase) -> Tensor:
    """UnDIAL chunk by chunk."""
    return fused_undial_loss(
        case.hidden_ND, case.weight_VD, case.teacher_ND, case.weight_VD.detach(), case.targets_N,
        STRENGTH,
    )  # fmt: skip


def dense_undial(case: HeadCase) -> Tensor:
    """UnDIAL of full logits."""
    student = (case.hidden_ND @ case.weight_VD.T)[None]
    teacher = (case.teacher_ND @ case.weight_VD.detach().T)[None]
    # As a sequence whose first token predicts the first target.
    labels = torch.cat([case.targets_N.new_full((1,), IGNORE), case.targets_N])[None]
    last = student.new_zeros(1, 1, student.shape[-1])
    return undial_loss(
        torch.cat([student, last], 1), torch.cat([teacher, last], 1), labels, STRENGTH
    )


def chunked_entropy(case: HeadCase) -> Tensor:
    """Cross entropy chunk by chunk."""
    return CrossEntropy().sum(as_targets(case.hidden_ND, case.weight_VD, case.targets_N))


def dense_entropy(case: HeadCase) -> Tensor:
    """Cross entropy of full logits, in float32 as transformers has it."""
    logits_NV = (case.hidden_ND @ case.weight_VD.T).float()
    return F.cross_entropy(logits_NV, case.targets_N, reduction="sum")


def plain_undial(case: HeadCase) -> Tensor:
    """UnDIAL of full logits, in float32, without a copy of them: what a compiler is given."""
    student_NV = (case.hidden_ND @ case.weight_VD.T).float()
    teacher_NV = (case.teacher_ND @ case.weight_VD.detach().T).float()
    lowered_NV = teacher_NV.scatter_add(
        1, case.targets_N[:, None], teacher_NV.new_full((len(case.targets_N), 1), -STRENGTH)
    )
    return -(lowered_NV.softmax(-1) * student_NV.log_softmax(-1)).sum()


def compare_fused_to_dense(scale: Scale, shape: str) -> list[Row]:
    """Loss and gradients of both in bfloat16 against full logits in float64."""
    case = make_head_case(scale, shape, 32 if scale.tiny else 256)
    exact = backward_case(dense_undial, case.to(torch.float64))
    rows = []
    for name, loss in (("fused, bf16", fused_undial), ("dense, bf16", dense_undial)):
        values = backward_case(loss, case.to(torch.bfloat16))
        gaps = [
            float((value.double() - true).norm() / true.norm())
            for value, true in zip(values, exact, strict=True)
        ]
        names = ("loss", "gradient of hidden states", "gradient of the head")
        figures = {n: f"{gap:.1e}" for n, gap in zip(names, gaps, strict=True)}
        rows.append({"head and loss": f"{shape}: {name}", **figures})
    return rows


def backward_case(loss: Callable[[HeadCase], Tensor], case: HeadCase) -> list[Tensor]:
    """A loss and its gradients."""
    value = loss(case)
    value.backward()
    assert case.hidden_ND.grad is not None
    assert case.weight_VD.grad is not None
    return [value.detach(), case.hidden_ND.grad, case.weight_VD.grad]


def compare_heads(scale: Scale, shape: str) -> list[Row]:
    """Chunks beside full logits, torch.compile and Liger: forward and backward of head and loss."""
    compiled = functools.partial(torch.compile, backend="aot_eager" if scale.tiny else "inductor")
    losses: dict[str, Callable[[], Callable[[HeadCase], Tensor]]] = {
        "cross entropy: chunks": lambda: chunked_entropy,
        "cross entropy: full logits": lambda: dense_entropy,
        "cross entropy: full logits, torch.compile": lambda: compiled(dense_entropy),
        "cross entropy: Liger": make_liger_loss,
        "UnDIAL: chunks": lambda: fused_undial,
        "UnDIAL: full logits": lambda: plain_undial,
        "UnDIAL: full logits, torch.compile": lambda: compiled(plain_undial),
    }
    rows: list[Row] = []
    for count in (64,) if scale.tiny else (512, 4096):
        for name, make in losses.items():
            row: Row = {"head and loss": f"{shape}, {count} targets, {name}"}
            try:
                rows.append(row | time_head(scale, make(), make_head_case(scale, shape, count)))
            except NotDone as reason:
                rows.append(row | {"not done": str(reason)})
            except torch.cuda.OutOfMemoryError:
                rows.append(row | {"not done": "out of memory"})
            except Exception as error:  # a compiler's, on a device that it does not know
                rows.append(row | {"not done": f"{type(error).__name__}: {error}"[:120]})
    return rows


def make_liger_loss() -> Callable[[HeadCase], Tensor]:
    """Liger's fused linear cross entropy."""
    try:
        from liger_kernel.transformers import (  # pyright: ignore[reportMissingImports]
            LigerFusedLinearCrossEntropyLoss,
        )
    except ImportError as error:
        raise NotDone("liger-kernel is not installed") from error
    loss = LigerFusedLinearCrossEntropyLoss(reduction="sum")
    return lambda case: loss(case.weight_VD, case.hidden_ND, case.targets_N)


def time_head(scale: Scale, loss: Callable[[HeadCase], Tensor], case: HeadCase) -> Row:
    """Milliseconds and memory of a loss, forward and backward."""

    def step() -> None:
        case.hidden_ND.grad = case.weight_VD.grad = None
        loss(case).backward()

    for _ in range(3):
        step()
    times = [seconds(scale.device, step) for _ in range(3 if scale.tiny else 10)]
    with PeakWatch(scale.device) as watch:
        before = torch.cuda.memory_allocated() if scale.device.type == "cuda" else 0
        watch.begin()
        step()
    return {"ms": cut(1e3 * statistics.median(times)),
            "peak GB above": cut((watch.bytes - before) / 1e9)}  # fmt: skip


def measure_evaluation(scale: Scale, shape: str) -> list[Row]:
    """Scoring and generation in bfloat16, beside what one writes with transformers."""
    how = scale.data("questions")
    model = make_model(scale, shape, "none").eval().requires_grad_(False)
    examples = make_examples(how, scale.shape(shape)["vocab_size"])
    batch, limit = (4, 4) if scale.tiny else (32, 128)
    scored = sum(e.num_targets for e in examples)

    def score_plainly() -> list[float]:
        losses = []
        for start in range(0, len(examples), batch):
            padded = pad_examples(examples[start : start + batch], 0)
            ids, mask, labels = (padded[n].to(scale.device) for n in
                                 ("input_ids", "attention_mask", "labels"))  # fmt: skip
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
            ce = F.cross_entropy(
                logits.transpose(1, 2), labels[:, 1:], ignore_index=IGNORE, reduction="none"
            )
            losses += (ce.sum(1) / (labels[:, 1:] != IGNORE).sum(1)).tolist()
        return losses

    def score_ours() -> list[float]:
        groups = [[e] for e in examples]
        return [scores[0].ce for scores in score_answers(model, groups, batch, 0)]

    prompts = [e.input_ids[: e.labels.count(IGNORE)] for e in examples][: 2 * batch]

    def generate_plainly() -> list[list[int]]:
        texts = []
        for start in range(0, len(prompts), batch):
            padded = pad_prompts(prompts[start : start + batch], 0)
            given = {name: tensor.to(scale.device) for name, tensor in padded.items()}
            output = model.generate(
                **given, max_new_tokens=limit, min_new_tokens=limit, do_sample=False
            )
            texts += output[:, given["input_ids"].shape[1] :].tolist()
        return texts

    def generate_ours() -> list[list[int]]:
        answers: dict[int, list[int]] = {}
        decode_prompts(
            model,
            dict(enumerate(prompts)),
            batch,
            Decoding(limit, frozenset()),
            answers.__setitem__,
        )
        return [answers[n] for n in range(len(prompts))]

    rows: list[Row] = []
    for name, count, ways in (
        ("scoring, target tokens/s", scored, (score_plainly, score_ours)),
        ("generation, new tokens/s", len(prompts) * limit, (generate_plainly, generate_ours)),
    ):
        speeds, results = [], []
        for way in ways:
            with torch.no_grad():
                way()
                results.append(way())
                speeds.append(count / seconds(scale.device, way))
        differing = [a != b for a, b in zip(*results, strict=True)]
        gap = f"{sum(differing)} of {len(differing)} answers differ"
        if name.startswith("scoring"):
            gap = f"{max(abs(a - b) for a, b in zip(*results, strict=True)):.1e} nats"
        plain, ours = speeds
        rows.append(
            {"what": name, "plain": round(plain), "ours": round(ours),
             "ours / plain": round(ours / plain, 2), "difference": gap}
        )  # fmt: skip
    return rows


def run_device_tests(scale: Scale) -> list[Row]:
    """The tests that are marked `gpu`."""
    with tempfile.TemporaryDirectory(prefix="undial-gpu-") as folder:
        report = Path(folder) / "report.xml"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider",
             f"--junitxml={report}", "tests/test_gpu.py"],
            cwd=ROOT, env={**os.environ, "UNDIAL_TEST_DEVICE": scale.device.type},
        )  # fmt: skip
        if not report.exists():
            raise NotDone(f"pytest ended with {done.returncode}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [c.get("name") for c in cases if c.find("failure") is not None]
    failed += [c.get("name") for c in cases if c.find("error") is not None]
    skipped = sum(c.find("skipped") is not None for c in cases)
    return [{"tests": len(cases), "passed": len(cases) - len(failed) - skipped, "skipped": skipped,
             "failed": ", ".join(map(str, failed)) or 0}]  # fmt: skip


def run_demo(scale: Scale) -> list[Row]:
    """`undial unlearn`, with nothing kept from before: two models trained, one unlearned."""
    words = ["unlearn"]
    if scale.tiny:  # a model that was never trained is its own retain model
        words += ["hardware=cpu", f"model.path={TINY_MODEL}", f"eval.retain_model={TINY_MODEL}",
                  "train.max_steps=2", "data.limit=8", "eval.limit=2", "eval.max_new_tokens=4",
                  "report=false"]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="undial-gpu-") as folder:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "undial_cli.cli", *words, f"output_dir={folder}", "name=demo"],
            check=True, cwd=ROOT, env={**os.environ, "UNDIAL_CACHE_DIR": f"{folder}/cache"},
        )  # fmt: skip
        taken = time.perf_counter() - start
        run = Path(folder) / "unlearn" / "demo"
        results = json.loads((run / "evaluation" / "results.json").read_text("utf-8"))
        before = results["target"]
        devices = json.loads((run / "environment.json").read_text("utf-8"))["devices"]
    after = results["metrics"]
    names = ("forget_probability", "forget_rouge", "retain_probability", "retain_rouge")
    return [
        {"whole command": f"{taken:.0f} s", "device": devices[0],
         **{n: f"{before[n]:.3f} -> {after[n]:.3f}" for n in names if n in after and n in before}}
    ]  # fmt: skip


def describe_machine(scale: Scale) -> list[Row]:
    """The device and the versions that matter."""
    row: Row = {"device": "CPU"}
    if scale.device.type == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU; --rehearse does the same on the CPU")
        properties = torch.cuda.get_device_properties(0)
        row = {
            "device": properties.name,
            "GB": round(properties.total_memory / 1e9, 1),
            "CUDA": torch.version.cuda,
        }
    for package in ("torch", "transformers", "bitsandbytes", "liger-kernel"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            row[package] = importlib.metadata.version(package)
    return [row | {"peak TFLOP/s, bf16": scale.peak_tflops}]


PARTS: dict[str, Callable[..., list[Row]]] = {
    "machine": describe_machine,
    "tests": run_device_tests,
    "exactness": compare_fused_to_dense,
    "our step": measure_our_step,
    "plain step": measure_plain_step,
    "heads": compare_heads,
    "evaluation": measure_evaluation,
    "demo": run_demo,
}


@contextlib.contextmanager
def name_shortage() -> Iterator[None]:
    """What does not fit is told as what is not done."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        line = str(error).splitlines()[0]
        raise NotDone(f"out of memory: {line[:120]}") from error


def carry_out_part(kind: str, device: str, tiny: bool, words: dict[str, Any]) -> dict[str, Any]:
    """Rows of a part, or the reason that it was not done."""
    silence_libraries()
    scale = Scale(torch.device(device), tiny)
    try:
        with name_shortage():
            return {"rows": PARTS[kind](scale, **words)}
    except NotDone as reason:
        return {"not done": str(reason)}
