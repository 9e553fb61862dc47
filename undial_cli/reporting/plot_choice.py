"""Which plots a report shows: chosen from what was measured, with their captions.

Joins collected runs with plots.py and plot_lines.py. What was not measured has no plot.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from undial_cli.evaluation.figures import find_better_direction, find_figure_title
from undial_cli.reporting import plot_lines, plots, text
from undial_cli.reporting.cells import choose_metric_pairs, find_shared_figures
from undial_cli.reporting.collect import RunRecord, get_part, list_request_figures
from undial_cli.reporting.labels import SEED_KEY, describe_values, find_swept_numbers
from undial_cli.reporting.plot_style import to_float_array
from undial_cli.reporting.text import capitalise_metric, parse_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Per-sample scores whose distribution is shown, by set; of many runs the first two.
SPREAD_SCORES = (
    ("forget", "log_truth_ratio"),
    ("forget", "probability"),
    ("forget", "rouge"),
    ("retain", "probability"),
)
# More plots, or lines in one, than a person looks at.
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
    """The plots of a report, in the order in which they are shown."""
    over_runs = [*choose_trade_offs(runs), *choose_heat_maps(runs, keys)]
    in_training = [*choose_dynamics(runs), *choose_selection_plots(runs)]
    return [*over_runs, *in_training, *choose_spreads(runs), *choose_request_plots(runs)]


def choose_trade_offs(runs: list[RunRecord]) -> Iterator[ReportPlot]:
    evaluated = [run for run in runs if run.figures()]
    if len(evaluated) < 2:
        return
    marks = find_shared_figures([run.results for run in evaluated])
    also = f"; marked: {' and '.join(marks)}" if marks else ""
    roles = get_part(evaluated[0].results, "roles")
    metrics = {name for run in evaluated for name in run.figures()}
    for x, y in choose_metric_pairs(metrics)[:MOST_PAIRS]:
        points = []
        for run in evaluated:
            a, b = to_float_array([run.figures().get(name) for name in (x, y)])
            points.append(plots.TradeOffPoint(run.short, a, b, run.group))
        better = [find_better_direction(name, roles) or "higher" for name in (x, y)]
        yield ReportPlot(
            f"trade_off_{x}_{y}",
            f"{capitalise_metric(x)} against {find_figure_title(y)}, one point per run. On the "
            f"grey line (Pareto front) no other run is better in both{also}.",
            partial(plots.draw_trade_off, points, x, y, (better[0], better[1]), marks),
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
    down, across = map(text.name_setting, swept)
    for number, (group, cells) in enumerate(list(groups.items())[:MOST_MAPS], 1):
        rows, columns = (sorted(set(numbers)) for numbers in zip(*cells, strict=True))
        labels = [list(map(text.format_setting_value, levels)) for levels in (rows, columns)]
        for name in pairs[0]:
            table = [[average_over_runs(cells.get((a, b)), name) for b in columns] for a in rows]
            title = find_figure_title(name) + (f", {group}" if group else "") + seeds
            yield ReportPlot(
                f"map_{name}" + (f"_{number}" if len(groups) > 1 else ""),
                f"{text.capitalise_first(title)}, over {down} and {across}; a hatched cell has no "
                "figure.",
                partial(plots.draw_heat_map, labels[0], labels[1], table, title, down, across),
            )


def average_over_runs(runs: list[RunRecord] | None, name: str) -> float | None:
    values = [v for run in runs or () if (v := parse_number(run.figures().get(name))) is not None]
    return statistics.fmean(values) if values else None


def choose_dynamics(runs: list[RunRecord]) -> Iterator[ReportPlot]:
    """Scores, where they were measured on the way, and losses against steps."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run.steps:
            lines[run.short] = run.steps
        for request, rows in run.parts.items():
            lines[request if len(runs) == 1 else f"{run.short}, {request}"] = rows
    shown = dict(list(lines.items())[:MOST_LINES])
    left = f" The first {MOST_LINES} of {len(lines)} lines." if len(lines) > MOST_LINES else ""
    if not shown:
        return
    metrics = {name for rows in shown.values() for row in rows for name in row}
    for pair in choose_metric_pairs(metrics)[:1]:
        marks = find_shared_figures([run.results for run in runs])
        target = marks.get("target", {})
        scored = {n: [*make_start_row(rows, pair, target), *rows] for n, rows in shown.items()}
        yield ReportPlot(
            "dynamics",
            f"{capitalise_metric(pair[0])} and {find_figure_title(pair[1])} during training.{left}",
            partial(plot_lines.draw_dynamics, scored, pair, marks),
        )
    note = "" if len(shown) == 1 else " Losses of different methods are not on one scale."
    yield ReportPlot(
        "loss",
        f"Training loss against steps.{note}{left}",
        partial(plot_lines.draw_dynamics, shown, ("loss",), {}),
    )


