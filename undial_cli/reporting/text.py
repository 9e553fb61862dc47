"""The report and a run's summary as Markdown and CSV, for a paper's appendix.

Shows the same sheets as the page. Knows no files of runs but those it writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from undial_cli.cache import write_text
from undial_cli.reporting import cells, page, samples
from undial_cli.reporting.collect import Collection, RunRecord
from undial_cli.reporting.sheet import Cell, csv_text, fenced, markdown, quoted, text_sheet

EXAMPLES = 5
LONGEST = 400


def report(
    collection: Collection,
    keys: Sequence[str],
    pictures: Sequence[tuple[Path, str]],
    notes: Sequence[str],
) -> str:
    """The whole report.

    Args:
        pictures: (file that stands in the same folder, caption) of each.
    """
    runs = collection.runs
    lines = [f"# {quoted(collection.title)}", "", quoted(" · ".join(page.facts(collection))), ""]
    unfinished = cells.unfinished(runs)
    if unfinished:
        sheet = text_sheet(["run", "status", "reason"], unfinished)
        lines += ["## Not finished", "", *markdown(sheet), ""]
    lines += ["## Summary", ""]
    lines += figures(runs[0]) if len(runs) == 1 else markdown(cells.of_many(runs, keys).main())
    lines += ["", "## Plots", ""] if pictures else [""]
    for file, caption in pictures:
        lines += [f"![{quoted(caption)}]({file.name})", "", f"*{quoted(caption)}*", ""]
    lines += examples(runs[0]) if len(runs) == 1 else []
    different = cells.different_settings(runs)
    lines += ["## Settings", ""]
    lines += [*markdown(different), ""] if different.rows else []
    shown = [run for run in runs if run.nested]
    for run in shown[:1] if different.rows else shown:
        lines += [f"All settings of {quoted(run.label)}:", ""]
        lines += [*fenced(page.yaml_of(run), "yaml"), ""]
    for sheet in cells.environments(runs):
        lines += ["## Environment" + (f": {quoted(sheet.title)}" if sheet.title else ""), ""]
        lines += [*markdown(sheet), ""]
    if notes:
        lines += ["## Notes", "", *(f"- {quoted(note)}" for note in notes)]
    return page.without_surrogates("\n".join(lines).rstrip() + "\n")


def figures(run: RunRecord, raw_names: bool = False) -> list[str]:
    """The figures of one run, and below them n, intervals and differences.

    Args:
        raw_names: metrics as results.json calls them, not in words.
    """
    lines: list[str] = []
    for sheet in (cells.of_one(run), cells.precisions(run)):
        for row in sheet.rows if raw_names else ():
            row.cells[0] = Cell(row.hint, style="code")
        lines += ["", *markdown(sheet)] if sheet.rows else []
    return lines[1:] or ["No figures."]


def examples(run: RunRecord) -> list[str]:
    """A few samples of the forget set with their answers, where text was stored."""
    chosen = cells.examples(run, EXAMPLES)
    columns = {
        key: title
        for key, title in samples.TEXTS.items()
        if any(isinstance(sample.get(key), str) for sample in chosen)
    }
    rows = [[shortened(sample.get(key)) for key in columns] for sample in chosen]
    sheet = text_sheet(list(columns.values()), rows)
    return ["## Samples", "", *markdown(sheet), ""] if rows else []


def shortened(text: str | None) -> str:
    """A text that fits a table's cell."""
    text = text or "–"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def write_summary(run: RunRecord, title: str, folder: Path) -> None:
    """summary.md and summary.csv: the figures of one run under their names in results.json."""
    lines = [f"# {title}", "", *figures(run, raw_names=True), "", *examples(run)]
    lines += [f"- {quoted(note)}" for note in cells.notes([run])]
    write_text(folder / "summary.md", "\n".join(lines).rstrip() + "\n")
    models = cells.models_of(run.command, run.results)
    rows = [[name, *(m.figures.get(name) for m in models)] for name in cells.metric_names(run)]
    header = ["metric", *(model.title for model in models)]
    write_text(folder / "summary.csv", csv_text([header, *rows]))
