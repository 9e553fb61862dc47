"""What has to be said of figures: where they carry little, their n and intervals, what is missing.

Reads results.json, also of another shape or of before it held any of this. Knows no table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from undial_cli.evaluation.joint_metrics import FEWEST_SAMPLES
from undial_cli.evaluation.verdict import DAMAGED
from undial_cli.reporting.collect import RunRecord, get_part
from undial_cli.reporting.text import capitalise_first, format_figure, parse_number

# Fewer subjects than this give no interval that can be trusted.
FEWEST_SUBJECTS = 5
# An interval wider than this, on a scale of 0 to 1, carries no conclusion.
WIDE_INTERVAL = 0.3
WEAK_MARK = "*"
WEAK_LEGEND = (
    f"{WEAK_MARK} too little to conclude from: fewer than {FEWEST_SAMPLES} samples or "
    f"{FEWEST_SUBJECTS} subjects, or an interval wider than {WIDE_INTERVAL} of the scale"
)
QUALITY_METRIC = "forget_quality"
NO_RETAIN_NOTE = (
    "No retain model: whether the model now behaves as if it had never seen the forget set cannot "
    "be concluded; a low score may also mean that it was damaged."
)

ReadResults = Mapping[str, Any]
FigureStatistics = Mapping[str, Any]


def get_statistics(results: ReadResults, name: str = "") -> dict[str, FigureStatistics]:
    """By metric, n and interval of a model's figures: ours, or the `target`'s, `reference`'s."""
    stated = get_part(results, f"{name}_statistics" if name else "statistics")
    return {key: value for key, value in stated.items() if isinstance(value, dict)}


def is_weak_figure(name: str, statistic: FigureStatistics | None) -> bool:
    """Whether a figure carries no conclusion: few samples or subjects, or a wide interval."""
    if not statistic:
        return False
    if min(statistic.get("n", math.inf), statistic.get("n_retain", math.inf)) < FEWEST_SAMPLES:
        return True
    if statistic.get("subjects", math.inf) < FEWEST_SUBJECTS:
        return True
    bounds = statistic.get("interval")
    if not bounds or name == QUALITY_METRIC:  # a p-value; its D says how far it carries
        return False
    scale = 100 if name == "privleak" else 1
    on_scale = name == "privleak" or max(map(abs, bounds)) <= 1  # a perplexity is on none
    return on_scale and bounds[1] - bounds[0] > WIDE_INTERVAL * scale


def mark_weak_figure(text: str, name: str, statistic: FigureStatistics | None) -> str:
    """A figure's text, with a mark where it is weak; forget_quality with its D and n."""
    if not statistic or text in ("-", "–"):
        return text
    text += WEAK_MARK if is_weak_figure(name, statistic) else ""
    if name == QUALITY_METRIC and "D" in statistic:
        sizes = dict.fromkeys([statistic["n"], statistic["n_retain"]])
        text += f" (D {statistic['D']:.2f}, n {' and '.join(map(str, sizes))})"
    return text


def format_interval(statistic: FigureStatistics | None, key: str = "interval") -> str:
    bounds = (statistic or {}).get(key)
    return f"[{bounds[0]:.3g}, {bounds[1]:.3g}]" if bounds else "–"


def format_intervals(statistic: FigureStatistics | None) -> str:
    """The interval of a figure; of forget_quality that of its D too."""
    distance = format_interval(statistic, "D_interval")
    return format_interval(statistic) + (f", D {distance}" if distance != "–" else "")


def format_sample_count(statistic: FigureStatistics | None) -> str:
    """n as text, with the number of subjects where they were resampled."""
    if not statistic or "n" not in statistic:
        return "–"
    subjects = statistic.get("subjects")
    return f"{statistic['n']}" + (f" ({subjects} subjects)" if subjects is not None else "")


def format_difference(difference: FigureStatistics | None) -> str:
    if not difference or difference.get("difference") is None:
        return "–"
    return f"{difference['difference']:+.3f} {format_interval(difference)}".removesuffix(" –")


def state_damage(results: ReadResults) -> str:
    """What was damaged, in a line; "" where nothing was, or the verdict has said it all."""
    sentences = results.get("damaged")
    if not isinstance(sentences, list) or not sentences:
        return ""
    parts = [] if read_verdict(results).get("word") == DAMAGED else [*map(str, sentences)]
    quality = get_part(results, "metrics").get(QUALITY_METRIC)
    if quality is not None:
        # a ruined model is as unlike the target as one that never saw the forget set
        parts.append(f"its forget_quality of {quality:.2e} is no success")
    return f"damaged: {'; '.join(parts)}" if parts else ""


