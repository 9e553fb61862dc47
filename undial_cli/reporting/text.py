"""Figures, settings, times and sets as text. Knows no run.

Titles and directions of metrics are the catalog's (evaluation/figures.py).
"""

from __future__ import annotations

import math
import re
from typing import Any

from undial_cli import ui
from undial_cli.evaluation.catalog import METRICS
from undial_cli.evaluation.figures import find_figure_title

# Sets by which the figures of a report are grouped.
SHOWN_SETS = (
    "forget", "retain", "holdout", "real_authors", "world_facts", "facts", "audit",
)  # fmt: skip
# Settings that are not called by the last part of their key.
SETTING_TITLES = {"eval.name": "suite", "train.max_steps": "steps"}


def get_set_title(name: str) -> str:
    """The set that a figure is shown with, in words; "" of a joint figure or another set."""
    match = re.match(rf"(request_\d+|{'|'.join(SHOWN_SETS)})_", name)
    # forget_quality is no figure of the forget set alone
    return match[1].replace("_", " ") if match and name not in METRICS else ""


def parse_first_number(name: str) -> int:
    """The first number in a name, 0 where there is none: request_10_rouge is 10."""
    match = re.search(r"\d+", name)
    return int(match[0]) if match else 0


def name_setting(key: str) -> str:
    """A config key in words, for labels: its last part, or the group it names."""
    return SETTING_TITLES.get(key) or key.removesuffix(".name").split(".")[-1].replace("_", " ")


def parse_number(value: Any) -> float | None:
    """A finite number, also one that a text holds ("1e-4"); None for all else, as true and NaN."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def format_figure(value: Any) -> str:
    """A figure of a table as text; "–" where there is none."""
    number = parse_number(value)
    if number is None:
        return "–"
    size = abs(number)
    if number and (size < 1e-3 or size >= 1e5):
        text = f"{number:.2e}"
    else:
        text = f"{number:.1f}" if size >= 100 else f"{number:.3f}"
    return text.replace("-", "−", 1) if number < 0 else text


def format_gap(value: float | None) -> str:
    """A difference of two figures as text, to the digits that the figures have."""
    if value is None:
        return "–"
    text = f"{abs(value):.1f}" if abs(value) >= 100 else f"{abs(value):.3f}"
    return ("+" if value > 0 else "−" if value < 0 else "") + text


def capitalise_first(text: str) -> str:
    """A text with its first letter large; str.capitalize would make the others small."""
    return text[:1].upper() + text[1:]


def capitalise_metric(name: str) -> str:
    """A metric at the beginning of a sentence."""
    return capitalise_first(find_figure_title(name))


def format_setting_value(value: Any) -> str:
    """A setting's value as text, as one types it: 1e-4, 0.1, 30, true, null, [a, b]."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(format_setting_value, value)) + "]"
    if isinstance(value, float) and math.isfinite(value):
        if value and (abs(value) < 1e-2 or abs(value) >= 1e6):
            # Python writes 1.00000e-04, a person 1e-4
            return re.sub(r"\.?0*e([+-])0*(\d+)", r"e\1\2", f"{value:.5e}").replace("e+", "e")
        return f"{value:.6g}"
    return str(value)


def format_run_time(value: Any) -> str:
    """Seconds as text, to about two digits."""
    seconds = parse_number(value)
    return "–" if seconds is None else ui.format_duration(seconds)


def format_memory(count: float) -> str:
    """Bytes as text."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
