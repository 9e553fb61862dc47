"""The samples of a report: what the page's table shows, packed so that many rows stay small.

A text that occurs often (a prompt in ten runs) is stored once. Knows collected runs, no markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from undial_cli.evaluation.figures import find_figure_title
from undial_cli.reporting.collect import RunRecord
from undial_cli.reporting.text import parse_number

# Rows of all runs together in one page; more are in samples.jsonl.
MOST_SAMPLE_ROWS = 40_000
# Texts of a sample, and their titles.
TEXT_TITLES = {
    "prompt": "prompt",
    "reference": "reference",
    "target_generation": "before",
    "generation": "after",
    "retain_generation": "retain model",
}
UNTRAINED_TITLES = {"generation": "generation", "target_generation": "target"}
# Per-sample values that other columns are made of.
HIDDEN_SCORES = ("answer_ce", "answer_tokens", "paraphrase_ce", "index")
OTHER_MODELS = ("target_", "retain_")
MOST_SHOWN_SCORES = 4
USUAL_SCORES = ("probability", "rouge", "log_truth_ratio", "exact_memorization")


def choose_score_names(runs: Sequence[RunRecord]) -> list[str]:
    """The per-sample scores of all runs, the usual ones first."""
    known = dict.fromkeys(
        key
        for run in runs
        for sample in run.samples
        for key, value in sample.items()
        if isinstance(value, float)
        and key not in HIDDEN_SCORES
        and not key.startswith((*OTHER_MODELS, "mia_"))
    )
    usual = [key for key in USUAL_SCORES if key in known]
    return [*usual, *(key for key in known if key not in usual)][:MOST_SHOWN_SCORES]


def round_score(value: Any) -> float | None:
    """A score to five digits."""
    number = parse_number(value)
    return None if number is None else float(f"{number:.5g}")


def pack_samples(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The samples of all runs that have any.

    Returns:
        JSON-able: `scores` (titles), `columns` (titles of the text columns that have text),
        `texts` (every text once), `sets`, and `runs`: {label, left_out, rows}, a row being
        [set, index, [text numbers, -1: none], [after], [before], [retain model]].
    """
    sampled = [run for run in runs if run.samples]
    scores = choose_score_names(sampled)
    used = [
        key
        for key in TEXT_TITLES
        if any(isinstance(sample.get(key), str) for run in sampled for sample in run.samples)
    ]
    numbers: dict[str, int] = {}
    sets: dict[str, int] = {}
    most = max(1, MOST_SAMPLE_ROWS // max(1, len(sampled)))

    def packed(sample: dict[str, Any]) -> list[Any]:
        texts = [
            numbers.setdefault(text, len(numbers)) if isinstance(text, str) else -1
            for text in map(sample.get, used)
        ]
        index = sample.get("index")
        return [
            sets.setdefault(str(sample["set"]), len(sets)),
            index if isinstance(index, int | str) else None,
            texts,
            *(
                [round_score(sample.get(f"{whose}{key}")) for key in scores]
                for whose in ("", *OTHER_MODELS)
            ),
        ]

    rows = [[packed(sample) for sample in run.samples[:most]] for run in sampled]
    trained = any(run.command == "unlearn" for run in sampled)
    titles = (
        TEXT_TITLES
        if trained
        else TEXT_TITLES | {"generation": "generation", "target_generation": "target"}
    )
    return {
        "scores": [find_figure_title(key) for key in scores],
        "columns": [titles[key] for key in used],
        "texts": list(numbers),
        "sets": list(sets),
        "runs": [
            {"label": run.label, "left_out": max(0, len(run.samples) - most), "rows": members}
            for run, members in zip(sampled, rows, strict=True)
        ],
    }