def read_verdict(results: ReadResults) -> dict[str, str]:
    """The `word` and the `reason` of the verdict that results hold; empty where they hold none."""
    verdict = get_part(results, "verdict")
    return {key: str(verdict[key]) for key in ("word", "reason") if key in verdict}


def state_forgetting(results: ReadResults) -> str:
    """Whether it has forgotten, in a line; "" where nothing says."""
    verdict = read_verdict(results)
    return f"{verdict['word']}: {verdict.get('reason', '')}" if "word" in verdict else ""


def state_selection(results: ReadResults) -> str:
    """Which step's weights were chosen, by what, in a line; "" where none were."""
    chosen = get_part(results, "selection")
    steps = chosen.get("steps")
    rows = [row for row in steps if isinstance(row, dict)] if isinstance(steps, list) else []
    trained = [row for row in rows if row.get("step")]
    if not trained:
        return ""
    name, last, step = chosen.get("select"), chosen.get("last_step"), chosen.get("step")
    if step is None:
        reason = trained[-1].get("missing") or "it is not there"
        return f"no step chosen by {name}: {reason}; the weights are the last, of step {last}"
    word = "lowest" if chosen.get("direction") == "minimize" else "highest"
    text = f"step {step} of {last} chosen, {name} {format_figure(chosen.get('figure'))}: "
    least, utility = (parse_number(chosen.get(key)) for key in ("least_utility", "utility"))
    if least is None:
        text += f"the {word} of {len(trained)} evaluated"
    elif chosen.get("keeps_utility"):
        text += f"the {word} of those evaluated that keep {least:.0%} of the target's utility"
        text += f" (it keeps {utility or 0:.0%})"
    else:
        share = f"{utility or 0:.0%}"
        text += f"none keeps {least:.0%} of the target's utility, it keeps most ({share})"
    parts = [part for part in get_part(chosen, "rows").values() if isinstance(part, dict)]
    count = sum(len(held) for part in parts if isinstance(held := part.get("apart"), list))
    text += f"; chosen on {count} rows held apart from all figures here"
    if chosen.get("saved_step") != step:
        text += f"; the weights are the last, of step {last} (train.keep={chosen.get('keep')})"
    return text


def list_selections(results: ReadResults) -> list[str]:
    """Lines on the weights that were chosen: the run's own, or those of each sequential request."""
    requests = results.get("requests")
    parts = requests if isinstance(requests, list) else []
    parts = [part if isinstance(part, dict) else {} for part in parts]
    lines = {f"request {number}: ": state_selection(part) for number, part in enumerate(parts, 1)}
    lines = {"": state_selection(results), **lines}
    return [lead + line for lead, line in lines.items() if line]


def list_missing_metrics(results: ReadResults) -> list[str]:
    metrics_by_reason: dict[str, list[str]] = {}
    for name, reason in get_part(results, "missing").items():
        metrics_by_reason.setdefault(str(reason), []).append(name)
    return [f"{', '.join(metrics)}: {reason}" for reason, metrics in metrics_by_reason.items()]


def list_remarks(results: ReadResults) -> list[str]:
    """What has to be known of figures that were measured, and of rows that were cut or skipped."""
    lines = [f"{name}: {text}" for name, text in get_part(results, "notes").items()]
    for set_name, counts in get_part(results, "rows").items():
        if not isinstance(counts, dict):
            continue
        read, scored = counts.get("read", 0), counts.get("scored", 0)
        more = [
            f"; {reason}: {count}"
            for reason, count in counts.items()
            if count and reason not in ("held", "read", "scored")
        ]
        if more or scored < read:
            lines.append(f"{set_name}: {read} rows read, {scored} scored{''.join(more)}")
    return lines


def list_run_notes(runs: Sequence[RunRecord]) -> list[str]:
    """What a reader must know of runs, each line once; files that could not be read too."""
    labels_by_line: dict[str, list[str]] = {}
    for run in runs:
        lines = [
            capitalise_first(text)
            for text in (
                *list_selections(run.results),
                state_forgetting(run.results),
                state_damage(run.results),
            )
        ]
        lines += [f"Missing: {line}" for line in list_missing_metrics(run.results)]
        lines += list_remarks(run.results)
        if any(is_weak_figure(n, s) for n, s in get_statistics(run.results).items()):
            lines.append(WEAK_LEGEND)
        says_so = run.command in ("finetune", "audit")  # one needs none, the other says it itself
        if run.figures() and not run.figures("reference") and not says_so:
            lines.append(NO_RETAIN_NOTE)
        for line in filter(None, [*lines, *run.problems]):
            labels_by_line.setdefault(line, []).append(run.label)
    return [
        line if len(labels) == len(runs) else f"{line} ({'; '.join(labels)})"
        for line, labels in labels_by_line.items()
    ]
