"""The closing table of a run and three questions before and after; the table of a sweep.

Reads evaluation/ of the run folder, so that it can be shown again at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from undial_cli import ui
from undial_cli.config.schema import (
    AlternativesRun,
    AuditRun,
    EvaluateRun,
    FinetuneRun,
    Run,
    UnlearnRun,
)
from undial_cli.evaluation import results as store
from undial_cli.evaluation.figures import AUDIT_FIGURES, MAIN_FIGURES
from undial_cli.reporting import cells, notes
from undial_cli.reporting.alternatives_screen import show_alternatives
from undial_cli.reporting.audit_page import AUDIT_PAGE
from undial_cli.reporting.audit_screen import show_audit
from undial_cli.reporting.cells import (
    ModelFigures,
    find_shared_figures,
    format_marked_figure,
    list_model_figures,
    subtract_figures,
)
from undial_cli.reporting.collect import AUDIT_FOLDER, RunRecord
from undial_cli.reporting.outcome import describe_outcome
from undial_cli.reporting.page import fill_template
from undial_cli.reporting.samples import TEXT_TITLES
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow, format_csv, make_screen_table
from undial_cli.system.files import write_whole_text

MOST_QUESTIONS = 3
MOST_SWEEP_METRICS = 7
MOST_LETTERS = 300


def read_evaluated_run(run: Run, folder: Path) -> RunRecord | None:
    """What was evaluated of the run in a folder, or None where nothing was."""
    evaluation = store.load_evaluation(folder / "evaluation")
    if evaluation is None:
        return None
    record = RunRecord(folder, "done", settings={"command": run.command})
    record.results = store.read_results_json(folder / "evaluation")
    record.samples = evaluation.samples
    return record


def write_summary(run: Run, folder: Path) -> None:
    """report/summary.md and summary.csv: the figures under their names in results.json."""
    record = read_evaluated_run(run, folder)
    if record is None:
        return
    figures, precisions = cells.make_run_sheet(record), cells.make_precision_sheet(record)
    for row in [*figures.rows, *precisions.rows]:
        row.cells[0] = Cell(row.hint, style="code")
    view = {
        "title": make_summary_title(run),
        "figures": figures,
        "precisions": precisions,
        "examples": cells.make_examples_sheet(record),
        "notes": notes.list_run_notes([record]),
    }
    text = fill_template("summary.md.jinja", view)
    write_whole_text(folder / "report" / "summary.md", text, private=True)  # it has examples
    models = list_model_figures(run.command, record.results)
    rows = [["metric", *(model.title for model in models)]]
    rows += [[name, *(m.figures.get(name) for m in models)] for name in record.figures()]
    write_whole_text(folder / "report" / "summary.csv", format_csv(rows))


def make_summary_title(run: Run) -> str:
    return f"{run.command}: {run.model.name} on {run.data.name}"


def show_summary(run: Run, folder: Path) -> None:
    """Print the table, the notes and the questions."""
    if isinstance(run, AlternativesRun):
        show_alternatives(folder / "alternatives.json")
        return
    record = read_evaluated_run(run, folder)
    if record is None:
        ui.say(f"done, without evaluation: {folder}")
        return
    page = folder / "report" / AUDIT_PAGE
    page = page if page.is_file() else None
    if isinstance(run, AuditRun):
        show_audit(folder / AUDIT_FOLDER, page)
        return
    results = record.results
    models = list_model_figures(run.command, results)
    ui.say(make_summary_table(run, results, models))
    for chosen in notes.list_selections(results):
        ui.say(chosen)
    if verdict := notes.state_forgetting(results):
        ui.say(f"verdict: {verdict}")
    if damage := notes.state_damage(results):
        ui.say(damage, "red")
    statistics = [(name, m.statistics.get(name)) for m in models for name in results["metrics"]]
    if any(notes.is_weak_figure(name, statistic) for name, statistic in statistics):
        hint = "" if run.eval.intervals else " (eval.intervals=true shows them)"
        ui.say(f"{notes.WEAK_LEGEND}{hint}", "dim")
    if not isinstance(run, EvaluateRun | FinetuneRun):
        for sample in cells.choose_answered_samples(record, MOST_QUESTIONS):
            show_sample(sample)
    for note in [*notes.list_missing_metrics(results), *notes.list_remarks(results)]:
        ui.say(note, "yellow")
    if isinstance(run, UnlearnRun) and (outcome := describe_outcome(run, results, str(folder))):
        ui.say(outcome)
    if not results["reference"] and not isinstance(run, FinetuneRun):
        note = notes.NO_RETAIN_NOTE
        ui.say(note[0].lower() + note[1:].removesuffix("."), "yellow")
    show_audit(folder / AUDIT_FOLDER, page)
    ui.say(f"everything is in {folder}")


def show_sample(sample: dict[str, Any]) -> None:
    """Print a question with its answers; not into the log, which holds no text of the data."""

    def shorten(key: str) -> str:
        return ui.reveal_controls(cells.shorten_text(sample[key], MOST_LETTERS))

    answers = [
        f"{name + ':':<14}{shorten(key)}"
        for key, name in TEXT_TITLES.items()
        if key != "prompt" and sample.get(key) is not None
    ]
    title = f"{ui.reveal_controls(sample['set'])}: {shorten('prompt')}"
    # Text, not str, which rich would read as its markup.
    ui.say(Panel(Text("\n".join(answers)), title=Text(title), title_align="left"), log=False)


def make_summary_table(run: Run, results: dict[str, Any], models: Sequence[ModelFigures]) -> Table:
    """The table for the screen; with eval.intervals n, and below each figure its interval."""
    shown = list(models)
    if results["reference"] and isinstance(run, EvaluateRun):
        gaps = subtract_figures(results["metrics"], results["reference"])
        shown.append(ModelFigures("difference", gaps))
    columns = [Column("metric", numeric=False), *(Column(model.title) for model in shown)]
    columns += [Column("n")] if run.eval.intervals else []
    rows = []
    for name in results["metrics"]:
        if name.startswith(AUDIT_FIGURES):
            continue  # the audit has a table of its own
        texts = [format_marked_figure(name, model) for model in shown]
        if run.eval.intervals:
            statistics = [model.statistics.get(name) for model in shown]
            bounds = [f"\n{notes.format_interval(s)}".removesuffix("\n–") for s in statistics]
            texts = [figure + bound for figure, bound in zip(texts, bounds, strict=True)]
            texts.append(notes.format_sample_count(next(filter(None, statistics), None)))
        group = "" if name in run.eval.metrics else name.split("_")[0]
        # D and n of forget_quality stand below it, as a terminal is narrow
        texts = [text.replace(" (", "\n(") for text in texts]
        rows.append(SheetRow([Cell(name), *map(Cell, texts)], group))
    return make_screen_table(Sheet(make_summary_title(run), columns, rows), headings=False)


def make_sweep_table(runs: Sequence[RunRecord], title: str) -> Table:
    """A row per run of a sweep with its main metrics; above them the models that all share."""
    metrics = {name for run in runs for name in run.figures()}
    chosen = [name for name in MAIN_FIGURES if name in metrics][:MOST_SWEEP_METRICS]
    words = [notes.read_verdict(run.results).get("word", "") for run in runs]
    heads = ["run", "status", *(["verdict"] if any(words) else [])]
    columns = [Column(name, numeric=False) for name in heads]
    columns += [Column(name.replace("_", " ")) for name in chosen]

    def make_row(labels: list[str], model: ModelFigures) -> SheetRow:
        texts = [format_marked_figure(name, model).split(" (")[0] for name in chosen]
        return SheetRow([*map(Cell, labels[: len(heads)]), *map(Cell, texts)])

    shared = find_shared_figures([run.results for run in runs])
    above = [make_row([label, "", ""], ModelFigures(label, f)) for label, f in shared.items()]
    rows = []
    for run, word in zip(runs, words, strict=True):
        model = ModelFigures("", run.figures(), notes.get_statistics(run.results))
        rows.append(make_row([run.label, run.status, word], model))
    return make_screen_table(Sheet(title, columns, rows, above))
