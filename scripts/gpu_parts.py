"""The parts of `make gpu`: each measures one thing on the device and returns rows of a table.

Every model has random weights that are made on the device; nothing is downloaded. On a rehearsal
the same functions run on the CPU with tiny shapes. Which parts there are, in which order and how
long each may take is bench_gpu.py's.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from bench_training import seconds
from gpu_heads import compare_fused_to_dense, compare_heads
from gpu_models import NotDone, Row, Scale, make_examples, make_model
from gpu_steps import measure_our_step, measure_plain_step

from undial_cli.data.collate import pad_examples, pad_prompts
from undial_cli.data.encode import IGNORE
from undial_cli.evaluation.decoding import Decoding, decode_prompts
from undial_cli.evaluation.scoring import score_answers
from undial_cli.system.quiet import silence_libraries

ROOT = Path(__file__).resolve().parents[1]
TINY_MODEL = "pkg://undial_cli/models/tiny"


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
