"""The closing table of a run and three questions before and after; the table of a sweep.

Reads evaluation/ of the run folder, so that it can be shown again at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from undial_cli import ui
from undial_cli.cache import write_text
from undial_cli.evaluation import store
from undial_cli.evaluation.figures import FIRST_SHOWN
from undial_cli.reporting import cells, page, precision
from undial_cli.reporting.cells import Model
from undial_cli.reporting.collect import RunRecord
from undial_cli.reporting.samples import TEXTS
from undial_cli.reporting.sheet import Cell, Column, Row, Sheet, csv_text, on_screen
from undial_cli.run_folder import RunFolder
from undial_cli.schema import EvaluateRun, FinetuneRun, Run

QUESTIONS = 3
SWEEP_COLUMNS = 6
SHOWN = 300


def read(run: Run, folder: RunFolder) -> RunRecord | None:
    """What was evaluated of a run, or None where nothing was."""
    evaluation = store.load(folder.evaluation)
    if evaluation is None:
        return None
    record = RunRecord(folder.path, status="done", settings={"command": run.command})
    record.results, record.samples = store.read_results(folder.evaluation), evaluation.samples
    return record


def write(run: Run, folder: RunFolder) -> None:
    """report/summary.md and summary.csv: the figures under their names in results.json."""
    record = read(run, folder)
    if record is None:
        return
    view = {"figures": cells.of_one(record), "precisions": cells.precisions(record)}
    for row in [*view["figures"].rows, *view["precisions"].rows]:
        row.cells[0] = Cell(row.hint, style="code")
    notes, examples = cells.notes([record]), cells.examples(record)
    text = page.fill(
        "summary.md.jinja", {"title": title_of(run), "notes": notes, "examples": examples, **view}
    )
    write_text(folder.report / "summary.md", text)
    models = cells.models_of(run.command, record.results)
    rows = [[name, *(m.figures.get(name) for m in models)] for name in record.figures()]
    write_text(
        folder.report / "summary.csv", csv_text([["metric", *(m.title for m in models)], *rows])
    )


def title_of(run: Run) -> str:
    """A run in words."""
    return f"{run.command}: {run.model.name} on {run.data.name}"


def text_of(name: str, model: Model) -> str:
    """A figure as text, marked where it is weak."""
    value = model.figures.get(name)
    if value is None:
        return "-"
    figure = f"{value:.2e}" if name == precision.QUALITY else f"{value:.3f}"
    return precision.marked(figure, name, model.statistics.get(name))


def show(run: Run, folder: RunFolder) -> None:
    """Print the table, the notes and the questions."""
    record = read(run, folder)
    if record is None:
        ui.say(f"done, without evaluation: {folder.path}")
        return
    results = record.results
    models = cells.models_of(run.command, results)
    ui.say(table_of(run, results, models))
    if damage := precision.damage(results):
        ui.say(damage, "red")
    if any(
        precision.is_weak(name, m.statistics.get(name))
        for m in models
        for name in results["metrics"]
    ):
        hint = "" if run.eval.intervals else " (eval.intervals=true shows them)"
        ui.say(f"{precision.LEGEND}{hint}", "dim")
    compared = not isinstance(run, EvaluateRun | FinetuneRun)
    for sample in cells.questions(record, QUESTIONS) if compared else []:
        title = escape(f"{sample['set']}: {cells.shortened(sample['prompt'], SHOWN)}")
        answers = [
            f"{name + ':':<14}{escape(cells.shortened(sample[key], SHOWN))}"
            for key, name in TEXTS.items()
            if key != "prompt" and sample.get(key) is not None
        ]
        ui.say(Panel("\n".join(answers), title=title, title_align="left"), log=False)
    for note in [*precision.missing(results), *precision.remarks(results)]:
        ui.say(note, "yellow")
    if not results["reference"] and not isinstance(run, FinetuneRun):
        ui.say(cells.NO_RETAIN[0].lower() + cells.NO_RETAIN[1:].removesuffix("."), "yellow")
    ui.say(f"everything is in {folder.path}")


def table_of(run: Run, results: dict[str, Any], models: Sequence[Model]) -> Table:
    """The table for the screen; with eval.intervals n, and below each figure its interval."""
    shown = list(models)
    if results["reference"] and isinstance(run, EvaluateRun):
        shown.append(Model("difference", cells.gaps_of(results["metrics"], results["reference"])))
    columns = [Column("metric", numeric=False), *(Column(model.title) for model in shown)]
    columns += [Column("n")] if run.eval.intervals else []
    rows = []
    for name in results["metrics"]:
        texts = [text_of(name, model) for model in shown]
        if run.eval.intervals:
            statistics = [model.statistics.get(name) for model in shown]
            bounds = [f"\n{precision.interval(known)}".removesuffix("\n–") for known in statistics]
            texts = [figure + bound for figure, bound in zip(texts, bounds, strict=True)]
            texts.append(precision.size(next(filter(None, statistics), None)))
        group = "" if name in run.eval.metrics else name.split("_")[0]
        rows.append(Row([Cell(name), *(Cell(t.replace(" (", "\n(")) for t in texts)], group))
    return on_screen(Sheet(title_of(run), columns, rows), headings=False)


def sweep_table(runs: Sequence[RunRecord], title: str) -> Table:
    """A row per run of a sweep with its main metrics.

    The target and the retain model stand above, where all runs share them.
    """
    metrics = {name for run in runs for name in run.figures()}
    chosen = [name for name in FIRST_SHOWN if name in metrics][:SWEEP_COLUMNS]
    columns = [Column("run", numeric=False), Column("status", numeric=False)]
    columns += [Column(name.replace("_", " ")) for name in chosen]

    def row(label: str, status: str, model: Model) -> Row:
        texts = [text_of(name, model).split(" (")[0] for name in chosen]
        return Row([Cell(label), Cell(status), *map(Cell, texts)])

    shared = cells.shared_figures([run.results for run in runs])
    above = [row(label, "", Model(label, figures)) for label, figures in shared.items()]
    rows = [
        row(run.label, run.status, Model("", run.figures(), precision.statistics_of(run.results)))
        for run in runs
    ]
    return on_screen(Sheet(title, columns, rows, above))
