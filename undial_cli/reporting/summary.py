"""The closing table of a run and three questions before and after; the same as Markdown and CSV.

Reads evaluation/ of the run folder, so that it can be shown again at any time.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import Any

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from undial_cli import ui
from undial_cli.cache import write_text
from undial_cli.evaluation import store
from undial_cli.evaluation.config import FORGET
from undial_cli.evaluation.figures import FIRST_IN_SWEEP
from undial_cli.reporting import precision
from undial_cli.reporting.precision import LEGEND, Statistics
from undial_cli.run_folder import RunFolder
from undial_cli.schema import EvaluateRun, FinetuneRun, Run

QUESTIONS = 3
SWEEP_COLUMNS = 6
SHOWN = 300


@dataclass
class Column:
    """One model's figures, and n and intervals of them, by metric."""

    title: str
    figures: dict[str, float | None]
    statistics: dict[str, Statistics] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A figure, marked where it is weak."""
        text = text_of(name, self.figures.get(name))
        return precision.marked(text, name, self.statistics.get(name))


@dataclass
class Summary:
    """The table (a row for each of `metrics`), what was damaged, notes, and samples to show."""

    metrics: list[str]
    columns: list[Column]
    damaged: str
    notes: list[str]
    samples: list[dict[str, Any]]

    @property
    def is_marked(self) -> bool:
        """Whether a figure carries the mark of weak ones."""
        return any(
            precision.is_weak(name, column.statistics.get(name))
            for column in self.columns
            for name in self.metrics
        )


def read(run: Run, folder: RunFolder) -> Summary | None:
    """The summary of a run folder, or None where nothing was evaluated."""
    results, evaluation = store.read_results(folder.evaluation), store.load(folder.evaluation)
    if evaluation is None:
        return None
    missing: dict[str, list[str]] = {}
    for name, reason in results["missing"].items():
        missing.setdefault(reason, []).append(name)
    notes = [f"{', '.join(names)}: {reason}" for reason, names in missing.items()]
    notes += [*precision.said_of_figures(results), *precision.said_of_rows(results)]
    if not results["reference"] and not isinstance(run, FinetuneRun):
        notes.append(
            "no retain model: whether the model now behaves as if it had never seen the forget set "
            "cannot be concluded; a low score may also mean that it was damaged"
        )
    samples = [
        s
        for s in evaluation.samples
        if "generation" in s and precision.role_of(results, s["set"]) == FORGET
    ]
    step = max(1, len(samples) // QUESTIONS)
    return Summary(
        list(results["metrics"]),
        columns_of(run, results),
        precision.damage(results),
        notes,
        samples[::step][:QUESTIONS],
    )


def columns_of(run: Run, results: dict[str, Any]) -> list[Column]:
    """The models whose figures stand beside each other."""
    after, target, reference = results["metrics"], results["target"], results["reference"]
    ours = precision.statistics_of(results)
    theirs = {n: precision.statistics_of(results, n) for n in ("target", "reference")}
    alone = isinstance(run, EvaluateRun | FinetuneRun)
    if results.get("requests"):
        parts = [part["metrics"] for part in results["requests"]]
        columns = [Column("start", target, theirs["target"])]
        columns += [Column(f"after {n}", part) for n, part in enumerate(parts, 1)]
        columns[-1].statistics = ours
    else:
        columns = [Column("target" if alone else "before", target, theirs["target"])]
        columns = columns if target or not alone else []
        columns.append(Column("model" if alone else "after", after, ours))
    if reference:
        columns.append(Column("retain model", reference, theirs["reference"]))
    if reference and isinstance(run, EvaluateRun):
        pairs = [(k, after.get(k), v) for k, v in reference.items()]
        gaps: dict[str, float | None] = {
            k: a - b for k, a, b in pairs if a is not None and b is not None
        }
        columns.append(Column("difference", gaps))
    return columns


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
    ui.say(drawn(run, summary))
    if summary.damaged:
        ui.say(summary.damaged, "red")
    if summary.is_marked:
        ui.say(
            LEGEND if run.eval.intervals else f"{LEGEND} (eval.intervals=true shows them)", "dim"
        )
    for sample in [] if isinstance(run, EvaluateRun | FinetuneRun) else summary.samples:
        title = escape(f"{sample['set']}: {shortened(sample['prompt'])}")
        body = "\n".join(question_lines(sample, escape))
        ui.say(Panel(body, title=title, title_align="left"), log=False)
    for note in summary.notes:
        ui.say(note, "yellow")
    ui.say(f"everything is in {folder.path}")


def drawn(run: Run, summary: Summary) -> Table:
    """The table for the screen; with eval.intervals n, and below each figure its interval."""
    table = Table(title=f"{run.command}: {run.model.name} on {run.data.name}", title_justify="left")
    table.add_column("metric")
    for column in summary.columns:
        table.add_column(column.title, justify="right")
    if run.eval.intervals:
        table.add_column("n", justify="right")
    last = None
    for name in summary.metrics:
        group = "" if name in run.eval.metrics else name.split("_")[0]
        if last not in (None, group):
            table.add_section()
        last = group
        cells = [column.text(name).replace(" (", "\n(") for column in summary.columns]
        if run.eval.intervals:
            known = [column.statistics.get(name) for column in summary.columns]
            below = [precision.interval(statistic) for statistic in known]
            cells = [
                text if bounds == "–" else f"{text}\n{escape(bounds)}"
                for text, bounds in zip(cells, below, strict=True)
            ]
            cells.append(size_of(name, summary.columns).replace(" (", "\n("))
        table.add_row(name, *cells)
    return table


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
    columns = summary.columns
    lines = [f"# {run.command}: {run.model.name} on {run.data.name}", ""]
    lines += markdown_table(
        ["metric", *(c.title for c in columns)],
        [[name, *(quoted(c.text(name)) for c in columns)] for name in summary.metrics],
    )
    if any(column.statistics for column in columns):
        known = [column for column in columns if column.statistics]
        lines += ["", "n and 95 % intervals:", ""]
        lines += markdown_table(
            ["metric", "n", *(column.title for column in known)],
            [
                [name, size_of(name, known), *(interval_of(name, column) for column in known)]
                for name in summary.metrics
            ],
        )
    for sample in summary.samples:
        lines += ["", f"## {sample['prompt']}", "", "```"]
        lines += [*question_lines(sample, str), "```"]
    said = [summary.damaged] if summary.damaged else []
    said += [quoted(LEGEND)] if summary.is_marked else []
    lines += ["", *(f"- {note}" for note in [*said, *summary.notes])]
    write_text(folder.report / "summary.md", "\n".join(lines).rstrip() + "\n")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["metric", *(column.title for column in columns)])
    writer.writerows([name, *(c.figures.get(name) for c in columns)] for name in summary.metrics)
    write_text(folder.report / "summary.csv", text.getvalue())


def quoted(text: str) -> str:
    """A text in which a mark is no Markdown."""
    return text.replace("*", "\\*")


def size_of(name: str, columns: list[Column]) -> str:
    """n of a metric, of the first column that knows it."""
    sizes = [precision.size(column.statistics.get(name)) for column in columns]
    return next((size for size in sizes if size != "–"), "–")


def interval_of(name: str, column: Column) -> str:
    """The interval of a figure; of forget_quality that of its D too."""
    statistic = column.statistics.get(name)
    text = precision.interval(statistic)
    if statistic and statistic.get("D_interval"):
        text += f", D {precision.interval({'interval': statistic['D_interval']})}"
    return text


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
    rows = [
        (
            run.label,
            run.status,
            run.results.get("metrics", {}),
            precision.statistics_of(run.results),
        )
        for run in runs
    ]
    for name, label in (("reference", "retain model"), ("target", "target")):
        shared = [run.results[name] for run in runs if run.results.get(name)]
        if shared and all(other == shared[0] for other in shared):
            rows.insert(0, (label, "", shared[0], {}))
    known = [n for n in FIRST_IN_SWEEP if any(n in figures for _, _, figures, _ in rows)]
    chosen = known[:SWEEP_COLUMNS]
    table = Table(title=escape(title), title_justify="left")
    table.add_column("run", overflow="fold", min_width=28)
    table.add_column("status", overflow="fold")
    for column in chosen:
        table.add_column(column.replace("_", " "), justify="right")
    for label, status, figures, statistics in rows:
        cells = (Column("", figures, statistics).text(n).split(" (")[0] for n in chosen)
        table.add_row(escape(label), escape(status), *cells)
    return table
