"""Which figures a report shows: chosen from what was measured, with their captions.

Joins collected runs with plots.py. A figure that cannot be drawn is left out, with its reason.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from undial_cli.evaluation.figures import find_better_direction, find_figure_title
from undial_cli.reporting import plots
from undial_cli.reporting.cells import choose_metric_pairs, find_shared_figures
from undial_cli.reporting.collect import RunRecord, get_part, list_request_figures
from undial_cli.reporting.labels import SEED_KEY, describe_values, find_swept_numbers
from undial_cli.reporting.text import (
    capitalise_first,
    format_setting_value,
    get_set_title,
    name_setting,
    parse_first_number,
    parse_number,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Per-sample scores whose distribution is shown, by set; of many runs the first two.
SPREAD_SCORES = (
    ("forget", "log_truth_ratio"),
    ("forget", "probability"),
    ("forget", "rouge"),
    ("retain", "probability"),
)
MOST_PAIRS, MOST_MAPS, MOST_LINES = 2, 6, 18
KS_CAPTION = (
    " The arrow is the Kolmogorov-Smirnov distance; forget quality is the p-value of that test on "
    "the truth ratios."
)


@dataclass
class ReportPlot:
    """A figure, the name of its files, and what it shows in a sentence."""

    name: str
    caption: str
    draw: Callable[[], Figure]


def choose_plots(runs: list[RunRecord], keys: list[str]) -> list[ReportPlot]:
    """The pictures of a report, in the order in which they are shown."""
    return [
        *choose_trade_offs(runs), *choose_heat_maps(runs, keys), *choose_dynamics(runs), *choose_spreads(runs), *choose_request_plots(runs)
    ]  # fmt: skip


def capitalise_metric(name: str) -> str:
    """A metric's name at the beginning of a sentence."""
    return capitalise_first(find_figure_title(name))


def choose_trade_offs(runs: list[RunRecord]) -> Iterator[ReportPlot]:
    """Forget against retain scores over runs."""
    done = [run for run in runs if run.figures()]
    if len(done) < 2:
        return
    marks = find_shared_figures([run.results for run in done])
    also = f"; marked: {' and '.join(marks)}" if marks else ""
    for x, y in choose_metric_pairs({name for run in done for name in run.figures()})[:MOST_PAIRS]:
        points = []
        for run in done:
            a, b = plots.to_float_array([run.figures().get(name) for name in (x, y)])
            points.append(plots.TradeOffPoint(run.short, a, b, run.group))
        roles = get_part(done[0].results, "roles")
        better = (
            find_better_direction(x, roles) or "higher",
            find_better_direction(y, roles) or "higher",
        )
        yield ReportPlot(
            f"trade_off_{x}_{y}",
            f"{capitalise_metric(x)} against {find_figure_title(y)}, one point per run. On the grey line (Pareto "
            f"front) no other run is better in both{also}.",
            partial(plots.draw_trade_off, points, x, y, better, marks),
        )


def choose_heat_maps(runs: list[RunRecord], keys: list[str]) -> Iterator[ReportPlot]:
    """A heat map per score (and per method) where two numbers are swept: means over seeds."""
    swept = find_swept_numbers(runs, keys)
    pairs = choose_metric_pairs({name for run in runs for name in run.figures()})
    if len(swept) != 2 or not pairs:
        return
    groups: dict[str, dict[tuple[Any, ...], list[RunRecord]]] = {}
    for run in runs:
        others = {k: v for k, v in run.values.items() if k not in (*swept, SEED_KEY)}
        levels = tuple(parse_number(run.values[key]) for key in swept)
        cells = groups.setdefault(describe_values(others), {})
        cells.setdefault(levels, []).append(run)
    seeds = ", mean over seeds" if SEED_KEY in keys else ""
    down, across = map(name_setting, swept)
    for number, (group, cells) in enumerate(list(groups.items())[:MOST_MAPS], 1):
        rows, columns = (sorted(set(numbers)) for numbers in zip(*cells, strict=True))
        for name in pairs[0]:
            table = [
                [average_over_runs(cells.get((a, b), []), name) for b in columns] for a in rows
            ]
            title = find_figure_title(name) + (f", {group}" if group else "") + seeds
            yield ReportPlot(
                f"map_{name}" + (f"_{number}" if len(groups) > 1 else ""),
                f"{capitalise_first(title)}, over {down} and {across}; a hatched cell has no figure.",
                partial(plots.draw_heat_map, list(map(format_setting_value, rows)),
                        list(map(format_setting_value, columns)), table, title, down, across),
            )  # fmt: skip


def average_over_runs(runs: list[RunRecord], name: str) -> float | None:
    """The mean of a metric over the runs that have it."""
    values = [v for run in runs if (v := parse_number(run.figures().get(name))) is not None]
    return statistics.fmean(values) if values else None


