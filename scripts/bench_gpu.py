"""Everything that only a GPU can show, unattended: `make gpu`.

    python scripts/bench_gpu.py [--minutes 25] [--only PART ...] [--file outputs/gpu.md]
    python scripts/bench_gpu.py --rehearse

Parts (gpu_parts.py) are done in the order of their importance, each in a process of its own and for
so long at most; one that fails, hangs or does not fit costs itself alone, and its reason stands in
the file. The Markdown file, ready for docs/benchmarks.md, is written anew after every part, so that
what was done is kept when it is interrupted. What a part printed lies beside it. A rehearsal does
the same on the CPU, with tiny shapes. Exit code 1 if a part failed. Imports no torch.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# A part that could have less than this is not begun.
LEAST_SECONDS = 15


@dataclass(frozen=True)
class Part:
    """One thing that is measured: by which function of gpu_parts.py, and how long."""

    section: str
    kind: str
    limit: int
    words: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Kind and what it is given, in one word."""
        values = [str(value) for value in self.words.values()]
        return re.sub(r"[^a-z0-9]+", "-", " ".join([self.kind, *values]).lower()).strip("-")


def step_parts(shape: str, adapter: str, data: str, limit: int) -> list[Part]:
    """Our step on a shape, and the two it is compared with."""
    kind = {"none": "full", "lora": "LoRA", "qlora": "QLoRA, NF4"}[adapter]
    section = f"Training step: {shape}, {kind}, bf16, {data}"
    words = {"shape": shape, "adapter": adapter, "data": data}
    return [
        Part(section, "our step", limit, words),
        *(Part(section, "plain step", limit, {**words, "kind": name})
          for name in ("fine-tuning", "plain UnDIAL")),
    ]  # fmt: skip


EXACTNESS = "Fused against dense: distance from full logits in float64"
# The most important first: a budget that is spent leaves out the last.
PARTS = [
    Part("Machine", "machine", 60),
    Part("Tests on the device (`pytest -m gpu`)", "tests", 240),
    *(Part(EXACTNESS, "exactness", 90, {"shape": shape}) for shape in ("llama1b", "llama7b")),
    *step_parts("llama1b", "none", "questions", 120),
    *step_parts("llama7b", "lora", "few questions", 150),
    *step_parts("llama7b", "qlora", "few questions", 180),
    Part("The demo, whole command", "demo", 240),
    Part("Training step: llama1b, full, bf16, questions", "our step", 120,
         {"shape": "llama1b", "adapter": "none", "data": "questions", "optim": "adamw_8bit"}),
    Part("Evaluation in bf16: llama1b", "evaluation", 180, {"shape": "llama1b"}),
    Part("Head and loss, forward and backward, bf16", "heads", 240, {"shape": "llama1b"}),
    *step_parts("llama1b", "none", "texts", 120),
    Part("Head and loss, forward and backward, bf16", "heads", 180, {"shape": "llama7b"}),
]  # fmt: skip


@dataclass
class Outcome:
    """What came of a part: rows, or a reason."""

    part: Part
    seconds: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    reason: str | None = None
    failed: bool = False


def run_in_child(part: Part, device: str, tiny: bool, result: str, log: str) -> None:
    """In the part's own process: do it, and leave what came of it as JSON."""
    os.setsid()  # with all that it starts, it is one group to end
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    try:
        import gpu_parts

        outcome = gpu_parts.carry_out_part(part.kind, device, tiny, part.words)
    except BaseException as error:
        traceback.print_exc()
        outcome = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    finished = f"{result}.new"
    Path(finished).write_text(json.dumps(outcome), encoding="utf-8")
    os.replace(finished, result)
    sys.stdout.flush()
    os._exit(0)  # no tidying up: what a library leaves running must not hold the next part up


def do_part(part: Part, seconds: float, rehearse: bool, folder: Path) -> Outcome:
    """Do a part in a process of its own, for so long at most."""
    # Forked from a process that has imported everything, a part begins at once; but CUDA does not
    # bear a fork from a process that may have touched it.
    context: Any = multiprocessing.get_context("forkserver" if rehearse else "spawn")
    if rehearse:
        context.set_forkserver_preload(["gpu_parts", "peft", "torch._dynamo"])
        # Where it is found: a fork server looks only there.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*sys.path]))
    log = folder / f"{part.name}.log"
    with tempfile.TemporaryDirectory(prefix="undial-gpu-") as scratch:
        result = Path(scratch) / "result.json"
        device = "cpu" if rehearse else "cuda"
        child = context.Process(
            target=run_in_child, args=(part, device, rehearse, str(result), str(log))
        )
        start = time.monotonic()
        child.start()
        try:
            child.join(seconds)
            taken = time.monotonic() - start
            if child.is_alive():
                return Outcome(part, taken, reason=f"ended after {taken:.0f} s", failed=True)
        finally:
            end_group(child)
        if not result.exists():
            return Outcome(
                part, taken, reason=f"its process ended with {child.exitcode}", failed=True
            )
        outcome = json.loads(result.read_text("utf-8"))
    if "rows" in outcome:
        return Outcome(part, taken, outcome["rows"])
    reason = outcome.get("not done") or outcome["failed"]
    return Outcome(part, taken, reason=reason, failed="failed" in outcome)


