"""Runs one after the other in one process, by what becomes of the memory that they free.

    python scripts/bench_memory.py OVERRIDE ... [--runs 3]

The overrides are those of `undial unlearn`; of each run the learning rate is 1 % higher than of the
one before, so that nothing is known already. Each way has a process of its own, as a slot of a
sweep has: its seconds of CPU, and the most memory that it has held so far. `by itself`: as the C
library does; `large pages`: so, with torch's THP_MEM_ALLOC_ENABLE=1; `kept`: as the tool has it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile

from bench_training import table

from undial_cli.config.schema import TrainingRun
from undial_cli.runs.compose import compose_run
from undial_cli.sweeps.jobs import Job, pack_job, run_job
from undial_cli.system import memory

WAYS = ("by itself", "large pages", "kept")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    if options.way is not None:
        measure_runs(options.way, options.runs, overrides)
        return
    print(f"{platform.platform()}, {options.runs} runs of each")
    ask_process(WAYS[-1], 1, overrides)  # not measured: it makes the target and evaluates it
    figures = {way: ask_process(way, options.runs, overrides) for way in WAYS}
    rows = [
        [
            way,
            " ".join(f"{run['seconds']:.1f}" for run in runs),
            " ".join(
                f"{run['seconds'] / last['seconds']:.2f}"
                for run, last in zip(runs, figures[WAYS[-1]], strict=True)
            ),
            " ".join(f"{run['peak'] / 2**30:.2f}" for run in runs),
        ]
        for way, runs in figures.items()
    ]
    header = ["freed memory", "CPU s", f"times `{WAYS[-1]}`", "peak GiB so far"]
    table(" ".join(overrides), header, rows)


def ask_process(way: str, runs: int, overrides: list[str]) -> list[dict[str, float]]:
    """The figures of each run, from a process of its own."""
    words = [sys.executable, __file__, *overrides, "--runs", str(runs), "--way", way]
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": str(int(way == "large pages"))}
    out = subprocess.run(
        words, check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def measure_runs(way: str, runs: int, overrides: list[str]) -> None:
    """Do the runs in this process; a line of figures for each."""
    if way != "kept":
        memory.find_c_function = lambda name: None
    memory.keep_freed_memory()
    first = compose_run("unlearn", overrides)
    assert isinstance(first, TrainingRun)
    assert first.train.learning_rate is not None
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs):
            rate = first.train.learning_rate * (1 + number / 100)
            words = [*overrides, f"output_dir={folder}", f"train.learning_rate={rate}"]
            begun = read_usage()
            outcome = run_job(pack_job(Job("", compose_run("unlearn", words))))
            if outcome["status"] != "done":
                sys.exit(f"{outcome['status']}: {outcome['reason']}")
            ended = read_usage()
            seconds = sum(ended[:2]) - sum(begun[:2])
            print(json.dumps({"seconds": seconds, "peak": ended[2] * 1024}), flush=True)


def read_usage() -> tuple[float, float, int]:
    """Seconds in user and system mode, and the peak of resident KiB."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime, usage.ru_stime, usage.ru_maxrss


if __name__ == "__main__":
    main()
