"""Time and memory of preparing a training set, and how both grow with its rows.

    python scripts/bench_data.py [--rows 1000 10000 100000] [--megabytes 2048] [--model PATH]
    python scripts/bench_data.py --rows --look 100000

Question pairs are made up, as long as TOFU's, and written as JSON lines. Each preparation runs in a
process of its own: a plain loop over rows held as objects, one row rendered and tokenised after the
other, as `undial` itself did; the tokenizer alone, on texts that are rendered already; ours, the
first time, with an empty cache; ours again, as the second run of a sweep. Then both of documents of
so many megabytes. `--model` names a tokenizer, by default the demo's.

`--look` times `undial data` as a command of its own on so many rows, half of them to forget, with
a page; a row that stands twice, an answer that the retain set holds and an answer that is cut are
planted, and it says which of them the command found.

Memory is the highest that the process took, pages of mapped files included: above what it had
before it read a row, and in all; then in all when 800 examples have been drawn. Pages of files are
shared by all processes that map them, and the system takes them back when it needs them; the last
figure is the highest without them (RSS less its shared part), of the process and that of the
templates together. The libraries alone take most of what a small set does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import ModelConfig, TemplateConfig
from undial_cli.data import load
from undial_cli.data.contents import count_repeated_rows
from undial_cli.data.encode import Encoder
from undial_cli.data.example import Example
from undial_cli.data.files import load_row_file
from undial_cli.data.samples import BATCH_ROWS, encode_training_set
from undial_cli.data.schedule import Schedule, deal_rows
from undial_cli.data.tokens import encode_texts, use_all_cores
from undial_cli.models.load import load_tokenizer
from undial_cli.system.quiet import silence_libraries

TINY, SEED, STEPS, SIZE = "pkg://undial_cli/models/tiny", 0, 100, 8
WATCH_SECONDS = 0.2
WAYS = ("plain loop", "tokenizer alone", "first start", "second start")
WORDS = (
    "the", "of", "and", "a", "in", "to", "was", "is", "her", "his", "for", "with", "as", "that",
    "by", "on", "author", "born", "city", "novel", "books", "known", "work", "writing", "family",
    "father", "mother", "early", "life", "first", "published", "award", "literature", "themes",
    "culture", "often", "explores", "characters", "story", "world", "years", "literary", "style",
    "genre", "influence", "readers", "received", "mountain", "history", "childhood", "fiction",
    "unique", "perspective", "through", "has", "been", "also",
)  # fmt: skip


def make_sentence(draws: random.Random, words: int) -> str:
    return " ".join(draws.choices(WORDS, k=words)).capitalize()


def write_pairs(file: Path, rows: int) -> None:
    """Question pairs as long as TOFU's: 14 words and 32."""
    draws = random.Random(SEED)
    with open(file, "w", encoding="utf-8") as lines:
        for number in range(rows):
            question = f"{make_sentence(draws, 13)} {number}?"
            lines.write(
                json.dumps({"question": question, "answer": f"{make_sentence(draws, 32)}."}) + "\n"
            )


def write_documents(file: Path, megabytes: int) -> None:
    """Documents of 4,000 words, 24 KB."""
    draws, size = random.Random(SEED), 0
    with open(file, "w", encoding="utf-8") as lines:
        while size < megabytes * 2**20:
            size += lines.write(json.dumps({"text": make_sentence(draws, 4000)}) + "\n")


def encode_plainly(encoder: Encoder, file: Path) -> list[Example]:
    """Rows as objects, and one after the other through template and tokenizer."""
    rows = load_row_file(str(file), "", "file")
    return [example for row in rows for example in encoder.encode([row])]


def render_texts(encoder: Encoder, file: Path) -> list[str]:
    """What the tokenizer is given."""
    rows = load_row_file(str(file), "", "file")
    batches = [rows[i : i + BATCH_ROWS] for i in range(0, len(rows), BATCH_ROWS)]
    pairs = [pair for b in batches for pair in zip(b, encoder.render_each(b), strict=True)]
    return [encoder.read_text(*pair)[0] for pair in pairs]