def end_group(child: Any) -> None:
    """End a child and all that it has started."""
    for kill in (lambda: os.killpg(child.pid, signal.SIGKILL), child.kill):
        try:
            kill()
        except (OSError, ValueError):  # ended, or not yet the head of its group
            continue
    child.join(10)  # one that hangs in the driver is left behind


def write_report(file: Path, command: str, outcomes: list[Outcome], waiting: list[Part]) -> None:
    """The Markdown file, whole or not at all."""
    lines = [f"## {name_device(outcomes)}", "", f"    {command}", ""]
    sections = dict.fromkeys(o.part.section for o in outcomes)
    for section in sections:
        rows = [row for o in outcomes if o.part.section == section for row in o.rows]
        if rows:
            lines += [f"### {section}", "", *format_table(rows), ""]
    missing = [(o.part.name, o.reason) for o in outcomes if o.reason is not None]
    missing += [(part.name, "not begun") for part in waiting]
    if missing:
        lines += ["### Not done", ""]
        lines += [f"- {name}: {reason}" for name, reason in missing] + [""]
    spent = sum(o.seconds for o in outcomes)
    lines += [f"{len(outcomes)} parts in {spent / 60:.1f} minutes."]
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.new")
    unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(unfinished, file)


def name_device(outcomes: list[Outcome]) -> str:
    """The device, as the first part found it."""
    rows = [row for o in outcomes if o.part.kind == "machine" for row in o.rows]
    return str(rows[0]["device"]) if rows else "Unknown device"


def format_table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as Markdown; a column is there if any row has it."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[str(row[c]) if row.get(c) is not None else "-" for c in columns] for row in rows]
    return [
        "| " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * (len(columns) - 1),
        *("| " + " | ".join(line) + " |" for line in cells),
    ]


def interrupt(*_: Any) -> None:
    """A signal ends it as Ctrl-C does."""
    raise KeyboardInterrupt


def main() -> int:
    """Do the parts within the budget."""
    parser = argparse.ArgumentParser(description="everything that only a GPU can show")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny shapes")
    parser.add_argument("--minutes", type=float, default=25, help="for all parts together")
    parser.add_argument("--only", nargs="+", metavar="PART", help="parts whose names begin so")
    parser.add_argument("--file", type=Path, default=ROOT / "outputs" / "gpu.md")
    given = parser.parse_args()
    chosen = tuple(given.only or [""])
    parts = [p for p in PARTS if p.kind == "machine" or p.name.startswith(chosen)]
    if not any(part.name.startswith(chosen) for part in PARTS):
        parser.error(f"--only: the parts are {', '.join(part.name for part in PARTS)}")
    logs = given.file.with_suffix(".logs")
    logs.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, interrupt)
    os.environ["HF_HUB_OFFLINE"] = "1"
    # One GPU: of several, the Trainer of a single process would take all.
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = " ".join(["python scripts/bench_gpu.py", *sys.argv[1:]])
    end = time.monotonic() + 60 * given.minutes
    outcomes: list[Outcome] = []
    try:
        for part in parts:
            left = end - time.monotonic()
            if left < LEAST_SECONDS:
                outcome = Outcome(part, 0, reason=f"the {given.minutes:g} minutes are spent")
            else:
                print(f"{part.name} ...", end=" ", flush=True)
                outcome = do_part(part, min(part.limit, left), given.rehearse, logs)
                print(outcome.reason or "done", f"({outcome.seconds:.0f} s)", flush=True)
            outcomes.append(outcome)
            write_report(given.file, command, outcomes, parts[len(outcomes) :])
            if part.kind == "machine" and outcome.reason is not None:
                break  # nothing else can be done here either
    except KeyboardInterrupt:
        write_report(given.file, command, outcomes, parts[len(outcomes) :])
        print(f"interrupted; what was done: {given.file}")
        return 130
    print(given.file)
    return int(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
