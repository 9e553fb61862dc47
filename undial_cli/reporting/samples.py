"""The samples of a report: what the page's table shows, packed so that many rows stay small.

A text that occurs often (a prompt in ten runs) is stored once. Knows collected runs, no markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from undial_cli.evaluation.figures import find_figure_title
from undial_cli.reporting.collect import RunRecord
from undial_cli.reporting.text import parse_number

# Rows of all runs together in one page; more are in samples.jsonl.
MOST_SAMPLE_ROWS = 40_000
# Texts of a sample, and their titles; where nothing was trained there is no before and after.
TEXT_TITLES = {
    "prompt": "prompt",
    "reference": "reference",
    "target_generation": "before",
    "generation": "after",
    "retain_generation": "retain model",
}
UNTRAINED_TITLES = {**TEXT_TITLES, "target_generation": "target", "generation": "generation"}
# Per-sample values that other columns are made of.
HIDDEN_SCORES = ("answer_ce", "answer_tokens", "paraphrase_ce", "index")
OTHER_MODELS = ("target_", "retain_")
MOST_SHOWN_SCORES = 4
USUAL_SCORES = ("probability", "rouge", "log_truth_ratio", "exact_memorization")


def choose_score_names(runs: Sequence[RunRecord]) -> list[str]:
    """The per-sample scores of all runs, the usual ones first."""
    values = (value for run in runs for sample in run.samples for value in sample.items())
    known = dict.fromkeys(key for key, value in values if isinstance(value, float))
    hidden = (*OTHER_MODELS, "mia_")
    scores = [k for k in known if k not in HIDDEN_SCORES and not k.startswith(hidden)]
    # a stable sort: the usual ones in their order, the others behind them in theirs
    rank = {key: number for number, key in enumerate(USUAL_SCORES)}
    return sorted(scores, key=lambda k: rank.get(k, len(rank)))[:MOST_SHOWN_SCORES]


def list_text_keys(samples: Iterable[dict[str, Any]]) -> list[str]:
    """The texts that any of the samples has."""
    texts = {key for sample in samples for key in TEXT_TITLES if isinstance(sample.get(key), str)}
    return [key for key in TEXT_TITLES if key in texts]


def pack_samples(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The samples of all runs that have any.

    Returns:
        JSON-able: `scores` (titles), `columns` (titles of the text columns that have text),
        `texts` (every text once), `sets`, and `runs`: {label, left_out, rows}, a row being
        [set, index, [text numbers, -1: none], [after], [before], [retain model]].
    """
    sampled = [run for run in runs if run.samples]
    scores = choose_score_names(sampled)
    keys = list_text_keys(sample for run in sampled for sample in run.samples)
    text_numbers: dict[str, int] = {}
    set_numbers: dict[str, int] = {}
    most = max(1, MOST_SAMPLE_ROWS // max(1, len(sampled)))

    def pack_row(sample: dict[str, Any]) -> list[Any]:
        texts = [
            text_numbers.setdefault(text, len(text_numbers)) if isinstance(text, str) else -1
            for text in map(sample.get, keys)
        ]
        set_number = set_numbers.setdefault(str(sample["set"]), len(set_numbers))
        index = sample.get("index")
        index = index if isinstance(index, int | str) else None
        figures = []
        for model in ("", *OTHER_MODELS):
            numbers = [parse_number(sample.get(f"{model}{score}")) for score in scores]
            # five digits keep a page of many samples small
            figures.append([None if n is None else float(f"{n:.5g}") for n in numbers])
        return [set_number, index, texts, *figures]

    packed = [
        {
            "label": run.label,
            "left_out": max(0, len(run.samples) - most),
            "rows": [pack_row(sample) for sample in run.samples[:most]],
        }
        for run in sampled
    ]
    trained = any(run.command == "unlearn" for run in sampled)
    titles = TEXT_TITLES if trained else UNTRAINED_TITLES
    return {
        "scores": [find_figure_title(key) for key in scores],
        "columns": [titles[key] for key in keys],
        "texts": list(text_numbers),
        "sets": list(set_numbers),
        "runs": packed,
    }