def choose_selection_plots(runs: list[RunRecord]) -> Iterator[ReportPlot]:
    """What weights were chosen by against steps, a picture for each rule, the chosen ringed."""
    by_rule: dict[str, list[RunRecord]] = {}
    for run in runs:
        chosen = get_part(run.results, "selection")
        if isinstance(chosen.get("steps"), list):
            by_rule.setdefault(str(chosen.get("select")), []).append(run)
    for number, (rule, selected) in enumerate(by_rule.items(), 1):
        panels = [plot_lines.LinePanel(rule, rule)]
        if any("least_utility" in get_part(run.results, "selection") for run in selected):
            panels.append(plot_lines.LinePanel("share of the target's utility", "utility"))
        for run in selected[:MOST_LINES]:
            chosen = get_part(run.results, "selection")
            for panel, key in zip(panels, ("figure", "utility"), strict=False):
                rows = [row for row in chosen["steps"] if isinstance(row, dict) and "step" in row]
                panel.lines[run.short] = {row["step"]: (row.get(key), None) for row in rows}
                if chosen.get("step") is not None:
                    panel.ringed[run.short] = chosen["step"]
        yield ReportPlot(
            "selection" + (f"_{number}" if len(by_rule) > 1 else ""),
            f"{rule} of the rows held apart, by which weights were chosen (ringed: the chosen "
            "step; step 0: the target, which is never chosen).",
            partial(plot_lines.draw_lines, panels, "training step", "", {}),
        )


def make_start_row(
    rows: list[dict[str, Any]], pair: tuple[str, str], target: dict[str, Any]
) -> list[dict[str, Any]]:
    """The target's figures as step 0 of rows with scores, where they are known and it has none."""
    scored = [row for row in rows if set(pair) & set(row)]
    if not scored or any(row.get("step") == 0 for row in scored) or not set(pair) & set(target):
        return []
    return [{"step": 0, **{name: target.get(name) for name in pair}}]


def list_sample_scores(run: RunRecord, set_name: str, key: str) -> list[float | None]:
    """A per-sample score of a set, of all samples that have it."""
    samples = [sample for sample in run.samples if sample.get("set") == set_name]
    return [parse_number(sample[key]) for sample in samples if sample.get(key) is not None]


def choose_spreads(runs: list[RunRecord]) -> Iterator[ReportPlot]:
    """How per-sample scores are spread: of one run before, after and at the retain model.

    Of many runs a line per run; the target and the retain model too where all share them.
    """
    sampled = [run for run in runs if run.samples]
    alone = len(sampled) == 1
    for set_name, score in SPREAD_SCORES if alone else SPREAD_SCORES[:2]:
        curves: dict[str, list[float | None]] = {}
        for run in sampled[: MOST_LINES - 2]:
            scores = list_sample_scores(run, set_name, score)
            curves["after" if alone else run.short] = scores
        if not any(sum(v is not None for v in values) > 1 for values in curves.values()):
            continue  # one sample is no distribution
        for model, title in (("target", "before"), ("retain", "retain model")):
            known = [list_sample_scores(run, set_name, f"{model}_{score}") for run in sampled]
            if all(scores == known[0] for scores in known):
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
        after_requests = list_request_figures(run.results)
        stages = [run.figures("target"), *after_requests]
        known = dict.fromkeys(name for stage in stages for name in stage)
        ticks = {float(n): f"after {n}" if n else "start" for n in range(len(stages))}
        for score in ("rouge", "probability") if after_requests else ():
            names = [n for n in known if n.startswith("request_") and n.endswith(f"_{score}")]
            names.sort(key=text.parse_first_number)
            names += [name for name in known if name == f"retain_{score}"]
            if not names:
                continue
            panel = plot_lines.LinePanel("", score)
            for name in names:
                curve = {float(n): (stage.get(name), None) for n, stage in enumerate(stages)}
                panel.lines[text.get_set_title(name)] = {**curve}
            title = find_figure_title(score)
            which = f" ({run.short})" if len(runs) > 1 else ""
            yield ReportPlot(
                f"requests_{score}" + (f"_{number}" if len(runs) > 1 else ""),
                f"{capitalise_metric(score)} of each request before and after each was "
                f"served{which}.",
                partial(plot_lines.draw_lines, [panel], "request served", title, {}, ticks),
            )
