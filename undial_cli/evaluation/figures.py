"""Figures by their names, as results.json has them: of which set and metric, title, direction.

All that is known of a metric is in its entry of the catalog. A figure of others (a task of
lm-evaluation-harness, a loss) has no entry: it is shown as it is written. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from undial_cli.config.suites import FORGET, HOLDOUT, guess_role
from undial_cli.evaluation.catalog import METRICS, Metric, find_set_metric

# Words of the names of sets that are not written as they are spoken.
SPOKEN_WORDS = {"knowmem": "KnowMem", "verbmem": "VerbMem"}
# Of figures without an entry: titles, those of which less is better, those that say nothing by
# themselves, and the tasks of lm-evaluation-harness whose knowledge is what must go.
# What a run took, in a table.
RUN_SECONDS = "run_seconds"
OTHER_TITLES = {"seconds": "time (s)", RUN_SECONDS: "time (s)"}
COST_FIGURES = ("bits_per_byte", "brier_score", "seconds")
HAZARD_TASKS = "harness_wmdp"
# Figures of an audit: shares of what was to be forgotten that attacks got back.
AUDIT_FIGURES = "audit_"
# Words: of audit.json, and of results.json.
AUDIT_VERDICT, VERDICT = WORDS = "audit_verdict", "verdict"
# The main figures, in the order in which tables of many runs show the first of them.
MAIN_FIGURES = (
    "forget_probability", "forget_rouge", "forget_knowmem_rouge", "forget_verbmem_rouge",
    "forget_el_10", "forget_ma", "audit_recovered", "retain_probability", "retain_rouge",
    "retain_knowmem_rouge", "forget_quality", "model_utility", "privleak", "forget_el_3",
    "forget_truth_ratio", "perplexity", "mauve",
)  # fmt: skip


def split_figure_name(name: str) -> tuple[str, Metric | None]:
    """The set ("" of a joint figure) and the metric of a figure; no metric of those of others."""
    if name in METRICS:
        return "", METRICS[name]
    if name.startswith(AUDIT_FIGURES):
        return "", None  # an attack may be called like a metric
    parts = name.split("_")
    for start in range(len(parts)):
        metric = find_set_metric("_".join(parts[start:]))
        if metric is not None:
            return "_".join(parts[:start]), metric
    return "", None


def find_figure_title(name: str) -> str:
    """A figure in words: forget_rouge is "forget ROUGE-L"."""
    set_name, metric = split_figure_name(name)
    if metric is None:
        return OTHER_TITLES.get(name) or name.replace("_", " ")
    words = [SPOKEN_WORDS.get(word, word) for word in set_name.split("_") if word]
    return " ".join([*words, metric.title])


def find_better_direction(name: str, roles: Mapping[str, str] | None = None) -> str:
    """`lower`, `higher`, or `""` where neither is better by itself.

    Args:
        roles: of the sets, as results.json states them; of others their names tell.
    """
    if name in WORDS:
        return ""
    if name.startswith(AUDIT_FIGURES):
        return "lower"
    set_name, metric = split_figure_name(name)
    role = (roles or {}).get(set_name) or guess_role(set_name or name)
    if metric is not None and not set_name:
        return metric.better[1]
    if role == HOLDOUT or name == "loss":
        return ""
    if metric is not None:
        return metric.better[0 if role == FORGET else 1]
    if name.startswith(HAZARD_TASKS) or f"_{name}".endswith(
        tuple(f"_{cost}" for cost in COST_FIGURES)
    ):
        return "lower"
    return "" if role == FORGET else "higher"


def is_logarithmic_figure(name: str) -> bool:
    """Whether a figure is drawn on a logarithmic axis."""
    metric = split_figure_name(name)[1]
    return metric is not None and metric.logarithmic
