"""Which figures a report shows: chosen from what was measured, with their captions.

Joins collected runs with plots.py. A figure that cannot be drawn is left out, with its reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from undial_cli.reporting import differences, fronts, names, plots, precision
from undial_cli.reporting.collect import RunRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Pairs of a forget and a retain score; the first two that are there are shown.
PAIRS = (
    ("forget_rouge", "retain_rouge"),
    ("forget_quality", "model_utility"),
    ("forget_knowmem_rouge", "retain_knowmem_rouge"),
    ("forget_el_3", "mauve"),
    ("forget_el_10", "retain_rouge"),
    ("forget_probability", "retain_probability"),
    ("forget_verbmem_rouge", "retain_knowmem_rouge"),
    ("forget_probability", "model_utility"),
)
ALL_PAIRS = 2
# Per-sample scores whose distribution is shown, by set.
SPREAD = (
    ("forget", "log_truth_ratio"),
    ("forget", "probability"),
    ("forget", "rouge"),
    ("retain", "probability"),
)
MOST_LINES = 18
MOST_MAPS = 6


@dataclass
class Picture:
    """A figure, the name of its files, and what it shows in a sentence."""

    name: str
    caption: str
    draw: Callable[[], Figure]


def marks_of(runs: Sequence[RunRecord]) -> dict[str, dict[str, Any]]:
    """The target's and the retain model's figures, where all runs that have them share them."""
    found = {}
    for name, title in (("target", "target"), ("reference", "retain model")):
        there = [run.figures(name) for run in runs if run.figures(name)]
        if there and all(other == there[0] for other in there):
            found[title] = there[0]
    return found


def words(name: str) -> str:
    """A metric's name at the beginning of a sentence."""
    return names.sentence(names.metric(name))


def pair_of(there: set[str]) -> tuple[str, str] | None:
    """The first pair of scores of which both are there."""
    return next((pair for pair in PAIRS if set(pair) <= there), None)


def choose(runs: list[RunRecord], keys: list[str]) -> list[Picture]:
    """The pictures of a report, in the order in which they are shown."""
    found: list[Picture] = []
    for maker in (trade_offs, maps, dynamics, spreads, served):
        found += maker(runs, keys)
    return found


def at(run: RunRecord, name: str) -> float:
    """A run's metric, NaN where it has none."""
    found = names.number(run.figures().get(name))
    return math.nan if found is None else found


def trade_offs(runs: list[RunRecord], keys: list[str]) -> Iterator[Picture]:
    """Forget against retain scores over runs."""
    done = [run for run in runs if run.figures()]
    if len(done) < 2:
        return
    there = {name for run in done for name in run.figures()}
    marks = marks_of(done)
    for pair in [pair for pair in PAIRS if set(pair) <= there][:ALL_PAIRS]:
        x, y = pair
        points = [plots.Point(run.short, at(run, x), at(run, y), run.group) for run in done]
        roles = precision.part(done[0].results, "roles")
        better = (names.better(x, roles) or "higher", names.better(y, roles) or "higher")
        also = f"; marked: {' and '.join(marks)}" if marks else ""
        yield Picture(
            f"trade_off_{x}_{y}",
            f"{words(x)} against {names.metric(y)}, one point per run. On the grey line (Pareto "
            f"front) no other run is better in both{also}.",
            lambda points=points, x=x, y=y, better=better: plots.trade_off(
                points, x, y, better, marks
            ),
        )


def maps(runs: list[RunRecord], keys: list[str]) -> Iterator[Picture]:
    """A heat map per score (and per method) where two numbers are swept."""
    swept = differences.swept_numbers(runs, keys)
    pair = pair_of({name for run in runs for name in run.figures()})
    if len(swept) != 2 or pair is None:
        return
    down, across = swept
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        others = {k: v for k, v in run.values.items() if k not in (*swept, differences.SEED)}
        groups.setdefault(differences.readable(others), []).append(run)
    for number, (group, members) in enumerate(list(groups.items())[:MOST_MAPS]):
        levels = [
            sorted({v for r in members if (v := names.number(r.values.get(key))) is not None})
            for key in swept
        ]
        for name in pair:
            cells = differences.mean_by(members, swept, name)
            table = [[cells.get((row, column)) for column in levels[1]] for row in levels[0]]
            seeds = ", mean over seeds" if differences.SEED in keys else ""
            title = names.metric(name) + (f", {group}" if group else "") + seeds
            yield Picture(
                f"map_{name}" + (f"_{number + 1}" if len(groups) > 1 else ""),
                f"{names.sentence(title)}, over {names.setting(down)} and {names.setting(across)}; "
                "a hatched cell has no figure.",
                lambda levels=levels, table=table, title=title: plots.heat_map(
                    [names.short(v) for v in levels[0]],
                    [names.short(v) for v in levels[1]],
                    table,
                    title,
                    names.setting(down),
                    names.setting(across),
                ),
            )