def prepare_set(way: str, file: Path, model: str) -> dict[str, float]:
    """What preparing a file takes, up to a schedule and its batches."""
    silence_libraries()
    encoder = Encoder(load_tokenizer(ModelConfig(), model), TemplateConfig(), DataConfig())
    texts = render_texts(encoder, file) if way == WAYS[1] else []
    before, begun, used = measure_peak(), time.perf_counter(), measure_processor_time()
    if way == WAYS[1]:
        with use_all_cores():
            for start in range(0, len(texts), BATCH_ROWS):
                encode_texts(encoder.tokenizer, texts[start : start + BATCH_ROWS], False)
        examples: Any = encoder.encode(load_row_file(str(file), "[:100]", "file"))
    elif way == WAYS[0]:
        examples = encode_plainly(encoder, file)
    else:
        rows = load.load_rows(encoder.data, [str(file)], "file")
        examples = encode_training_set(encoder, rows, "forget").examples
        count_repeated_rows(rows, encoder.data)
    dealing = deal_rows(SIZE, 1, None)
    schedule = Schedule({"forget": examples}, "forget", SIZE, dealing, 1.0, STEPS, SEED)
    ready, cpu = time.perf_counter() - begun, measure_processor_time() - used
    prepared = measure_peak()
    for start in range(0, len(schedule), SIZE):
        schedule.collate([schedule[i] for i in range(start, start + SIZE)])
    first = [len(examples[i].input_ids) for i in range(min(1000, len(examples)))]
    return {
        "seconds": ready,
        "cpu": cpu,
        "growth": prepared - before,
        "prepared": prepared,
        "peak": measure_peak(),
        "tokens": sum(first) / len(first),
    }


def measure_peak() -> float:
    """The most megabytes that this process has taken, mapped files included."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def measure_processor_time() -> float:
    """Seconds of the processor's time of this process and those it started."""
    processes = [psutil.Process(), *psutil.Process().children()]
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def write_planted_sets(folder: Path, rows: int) -> list[str]:
    """A forget and a retain file of `rows` rows in all; returns what is to be said of them."""
    half = rows // 2
    for name in ("forget", "retain"):
        write_pairs(folder / f"{name}.jsonl", half)
    draws, files = random.Random(SEED + 1), {}
    for name in ("forget", "retain"):
        pairs = load_row_file(str(folder / f"{name}.jsonl"), "", "file")
        if name == "retain":  # other questions and answers than those of the forget set
            pairs = [
                {"question": f"{make_sentence(draws, 13)} {number + half}?",
                 "answer": f"{make_sentence(draws, 32)}."}
                for number in range(half)
            ]  # fmt: skip
        files[name] = pairs
    forget, retain = files["forget"], files["retain"]
    forget[half - 1] = dict(forget[10])
    forget[half - 2]["answer"] = make_sentence(draws, 3000)
    retain[half - 1]["answer"] = f"As is well known: {forget[20]['answer']} So much for that."
    for name, pairs in files.items():
        text = "".join(json.dumps(pair) + "\n" for pair in pairs)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return [
        f"the same as an earlier one (row {half})",
        f"cut at data.max_length=512 (row {half - 1})",
        f"whose answer a retain row holds (row 21; of the retain set row {half})",
    ]


