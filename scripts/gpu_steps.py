"""Training steps of `make gpu`: ours, transformers' own, and UnDIAL written plainly."""

from __future__ import annotations

import functools
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from bench_training import Bench, flops, seconds
from gpu_models import STRENGTH, PeakWatch, Row, Scale, cut, make_config, make_examples, make_model

from undial_cli.config.schema import UnlearnRun
from undial_cli.data.collate import pad_examples
from undial_cli.data.encode import Example
from undial_cli.methods import make_method
from undial_cli.models import adapters
from undial_cli.planning.plan import TrainingPlan, make_plan
from undial_cli.runs.compose import compose_run
from undial_cli.training import loop, packing
from undial_cli.training.callbacks import read_metrics
from undial_cli.training.teacher import fill_teacher, make_teacher


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
