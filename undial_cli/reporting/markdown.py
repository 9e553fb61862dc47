"""The report as Markdown, for a paper's appendix: tables, pictures as links, samples, settings.

Shows the same rows as the page. Knows no files of runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from undial_cli.evaluation.config import FORGET
from undial_cli.reporting import html, names, precision, samples, tables
from undial_cli.reporting.collect import Collection, RunRecord

SHOWN = 5
LONGEST = 400


def quoted(text: str) -> str:
    """Text as it is read, in one line: no markup of Markdown or HTML in it is taken as such."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#!])", r"\\\1", line)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> list[str]:
    """A table's lines; the first `text` columns hold text, the others figures."""
    rule = ["---" if place < text else "---:" for place in range(len(header))]
    lines = ["| " + " | ".join(map(quoted, header)) + " |", "| " + " | ".join(rule) + " |"]
    return lines + ["| " + " | ".join(map(quoted, row)) + " |" for row in rows]


def fenced(text: str, language: str = "") -> list[str]:
    """Text as a block, in a fence longer than any that it holds."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence + language, *text.rstrip("\n").split("\n"), fence]


def twin(
    collection: Collection,
    keys: Sequence[str],
    pictures: Sequence[tuple[Path, str]],
    notes: Sequence[str],
) -> str:
    """The whole text.

    Args:
        pictures: (file beside the text, caption) of each.
    """
    runs = collection.runs
    lines = [f"# {quoted(collection.title)}", "", quoted(" · ".join(html.facts(collection))), ""]
    bad = tables.unfinished(runs)
    if bad:
        lines += ["## Not finished", ""]
        lines += [*table(["run", "status", "reason"], bad, text=3), ""]
    lines += ["## Summary", "", *summary(runs, keys), ""]
    if pictures:
        lines += ["## Plots", ""]
    for file, caption in pictures:
        lines += [f"![{quoted(caption)}]({file.name})", "", f"*{quoted(caption)}*", ""]
    lines += examples(runs)
    different = [] if len(runs) == 1 else tables.different_settings(runs)
    lines += ["## Settings", ""]
    if different:
        rows = [[key, *values] for key, values in different]
        lines += [*table(["key", *(run.label for run in runs)], rows, text=len(runs) + 1), ""]
    shown = [run for run in runs if run.nested]
    for run in shown[:1] if different else shown:
        lines += [f"All settings of {quoted(run.label)}:", ""]
        lines += [*fenced(html.yaml_of(run), "yaml"), ""]
    for whose, rows in tables.environments(runs):
        lines += ["## Environment" + (f": {quoted(whose)}" if whose else ""), ""]
        lines += [*table(["what", "value"], rows, text=2), ""]
    if notes:
        lines += ["## Notes", "", *(f"- {quoted(note)}" for note in notes)]
    return html.without_surrogates("\n".join(lines).rstrip() + "\n")


def summary(runs: Sequence[RunRecord], keys: Sequence[str]) -> list[str]:
    """The summary table: metrics of one run, or a row per run."""
    if len(runs) == 1:
        columns, groups = tables.of_one(runs[0])
        rows = [
            [row.name if name == "joint" else f"{name}: {row.name}", *(c.text for c in row.cells)]
            for name, members in groups
            for row in members
        ]
        titles, far = tables.precisions(runs[0])
        more = ["", *table(["metric", *titles], far)] if far else []
        return [*table(["metric", *columns], rows), *more] if rows else ["No figures."]
    first, _ = tables.main_metrics(runs)
    above, rows = tables.of_many(runs, keys, first)
    header = [*(names.setting(k) for k in keys), "status", "time", *map(names.metric, first)]
    body = [[c.text for c in row.cells] for row in rows]
    if not keys:
        header, body = ["run", *header], [[r.name, *b] for r, b in zip(rows, body, strict=True)]
    for row in reversed(above):
        lead = [row.name, *[""] * (len(header) - len(first) - 1)]
        body.insert(0, lead + [c.text for c in row.cells[len(keys) + 2 :]])
    return table(header, body, text=len(header) - len(first) - 1)


def examples(runs: Sequence[RunRecord]) -> list[str]:
    """A few samples of the forget set with their answers, where text was stored."""
    if len(runs) != 1:
        return []
    run = runs[0]
    asked = [
        s for s in run.samples
        if precision.role_of(run.results, str(s["set"])) == FORGET
        and isinstance(s.get("generation"), str)
    ]  # fmt: skip
    step = max(1, len(asked) // SHOWN)
    chosen = asked[::step][:SHOWN]
    if not chosen:
        return []
    kept = [
        (key, title)
        for key, title in zip(samples.TEXTS, samples.TITLES, strict=True)
        if any(isinstance(s.get(key), str) for s in chosen)
    ]
    rows = [[cut(str(s.get(key) or "–")) for key, _ in kept] for s in chosen]
    return ["## Samples", "", *table([title for _, title in kept], rows, text=len(kept)), ""]


def cut(text: str) -> str:
    """A text that fits a table's cell."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