def measure_look(rows: int, model: str) -> None:
    """Print what `undial data` takes on so many rows, and what of the planted rows it found."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planted = write_planted_sets(folder, rows)
        words = [
            sys.executable, "-m", "undial_cli.cli", "data", "data=jsonl", f"model.path={model}",
            "data.forget_file=forget.jsonl", "data.retain_file=retain.jsonl", "method.retain=gdr",
            "html=page.html", "data.max_length=512",
        ]  # fmt: skip
        environment = {**os.environ, "UNDIAL_CACHE_DIR": str(folder / "cache")}
        for start in WAYS[2:]:
            begun, used = time.perf_counter(), os.times()
            output, private = watch_process(words, environment, folder)
            taken = os.times()
            cpu = sum(taken[2:4]) - sum(used[2:4])  # of processes that have ended
            found = sum(line in output for line in planted)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
            print(
                f"| undial data, {rows:,} rows | {start} | {time.perf_counter() - begun:.1f} | "
                f"{cpu:.1f} | {peak:,.0f} | {private:,.0f} | {found} of {len(planted)} |",
                flush=True,
            )


def watch_process(
    words: Sequence[str], environment: dict[str, str], folder: Path | None = None
) -> tuple[str, float]:
    """What a command prints, and the most megabytes that it took without files."""
    with subprocess.Popen(
        words, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        highest = 0.0
        while True:
            highest = max(highest, measure_private_memory(process.pid))
            try:
                output, _ = process.communicate(timeout=WATCH_SECONDS)
                break
            except subprocess.TimeoutExpired:
                continue
    if process.returncode:
        raise SystemExit(process.returncode)
    return output, highest


def run_apart(way: str, file: Path, model: str, cache: Path) -> dict[str, float]:
    """`prepare_set` in a process of its own."""
    words = [sys.executable, __file__, "--prepare", way, str(file), "--model", model]
    environment = {**os.environ, "UNDIAL_CACHE_DIR": str(cache)}
    output, highest = watch_process(words, environment)
    return {**json.loads(output.splitlines()[-1]), "private": highest}


def measure_private_memory(process: int) -> float:
    """Megabytes of a process and those it started that no file holds."""
    size = 0
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(process)
        for taken in (p.memory_info() for p in (parent, *parent.children(recursive=True))):
            size += taken.rss - getattr(taken, "shared", 0)
    return size / 2**20


def measure_file(name: str, file: Path, model: str, cache: Path, ways: Sequence[str]) -> None:
    """Print a row of the table for each way of preparing a file."""
    for way in ways:
        figures = run_apart(way, file, model, cache)
        size = sum(f.stat().st_size for f in cache.rglob("*.arrow")) / 2**20
        print(
            f"| {name} | {way} | {figures['seconds']:.1f} | {figures['cpu']:.1f} | "
            f"{figures['growth']:,.0f} | {figures['prepared']:,.0f} | {figures['peak']:,.0f} | "
            f"{figures['private']:,.0f} | {size:,.0f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="*", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--megabytes", nargs="*", type=int, default=[])
    parser.add_argument("--look", nargs="*", type=int, default=[], help="rows for undial data")
    parser.add_argument("--plain", type=int, default=100_000, help="most rows of the plain loop")
    parser.add_argument("--model", default=TINY)
    parser.add_argument("--prepare", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.prepare:
        way, file = asked.prepare
        print(json.dumps(prepare_set(way, Path(file), asked.model)))
        return
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
          f"tokenizer {asked.model}")  # fmt: skip
    if asked.look:
        print("| what | way | s | CPU s | MB in all | without files | planted rows found |")
        print("| --- | --- |" + " ---: |" * 5)
    for rows in asked.look:
        measure_look(rows, asked.model)
    if not (asked.rows or asked.megabytes):
        return
    print("| what | way | s | CPU s | MB more | MB in all | after 100 steps | without files | "
          "MB in the cache |")  # fmt: skip
    print("| --- | --- |" + " ---: |" * 7)
    with tempfile.TemporaryDirectory() as folder:
        file, cache = Path(folder) / "rows.jsonl", Path(folder) / "cache"
        for rows in asked.rows:
            write_pairs(file, rows)
            ways = WAYS[rows > asked.plain :]
            measure_file(f"{rows:,} pairs", file, asked.model, cache / str(rows), ways)
        for megabytes in asked.megabytes:
            write_documents(file, megabytes)
            name = f"{file.stat().st_size / 2**20:,.0f} MB of documents"
            measure_file(name, file, asked.model, cache / f"d{megabytes}", WAYS[2:])


if __name__ == "__main__":
    main()
