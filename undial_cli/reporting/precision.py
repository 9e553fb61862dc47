"""How far a figure carries, as text: marks, n and intervals, and what has to be said of results.

Reads results.json, also of another shape or of before it held any of this. Knows no table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from undial_cli.evaluation.config import role_by_name
from undial_cli.evaluation.joint import FEWEST
from undial_cli.reporting.collect import part

# Fewer subjects than this give no interval that can be trusted.
FEWEST_SUBJECTS = 5
# An interval wider than this, on a scale of 0 to 1, carries no conclusion.
WIDE = 0.3
WEAK = "*"
LEGEND = (
    f"{WEAK} too little to conclude from: fewer than {FEWEST} samples or {FEWEST_SUBJECTS} "
    f"subjects, or an interval wider than {WIDE} of the scale"
)
QUALITY = "forget_quality"

Results = Mapping[str, Any]
Statistics = Mapping[str, Any]


def statistics_of(results: Results, name: str = "") -> dict[str, Statistics]:
    """By metric, n and interval of a model's figures: ours, or the `target`'s, `reference`'s."""
    stated = part(results, f"{name}_statistics" if name else "statistics")
    return {key: value for key, value in stated.items() if isinstance(value, dict)}


def is_weak(name: str, statistic: Statistics | None) -> bool:
    """Whether a figure carries no conclusion: few samples or subjects, or a wide interval."""
    if not statistic:
        return False
    if min(statistic.get("n", math.inf), statistic.get("n_retain", math.inf)) < FEWEST:
        return True
    if statistic.get("subjects", math.inf) < FEWEST_SUBJECTS:
        return True
    bounds = statistic.get("interval")
    if not bounds or name == QUALITY:
        return False
    scale = 100 if name == "privleak" else 1
    on_scale = name == "privleak" or max(map(abs, bounds)) <= 1  # a perplexity is on none
    return on_scale and bounds[1] - bounds[0] > WIDE * scale


def marked(text: str, name: str, statistic: Statistics | None) -> str:
    """A figure's text, with a mark where it is weak; forget_quality with its D and n."""
    if not statistic or text in ("-", "–"):
        return text
    text += WEAK if is_weak(name, statistic) else ""
    if name == QUALITY and "D" in statistic:
        sizes = dict.fromkeys([statistic["n"], statistic["n_retain"]])
        text += f" (D {statistic['D']:.2f}, n {' and '.join(map(str, sizes))})"
    return text


def interval(statistic: Statistics | None, key: str = "interval") -> str:
    """The interval as text; "–" where there is none."""
    bounds = (statistic or {}).get(key)
    return f"[{bounds[0]:.3g}, {bounds[1]:.3g}]" if bounds else "–"


def intervals(statistic: Statistics | None) -> str:
    """The interval of a figure; of forget_quality that of its D too."""
    distance = interval(statistic, "D_interval")
    return interval(statistic) + (f", D {distance}" if distance != "–" else "")


def size(statistic: Statistics | None) -> str:
    """n as text, with the number of subjects where they were resampled."""
    if not statistic or "n" not in statistic:
        return "–"
    subjects = statistic.get("subjects")
    return f"{statistic['n']}" + (f" ({subjects} subjects)" if subjects is not None else "")


def signed(difference: Statistics | None) -> str:
    """A difference with its interval."""
    if not difference or difference.get("difference") is None:
        return "–"
    return f"{difference['difference']:+.3f} {interval(difference)}".removesuffix(" –")


def role_of(results: Results, set_name: str) -> str:
    """What a set was for; of results that do not say, by its name."""
    return str(part(results, "roles").get(set_name) or role_by_name(set_name))


def damage(results: Results) -> str:
    """What was damaged, in a line; "" where nothing was."""
    sentences = results.get("damaged")
    if not isinstance(sentences, list) or not sentences:
        return ""
    quality = part(results, "metrics").get(QUALITY)
    success = f"; its forget_quality of {quality:.2e} is no success" if quality is not None else ""
    return f"damaged: {'; '.join(map(str, sentences))}{success}"


def missing(results: Results) -> list[str]:
    """Metrics that are missing, a line for each reason."""
    names: dict[str, list[str]] = {}
    for name, reason in part(results, "missing").items():
        names.setdefault(str(reason), []).append(name)
    return [f"{', '.join(metrics)}: {reason}" for reason, metrics in names.items()]


def remarks(results: Results) -> list[str]:
    """What has to be known of figures that are there, and of rows that were cut or skipped."""
    lines = [f"{name}: {text}" for name, text in part(results, "notes").items()]
    for set_name, counts in part(results, "rows").items():
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
