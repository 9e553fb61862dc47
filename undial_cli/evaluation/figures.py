"""Figures by their names, as results.json has them: of which set and metric, title, direction.

All that is known of a metric is in its entry of the catalog. A figure of others (a task of
lm-evaluation-harness, a loss) has no entry: it is shown as it is written. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from undial_cli.evaluation.catalog import METRICS, Metric, find
from undial_cli.evaluation.config import FORGET, HOLDOUT, role_by_name

# Words of the names of sets that are not written as they are spoken.
WORDS = {"knowmem": "KnowMem", "verbmem": "VerbMem"}
# Of figures without an entry: titles, those of which less is better, those that say nothing by
# themselves, and the tasks of lm-evaluation-harness whose knowledge is what must go.
TITLES = {"seconds": "time (s)"}
COSTS = ("bits_per_byte", "brier_score", "seconds")
HAZARDS = "harness_wmdp"
# The main figures, in the order in which tables of many runs show the first of them.
FIRST_SHOWN = (
    "forget_probability", "forget_rouge", "forget_knowmem_rouge", "forget_verbmem_rouge",
    "forget_el_10", "forget_ma", "retain_probability", "retain_rouge", "retain_knowmem_rouge",
    "forget_quality", "model_utility", "privleak", "forget_el_3", "forget_truth_ratio",
    "perplexity", "mauve",
)  # fmt: skip


def parts_of(name: str) -> tuple[str, Metric | None]:
    """The set ("" of a joint figure) and the metric of a figure; no metric of those of others."""
    if name in METRICS:
        return "", METRICS[name]
    parts = name.split("_")
    for start in range(len(parts)):
        metric = find("_".join(parts[start:]))
        if metric is not None:
            return "_".join(parts[:start]), metric
    return "", None


def title_of(name: str) -> str:
    """A figure in words: forget_rouge is "forget ROUGE-L"."""
    set_name, metric = parts_of(name)
    if metric is None:
        return TITLES.get(name) or name.replace("_", " ")
    words = [WORDS.get(word, word) for word in set_name.split("_") if word]
    return " ".join([*words, metric.title])


def better_of(name: str, roles: Mapping[str, str] | None = None) -> str:
    """`lower`, `higher`, or `""` where neither is better by itself.

    Args:
        roles: of the sets, as results.json states them; of others their names tell.
    """
    set_name, metric = parts_of(name)
    role = (roles or {}).get(set_name) or role_by_name(set_name or name)
    if metric is not None and not set_name:
        return metric.better[1]
    if role == HOLDOUT or name == "loss":
        return ""
    if metric is not None:
        return metric.better[0 if role == FORGET else 1]
    if name.startswith(HAZARDS) or f"_{name}".endswith(tuple(f"_{cost}" for cost in COSTS)):
        return "lower"
    return "" if role == FORGET else "higher"


def is_logarithmic(name: str) -> bool:
    """Whether a figure is drawn on a logarithmic axis."""
    metric = parts_of(name)[1]
    return metric is not None and metric.logarithmic