def choose_dynamics(runs: list[RunRecord]) -> Iterator[ReportPlot]:
    """Scores, where they were measured on the way, and losses against steps."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run.steps:
            lines[run.short] = run.steps
        for term, rows in run.parts.items():
            lines[term if len(runs) == 1 else f"{run.short}, {term}"] = rows
    shown = dict(list(lines.items())[:MOST_LINES])
    left = f" The first {MOST_LINES} of {len(lines)} lines." if len(lines) > MOST_LINES else ""
    if not shown:
        return
    for pair in choose_metric_pairs(
        {name for rows in shown.values() for row in rows for name in row}
    )[:1]:
        marks = find_shared_figures([run.results for run in runs])
        scored = {
            label: [*make_start_row(rows, pair, marks.get("target", {})), *rows]
            for label, rows in shown.items()
        }
        yield ReportPlot(
            "dynamics",
            f"{capitalise_metric(pair[0])} and {find_figure_title(pair[1])} during training.{left}",
            partial(plots.draw_over_steps, scored, pair, marks),
        )
    note = "" if len(shown) == 1 else " Losses of different methods are not on one scale."
    yield ReportPlot(
        "loss",
        f"Training loss against steps.{note}{left}",
        partial(plots.draw_over_steps, shown, ("loss",), {}),
    )


def make_start_row(
    rows: list[dict[str, Any]], pair: tuple[str, str], target: dict[str, Any]
) -> list[dict[str, Any]]:
    """The target's figures as step 0 of rows with scores, where they are known and not there."""
    scored = [row for row in rows if set(pair) & set(row)]
    if not scored or any(row.get("step") == 0 for row in scored) or not set(pair) & set(target):
        return []
    return [{"step": 0, **{name: target.get(name) for name in pair}}]


def list_sample_scores(run: RunRecord, set_name: str, key: str) -> list[float | None]:
    """A per-sample score of a set, of all samples that have it."""
    return [
        parse_number(sample[key])
        for sample in run.samples
        if sample.get("set") == set_name and sample.get(key) is not None
    ]


def choose_spreads(runs: list[RunRecord]) -> Iterator[ReportPlot]:
    """How per-sample scores are spread: of one run before, after and at the retain model.

    Of many runs a line per run; the target and the retain model beside them where all share them.
    """
    done = [run for run in runs if run.samples]
    alone = len(done) == 1
    for set_name, score in SPREAD_SCORES if alone else SPREAD_SCORES[:2]:
        curves: dict[str, list[float | None]] = {}
        for run in done[: MOST_LINES - 2]:
            curves["after" if alone else run.short] = list_sample_scores(run, set_name, score)
        if not any(sum(v is not None for v in values) > 1 for values in curves.values()):
            continue
        for model, title in (("target", "before"), ("retain", "retain model")):
            known = [list_sample_scores(run, set_name, f"{model}_{score}") for run in done]
            if all(other == known[0] for other in known):
                curves[title] = known[0]
        caption = f"{capitalise_metric(f'{set_name}_{score}')} of each sample"
        caption += ": " if alone else ", after each run: "
        caption += "the share of samples at or below a value."
        if alone and curves["retain model"] and score == "log_truth_ratio":
            caption += KS_CAPTION
        if alone and not curves["before"]:
            caption += " The target's scores per sample are not stored."
        yield ReportPlot(
            f"spread_{set_name}_{score}",
            caption,
            partial(plots.draw_distributions, curves, f"{set_name}_{score}"),
        )


def choose_request_plots(runs: list[RunRecord]) -> Iterator[ReportPlot]:
    """Sequential requests of a run: a score of each request, and of the retain set."""
    for number, run in enumerate(runs, 1):
        served = list_request_figures(run.results)
        stages = [run.figures("target"), *served]
        known = dict.fromkeys(name for stage in stages for name in stage)
        for score in ("rouge", "probability") if served else ():
            chosen = [n for n in known if n.startswith("request_") and n.endswith(f"_{score}")]
            chosen.sort(key=parse_first_number)
            chosen += [n for n in known if n == f"retain_{score}"]
            panel = plots.LinePanel("", score)
            for name in chosen:
                panel.lines[get_set_title(name)] = {
                    float(n): (stage.get(name), None) for n, stage in enumerate(stages)
                }
            ticks = {float(n): f"after {n}" if n else "start" for n in range(len(stages))}
            which = f" ({run.short})" if len(runs) > 1 else ""
            if chosen:
                yield ReportPlot(
                    f"requests_{score}" + (f"_{number}" if len(runs) > 1 else ""),
                    f"{capitalise_first(find_figure_title(score))} of each request before and after each "
                    f"was served{which}.",
                    partial(
                        plots.draw_lines,
                        [panel],
                        "request served",
                        find_figure_title(score),
                        {},
                        ticks,
                    ),
                )
