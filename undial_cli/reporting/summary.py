"""The closing table of a run and three questions before and after; the same as Markdown and CSV.

Reads evaluation/ of the run folder, so that it can be shown again at any time.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from undial_cli import ui
from undial_cli.cache import write_text
from undial_cli.evaluation import store
from undial_cli.run_folder import RunFolder
from undial_cli.schema import EvaluateRun, FinetuneRun, Run

QUESTIONS = 3
SWEEP_COLUMNS = 6
SHOWN = 300
BEFORE_AFTER = ("before", "after")
SWEEP_METRICS = (
    "forget_probability", "forget_rouge", "forget_knowmem_rouge", "forget_verbmem_rouge",
    "forget_el_10", "forget_ma", "retain_probability", "retain_rouge", "retain_knowmem_rouge",
    "forget_quality", "model_utility", "privleak",
)  # fmt: skip


@dataclass
class Summary:
    """The table (rows of name and figures under `columns`), notes, and samples to show."""

    columns: list[str]
    rows: list[tuple[str, list[float | None]]]
    notes: list[str]
    samples: list[dict[str, Any]]


def read(run: Run, folder: RunFolder) -> Summary | None:
    """The summary of a run folder, or None where nothing was evaluated."""
    results, evaluation = store.read_results(folder.evaluation), store.load(folder.evaluation)
    if evaluation is None:
        return None
    after, target, reference = results["metrics"], results["target"], results["reference"]
    names = ("target", "model") if isinstance(run, EvaluateRun | FinetuneRun) else BEFORE_AFTER
    columns, figures = [names[1]], [after]
    if target or names == BEFORE_AFTER:
        columns, figures = [*names], [target, after]
    if results.get("requests"):
        found = [part["metrics"] for part in results["requests"]]
        columns = ["start", *(f"after {n}" for n in range(1, len(found) + 1))]
        figures = [target, *found]
    if reference:
        columns, figures = [*columns, "retain model"], [*figures, reference]
    if isinstance(run, EvaluateRun) and reference:
        columns.append("difference")
        figures.append({k: after[k] - v for k, v in reference.items() if after.get(k) is not None})
    rows = [(name, [f.get(name) for f in figures]) for name in after]
    missing: dict[str, list[str]] = {}
    for name, reason in results["missing"].items():
        missing.setdefault(reason, []).append(name)
    notes = [f"{name}: {note}" for name, note in results.get("notes", {}).items()]
    notes += [f"{', '.join(names)}: {reason}" for reason, names in missing.items()]
    if not reference and not isinstance(run, FinetuneRun):
        notes.append(
            "no retain model: whether the model now behaves as if it had never seen the forget set "
            "cannot be concluded; a low score may also mean that it was damaged"
        )
    asked = ("forget", "request")
    samples = [s for s in evaluation.samples if s["set"].startswith(asked) and "generation" in s]
    step = max(1, len(samples) // QUESTIONS)
    return Summary(columns, rows, notes, samples[::step][:QUESTIONS])


def text_of(name: str, value: float | None) -> str:
    """A figure as text."""
    if value is None:
        return "-"
    return f"{value:.2e}" if name == "forget_quality" else f"{value:.3f}"


def show(run: Run, folder: RunFolder) -> None:
    """Print the table, the notes and the questions."""
    summary = read(run, folder)
    if summary is None:
        ui.say(f"done, without evaluation: {folder.path}")
        return
    table = Table(title=f"{run.command}: {run.model.name} on {run.data.name}", title_justify="left")
    table.add_column("metric")
    for column in summary.columns:
        table.add_column(column, justify="right")
    last = None
    for name, values in summary.rows:
        group = "" if name in run.eval.metrics else name.split("_")[0]
        if last not in (None, group):
            table.add_section()
        last = group
        table.add_row(name, *(text_of(name, v) for v in values))
    ui.say(table)
    for sample in [] if isinstance(run, EvaluateRun | FinetuneRun) else summary.samples:
        title = escape(f"{sample['set']}: {shortened(sample['prompt'])}")
        body = "\n".join(question_lines(sample, escape))
        ui.say(Panel(body, title=title, title_align="left"), log=False)
    for note in summary.notes:
        ui.say(note, "yellow")
    ui.say(f"everything is in {folder.path}")


def question_lines(sample: dict[str, Any], quote: Any) -> list[str]:
    """One question's answers, a line each."""
    answers = {
        "reference": sample.get("reference"),
        "before": sample.get("target_generation"),
        "after": sample.get("generation"),
        "retain model": sample.get("retain_generation"),
    }
    return [
        f"{name + ':':<14}{quote(shortened(text))}"
        for name, text in answers.items()
        if text is not None
    ]


def shortened(text: str) -> str:
    """A text that fits a panel; samples.jsonl has the whole."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def write(run: Run, folder: RunFolder) -> None:
    """report/summary.md and summary.csv."""
    summary = read(run, folder)
    if summary is None:
        return
    lines = [f"# {run.command}: {run.model.name} on {run.data.name}", ""]
    lines += markdown_table(
        ["metric", *summary.columns], [[n, *(text_of(n, v) for v in vs)] for n, vs in summary.rows]
    )
    for sample in summary.samples:
        lines += ["", f"## {sample['prompt']}", "", "```"]
        lines += [*question_lines(sample, str), "```"]
    lines += ["", *(f"- {note}" for note in summary.notes)]
    write_text(folder.report / "summary.md", "\n".join(lines).rstrip() + "\n")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["metric", *summary.columns])
    writer.writerows([name, *values] for name, values in summary.rows)
    write_text(folder.report / "summary.csv", text.getvalue())


def markdown_table(header: list[str], rows: list[list[str]]) -> list[str]:
    """A Markdown table as lines; the first column is text, the others figures."""
    rule = ["---", *(["---:"] * (len(header) - 1))]
    return ["| " + " | ".join(row) + " |" for row in [header, rule, *rows]]


@dataclass
class SweepRow:
    """A run of a sweep: what differs, its status in words, its results.json (or nothing yet)."""

    label: str
    status: str
    results: dict[str, Any]


def sweep_table(runs: list[SweepRow], title: str) -> Table:
    """A row per run with its main metrics.

    The target and the retain model stand above, where all runs share them.
    """
    rows = [(run.label, run.status, run.results.get("metrics", {})) for run in runs]
    for name, label in (("reference", "retain model"), ("target", "target")):
        shared = [run.results[name] for run in runs if run.results.get(name)]
        if shared and all(other == shared[0] for other in shared):
            rows.insert(0, (label, "", shared[0]))
    known = [n for n in SWEEP_METRICS if any(n in figures for _, _, figures in rows)]
    chosen = known[:SWEEP_COLUMNS]
    table = Table(title=escape(title), title_justify="left")
    table.add_column("run", overflow="fold", min_width=28)
    table.add_column("status", overflow="fold")
    for column in chosen:
        table.add_column(column.replace("_", " "), justify="right")
    for label, status, figures in rows:
        cells = (text_of(n, figures.get(n)) for n in chosen)
        table.add_row(escape(label), escape(status), *cells)
    return table