def dynamics(runs: list[RunRecord], keys: list[str]) -> Iterator[Picture]:
    """Scores, where they were measured on the way, and losses against steps."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run.steps:
            lines[run.short] = run.steps
        for part, rows in run.parts.items():
            lines[part if len(runs) == 1 else f"{run.short}, {part}"] = rows
    shown = dict(list(lines.items())[:MOST_LINES])
    left = f" The first {MOST_LINES} of {len(lines)} lines." if len(lines) > MOST_LINES else ""
    if not shown:
        return
    on_the_way = {name for rows in shown.values() for row in rows for name in row}
    pair = pair_of(on_the_way - {"loss"})
    if pair is not None:
        marks = marks_of(runs)
        scored = {label: started(rows, pair, marks) for label, rows in shown.items()}
        yield Picture(
            "dynamics",
            f"{words(pair[0])} and {names.metric(pair[1])} during training.{left}",
            lambda: plots.dynamics(scored, *pair, marks),
        )
    note = "" if len(shown) == 1 else " Losses of different methods are not on one scale."
    yield Picture("loss", f"Training loss against steps.{note}{left}", lambda: plots.losses(shown))


def started(
    rows: list[dict[str, Any]], pair: tuple[str, str], marks: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Rows with the target's figures as step 0, where they are known and the rows have none."""
    target = marks.get("target", {})
    scored = [row for row in rows if pair[0] in row or pair[1] in row]
    if not scored or any(row.get("step") == 0 for row in scored) or not set(pair) & set(target):
        return rows
    return [{"step": 0, **{name: target.get(name) for name in pair}}, *rows]


def values_of(run: RunRecord, set_name: str, key: str) -> list[float | None]:
    """A per-sample value of a set, of all samples that have it."""
    return [
        names.number(sample[key])
        for sample in run.samples
        if sample.get("set") == set_name and sample.get(key) is not None
    ]


def spreads(runs: list[RunRecord], keys: list[str]) -> Iterator[Picture]:
    """How per-sample scores are spread, before and after and at the retain model."""
    done = [run for run in runs if run.samples]
    if len(done) == 1:
        run = done[0]
        for set_name, score in SPREAD:
            after = values_of(run, set_name, score)
            before, retain = (
                values_of(run, set_name, f"{who}_{score}") for who in ("target", "retain")
            )
            if len(fronts.cumulative(after)[0]) < 2:
                continue
            name, said = f"{set_name}_{score}", [SHARES]
            if retain and score == "log_truth_ratio":
                said.append(KS)
            if not before:
                said.append("The target's scores per sample are not stored.")
            yield Picture(
                f"spread_{name}",
                f"{words(name)} of each sample: {' '.join(said)}",
                lambda b=before, a=after, r=retain, n=name: plots.distribution(b, a, r or None, n),
            )
    elif done:
        yield from spread_of_many(done)


SHARES = "the share of samples at or below a value."
KS = (
    "The arrow is the Kolmogorov-Smirnov distance; forget quality is the p-value of that test on "
    "the truth ratios."
)


def spread_of_many(done: list[RunRecord]) -> Iterator[Picture]:
    """One score of the forget set, a line per run beside the target and the retain model."""
    for set_name, score in SPREAD[:2]:
        curves: dict[str, list[float | None]] = {}
        for who, title in (("target", "before"), ("retain", "retain model")):
            known = [values_of(run, set_name, f"{who}_{score}") for run in done]
            if known[0] and all(other == known[0] for other in known):
                curves[title] = known[0]
        for run in done[: MOST_LINES - 2]:
            curves[run.short] = values_of(run, set_name, score)
        if any(len(values) > 1 for values in curves.values()):
            name = f"{set_name}_{score}"
            yield Picture(
                f"spread_{name}",
                f"{words(name)} of each sample, after each run: {SHARES}",
                lambda curves=curves, name=name: plots.distributions(curves, name),
            )


def served(runs: list[RunRecord], keys: list[str]) -> Iterator[Picture]:
    """Sequential requests of a run: a score of each request, and of the retain set."""
    for place, run in enumerate(runs):
        if not run.requests:
            continue
        stages = [run.figures("target"), *run.requests]
        known = dict.fromkeys(name for stage in stages for name in stage)
        for score in ("rouge", "probability"):
            chosen = [
                n for n in known
                if n.endswith(f"_{score}") and (n.startswith("request_") or n == f"retain_{score}")
            ]  # fmt: skip
            if not chosen:
                continue
            chosen.sort(key=lambda n: (not n.startswith("request"), names.number_in(n)))
            series = {
                names.group_of(name): [names.number(stage.get(name)) for stage in stages]
                for name in chosen
            }
            which = f" ({run.short})" if len(runs) > 1 else ""
            yield Picture(
                f"requests_{score}" + (f"_{place + 1}" if len(runs) > 1 else ""),
                f"{names.sentence(names.metric(score))} of each request before and after each was "
                f"served{which}.",
                lambda series=series, score=score: plots.requests(series, score),
            )
