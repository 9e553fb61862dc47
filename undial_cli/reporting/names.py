"""Metrics and settings in words, the direction that is better, and figures as text.

Knows the metrics' names (SPEC) and no run. A name it does not know is shown as it is written.
"""

from __future__ import annotations

import math
import re
from typing import Any

SETS = {
    "forget": "forget",
    "retain": "retain",
    "holdout": "holdout",
    "real_authors": "real authors",
    "world_facts": "world facts",
    "facts": "facts",
}
SCORES = {
    "probability": "answer probability",
    "rouge": "ROUGE-L",
    "knowmem_rouge": "KnowMem ROUGE-L",
    "verbmem_rouge": "VerbMem ROUGE-L",
    "truth_ratio": "truth ratio",
    "log_truth_ratio": "log truth ratio",
    "truth_ratio_prob_mean": "truth ratio (mean probability)",
    "exact_memorization": "exact memorisation",
    "extraction_strength": "extraction strength",
    "ma": "memorisation accuracy",
    "perplexity": "perplexity",
    "similarity": "similarity",
    "coherence": "coherence",
    "mauve": "MAUVE",
    "gibberish": "gibberish",
}
WHOLE = {
    "model_utility": "model utility",
    "forget_quality": "forget quality (KS p-value)",
    "privleak": "PrivLeak (%)",
    "mia_loss": "loss attack (AUC)",
    "mia_zlib": "zlib attack (AUC)",
    "mia_reference": "reference attack (AUC)",
    "mia_min_k": "Min-K% attack (AUC)",
    "mia_min_k_plus_plus": "Min-K%++ attack (AUC)",
    "mia_gradnorm": "gradient-norm attack (AUC)",
    "loss": "loss",
    "seconds": "time (s)",
}
NUMBERED = {"el": "extraction likelihood EL_{}", "rep": "rep_{}", "distinct": "distinct_{}"}
SETTINGS = {
    "method": "method",
    "method.name": "method",
    "model.name": "model",
    "data.name": "data",
    "adapter.name": "adapter",
    "hardware.name": "hardware",
    "eval.name": "suite",
    "train.learning_rate": "learning rate",
    "train.batch_size": "batch size",
    "train.max_steps": "steps",
}
# Scores of the forget set of which less means forgotten; elsewhere more is better.
FALLING = (
    "probability", "rouge", "exact_memorization", "extraction_strength", "ma", "el", "similarity",
)  # fmt: skip
# Scores of which less is better on every set, and those of good text, which is wanted on all.
COSTS = ("perplexity", "bits_per_byte", "brier_score", "rep", "seconds")
QUALITY = ("distinct", "coherence", "gibberish", "mauve")
# Tasks of lm-evaluation-harness whose knowledge is what must go.
HAZARDS = "harness_wmdp"
# Drawn on a logarithmic axis.
LOGARITHMIC = ("forget_quality", "perplexity")


def metric(name: str) -> str:
    """A metric's name in words: forget_rouge is "forget ROUGE-L"."""
    if name in WHOLE:
        return WHOLE[name]
    found, part = of_set(name)
    words = score(part)
    return f"{found} {words}" if found else words


def of_set(name: str) -> tuple[str, str]:
    """The set of a metric in words ("" where it has none), and the rest of its name."""
    request = re.match(r"request_(\d+)_(.+)", name)
    if request:
        return f"request {request[1]}", request[2]
    for prefix in sorted(SETS, key=len, reverse=True):
        if name.startswith(f"{prefix}_"):
            return SETS[prefix], name.removeprefix(f"{prefix}_")
    return "", name


def number_in(name: str) -> int:
    """The first number in a name, 0 where there is none: request_10_rouge is 10."""
    found = re.search(r"\d+", name)
    return int(found[0]) if found else 0


def score(name: str) -> str:
    """A per-sample score in words, the set left out."""
    if name in SCORES or name in WHOLE:
        return SCORES.get(name) or WHOLE[name]
    for known in sorted(SCORES, key=len, reverse=True):
        if name.endswith(f"_{known}"):
            return f"{name.removesuffix(f'_{known}').replace('_', ' ')} {SCORES[known]}"
    number = re.fullmatch(r"(.*_)?([a-z]+)_(\d+)", name)
    if number and number[2] in NUMBERED:
        return (number[1] or "").replace("_", " ") + NUMBERED[number[2]].format(number[3])
    return name.replace("_", " ")


def better(name: str) -> str:
    """`lower`, `higher`, or `""` where neither is better by itself."""
    if name in ("forget_quality", "model_utility"):
        return "higher"
    if name in ("privleak", "loss") or name.endswith("truth_ratio"):
        return ""
    if name.startswith(("holdout", "mia_")):
        return ""
    part = re.sub(r"_\d+$", "", name)
    if name.startswith(HAZARDS) or ends_with(part, COSTS):
        return "lower"
    if name.startswith(("forget", "request")) and not ends_with(part, QUALITY):
        return "lower" if ends_with(part, FALLING) else ""
    return "higher"


def ends_with(name: str, parts: tuple[str, ...]) -> bool:
    """Whether a name, or its end after an underscore, is one of these."""
    return f"_{name}".endswith(tuple(f"_{part}" for part in parts))


def setting(name: str) -> str:
    """A config key in words, for labels: its last part, or the group it names."""
    return SETTINGS.get(name) or name.split(".")[-1].replace("_", " ")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number (true and false are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any) -> float | None:
    """A finite number, read from text where it is one ("1e-4", 3); None for all else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if is_number(value) else None


def figure(value: Any) -> str:
    """A figure of a table as text; "–" where there is none."""
    found = number(value)
    if found is None:
        return "–"
    if found and (abs(found) < 1e-3 or abs(found) >= 1e5):
        text = f"{found:.2e}"
    else:
        text = f"{found:.1f}" if abs(found) >= 100 else f"{found:.3f}"
    return text.replace("-", "−", 1) if found < 0 else text


def signed(value: float | None) -> str:
    """A difference of two figures as text, to the digits that the figures have."""
    if value is None:
        return "–"
    text = f"{abs(value):.1f}" if abs(value) >= 100 else f"{abs(value):.3f}"
    return ("+" if value > 0 else "−" if value < 0 else "") + text


def sentence(text: str) -> str:
    """A text with its first letter large."""
    return text[:1].upper() + text[1:]


def short(value: Any) -> str:
    """A setting's value as text, as one types it: 1e-4, 0.1, 30, true, null, [a, b]."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(short, value)) + "]"
    if isinstance(value, float) and math.isfinite(value):
        text = f"{value:.6g}"
        if value and (abs(value) < 1e-2 or abs(value) >= 1e6):
            text = re.sub(r"\.?0*e([+-])0*(\d+)", r"e\1\2", f"{value:.5e}").replace("e+", "e")
        return text
    return str(value)


def seconds(value: Any) -> str:
    """A time as text, to about two digits."""
    found = number(value)
    if found is None:
        return "–"
    if found < 100:
        return f"{found:.1f} s" if found < 10 else f"{found:.0f} s"
    return f"{found / 60:.0f} min" if found < 6000 else f"{found / 3600:.1f} h"
