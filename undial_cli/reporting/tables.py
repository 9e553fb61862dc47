"""The tables of a report as plain rows: summary of one run, of many, settings, environment, notes.

The page and its Markdown twin show the same rows. Knows collected runs, and no markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from undial_cli.evaluation.figures import FIRST_IN_REPORT
from undial_cli.reporting import names, precision
from undial_cli.reporting.collect import RunRecord
from undial_cli.reporting.differences import NOT_TOLD, as_text
from undial_cli.reporting.pictures import marks_of, pair_of

# How many are shown first in a table of many runs; the rest is a click away.
MOST_MAIN = 7
HEADLINES = ("model_utility", "forget_quality", "privleak")
TRUSTED = "done"
NO_RETAIN = (
    "No retain model: whether the model now behaves as if it had never seen the forget set cannot "
    "be concluded; a low score may also mean that it was damaged."
)


@dataclass
class Cell:
    """A cell: its text, and the number it is sorted by (None: the text itself)."""

    text: str
    number: float | None = None


@dataclass
class Row:
    """A row: its name and its cells; `note` is shown beside the name (a tooltip, or nothing)."""

    name: str
    cells: list[Cell]
    note: str = ""
    extra: str = ""


def cell(value: Any, name: str = "", statistics: dict[str, Any] | None = None) -> Cell:
    """A figure as a cell, marked where its statistics say that it carries nothing."""
    text = precision.marked(names.figure(value), name, (statistics or {}).get(name))
    return Cell(text, names.number(value))


def metric_names(run: RunRecord) -> list[str]:
    """The metrics of a run in their order: those of its sets, then the joint ones."""
    known = dict.fromkeys(run.figures())
    for name in ("target", "reference"):
        if not known:
            known = dict.fromkeys(run.figures(name))
    return list(known)


def of_one(run: RunRecord) -> tuple[list[str], list[tuple[str, list[Row]]]]:
    """The summary of one run: column titles, and rows by set.

    The last column is the model's figure minus the retain model's, or, without a retain model,
    minus the target's.
    """
    after, target, reference = (run.figures(n) for n in ("metrics", "target", "reference"))
    ours = precision.statistics_of(run.results)
    theirs = {n: precision.statistics_of(run.results, n) for n in ("target", "reference")}
    stages: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    parts = run.requests
    if parts:
        stages = [("start", target, theirs["target"])]
        stages += [(f"after {n}", p, {}) for n, p in enumerate(parts[:-1], 1)]
        stages.append((f"after {len(parts)}", parts[-1], ours))
    else:
        trained = run.command not in ("evaluate", "finetune")
        first = ("before" if trained else "target", target, theirs["target"])
        stages = [first] if target or trained else []
        stages.append(("after" if trained else "model", after, ours))
    last = stages[-1][0]
    if reference:
        stages.append(("retain model", reference, theirs["reference"]))
    compared = reference or target
    titles = [title for title, _, _ in stages]
    if compared:
        titles.append(f"{last} − {'retain model' if reference else titles[0]}")
    groups: dict[str, list[Row]] = {}
    for name in metric_names(run):
        found = names.group_of(name) or "joint"
        cells = [cell(figures.get(name), name, known) for _, figures, known in stages]
        if compared:
            mine, other = names.number(after.get(name)), names.number(compared.get(name))
            gap = None if mine is None or other is None else mine - other
            cells.append(Cell(names.signed(gap), gap))
        words = names.metric(name).removeprefix(f"{found} ")
        way = names.better(name, precision.part(run.results, "roles"))
        groups.setdefault(found, []).append(
            Row(words, cells, note=name, extra=f"{way} is better" if way else "")
        )
    return titles, list(groups.items())


def precisions(run: RunRecord) -> tuple[list[str], list[list[str]]]:
    """How far the figures of one run carry: column titles, and a row of text for each metric."""
    ours, differences = (
        precision.statistics_of(run.results),
        precision.part(run.results, "differences"),
    )
    compared = {
        title: precision.part(differences, name)
        for name, title in (("target", "before"), ("reference", "retain model"))
        if precision.part(differences, name)
    }
    rows = []
    for name in metric_names(run):
        if name in ours:
            bounds = precision.interval(ours[name])
            if ours[name].get("D_interval"):
                bounds += f", D {precision.interval({'interval': ours[name]['D_interval']})}"
            gaps = [precision.signed(known.get(name)) for known in compared.values()]
            rows.append([names.metric(name), precision.size(ours[name]), bounds, *gaps])
    return ["n", "95 % interval", *(f"less {title}" for title in compared)], rows


def headlines(run: RunRecord) -> list[dict[str, str]]:
    """The main figures of one run, for its head: name, before, after, retain model."""
    after = run.figures()
    pair = pair_of(set(after)) or ("request_1_rouge", "request_1_probability", "retain_rouge")
    found = []
    for name in dict.fromkeys([*pair, *HEADLINES]):
        if names.number(after.get(name)) is not None:
            found.append(
                {
                    "name": names.metric(name),
                    "before": names.figure(run.figures("target").get(name)),
                    "after": names.figure(after[name]),
                    "retain": names.figure(run.figures("reference").get(name)),
                }
            )
    return found[:4]


def main_metrics(runs: Sequence[RunRecord]) -> tuple[list[str], list[str]]:
    """The metrics of many runs: the few shown first, and the rest."""
    known = list(dict.fromkeys(name for run in runs for name in metric_names(run)))
    first = [name for name in FIRST_IN_REPORT if name in known][:MOST_MAIN] or known[:MOST_MAIN]
    return first, [name for name in known if name not in first]


def of_many(
    runs: Sequence[RunRecord], keys: Sequence[str], metrics: Sequence[str]
) -> tuple[list[Row], list[Row]]:
    """The table of many runs: rows of the target and the retain model, and a row per run.

    Cells are those of the keys, the status, the time, then the metrics.
    """
    above = [
        Row(title, [Cell("")] * (len(keys) + 2) + [cell(figures.get(m)) for m in metrics])
        for title, figures in marks_of(runs).items()
    ]
    rows = []
    for run in runs:
        cells = []
        for key in keys:
            value = run.values.get(key)
            number = names.number(value)
            text = names.short(number if isinstance(value, str) and number is not None else value)
            cells.append(Cell(text if key in run.values else "–", number))
        cells += [Cell(run.status or "unknown"), Cell(names.seconds(run.seconds), run.seconds)]
        known = precision.statistics_of(run.results)
        cells += [cell(run.figures().get(m), m, known) for m in metrics]
        rows.append(Row(run.label, cells, note=run.reason, extra=run.status))
    return above, rows


def unfinished(runs: Sequence[RunRecord]) -> list[tuple[str, str, str]]:
    """(label, status, reason) of every run that is not done."""
    return [
        (run.label, run.status, run.reason or "no reason is noted")
        for run in runs
        if run.status != TRUSTED
    ]


def notes(runs: Sequence[RunRecord]) -> list[str]:
    """What a reader must know: missing metrics and why, no retain model, files not read."""
    by_text: dict[str, list[str]] = {}
    for run in runs:
        missing = run.results.get("missing")
        reasons: dict[str, list[str]] = {}
        for name, reason in (missing if isinstance(missing, dict) else {}).items():
            reasons.setdefault(str(reason), []).append(str(name))
        found = [names.sentence(text)] if (text := precision.damage(run.results)) else []
        found += [f"Missing: {', '.join(ms)}: {reason}" for reason, ms in reasons.items()]
        found += [*precision.said_of_figures(run.results), *precision.said_of_rows(run.results)]
        if any(precision.is_weak(n, s) for n, s in precision.statistics_of(run.results).items()):
            found.append(precision.LEGEND)
        if run.figures() and not run.figures("reference") and run.command != "finetune":
            found.append(NO_RETAIN)
        for text in [*found, *run.problems]:
            by_text.setdefault(text, []).append(run.label)
    whole = len(runs)
    return [
        text if whole == 1 or len(labels) == whole else f"{text} ({'; '.join(labels)})"
        for text, labels in by_text.items()
    ]


def different_settings(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """(key, its value in each run) of every key that is not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    found = []
    for key in keys:
        if key in NOT_TOLD:
            continue
        values = [run.settings.get(key) for run in runs]
        if len({as_text(run.settings.get(key)) for run in runs if run.settings}) > 1:
            found.append(
                (
                    key,
                    [
                        names.short(v) if key in r.settings else "–"
                        for r, v in zip(runs, values, strict=True)
                    ],
                )
            )
    return found


def environments(runs: Sequence[RunRecord]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(whose, rows of name and value) of every environment that runs were made in."""
    found: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for run in runs:
        shared = {k: v for k, v in run.environment.items() if k != "seed"}
        if shared:
            found.setdefault(as_text(shared), (shared, []))[1].append(run.label)
    several = len(found) > 1
    return [
        ("; ".join(labels) if several else "", list(environment_rows(content)))
        for content, labels in found.values()
    ]


def environment_rows(content: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """An environment.json as rows."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from ((str(k), str(v)) for k, v in value.items())
        elif isinstance(value, list):
            yield name, ", ".join(map(str, value))
        elif value is not None:
            yield name, str(value)
