"""The samples of a report: what the page's table shows, packed so that many rows stay small.

A text that occurs often (a prompt in ten runs) is stored once. Knows collected runs, no markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from undial_cli.reporting import names
from undial_cli.reporting.collect import RunRecord

# Rows of all runs together in one page; more are in samples.jsonl.
MOST_ROWS = 40_000
TEXTS = ("prompt", "reference", "target_generation", "generation", "retain_generation")
TITLES = ("prompt", "reference", "before", "after", "retain model")
# Per-sample values that other columns are made of.
HIDDEN = ("answer_ce", "answer_tokens", "paraphrase_ce", "index")
OTHERS = ("target_", "retain_")
MOST_SCORES = 4
FIRST = ("probability", "rouge", "log_truth_ratio", "exact_memorization")


def scores_of(runs: Sequence[RunRecord]) -> list[str]:
    """The per-sample scores of all runs, the usual ones first."""
    known = dict.fromkeys(
        key
        for run in runs
        for sample in run.samples
        for key, value in sample.items()
        if isinstance(value, float) and key not in HIDDEN and not key.startswith(OTHERS)
    )
    usual = [key for key in FIRST if key in known]
    return [*usual, *(k for k in known if k not in usual and not k.startswith("mia_"))][
        :MOST_SCORES
    ]


def rounded(value: Any) -> float | None:
    """A score to five digits."""
    found = names.number(value)
    return None if found is None else float(f"{found:.5g}")


def number_of(sample: dict[str, Any]) -> int | str | None:
    """A sample's place in its set."""
    found = sample.get("index")
    return found if isinstance(found, int | str) else None


def pack(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """The samples of all runs that have any.

    Returns:
        JSON-able: `scores` (titles), `columns` (titles of the text columns that have text),
        `texts` (every text once), `sets`, and `runs`: {label, left_out, rows}, a row being
        [set, index, [text numbers, -1: none], [after], [before], [retain model]].
    """
    there = [run for run in runs if run.samples]
    scores = scores_of(there)
    used = [
        (key, title)
        for key, title in zip(TEXTS, TITLES, strict=True)
        if any(isinstance(s.get(key), str) for run in there for s in run.samples)
    ]
    pool: dict[str, int] = {}
    sets: dict[str, int] = {}
    share = max(1, MOST_ROWS // max(1, len(there)))
    packed = []
    for run in there:
        rows = []
        for sample in run.samples[:share]:
            texts = [
                pool.setdefault(text, len(pool)) if isinstance(text, str) else -1
                for text in (sample.get(key) for key, _ in used)
            ]
            set_number = sets.setdefault(str(sample["set"]), len(sets))
            figures = [
                [rounded(sample.get(f"{who}{key}")) for key in scores] for who in ("", *OTHERS)
            ]
            rows.append([set_number, number_of(sample), texts, *figures])
        left_out = max(0, len(run.samples) - share)
        packed.append({"label": run.label, "left_out": left_out, "rows": rows})
    trained = any(run.command == "unlearn" for run in there)
    titles = [
        t if trained else {"after": "generation", "before": "target"}.get(t, t) for _, t in used
    ]
    return {
        "scores": [names.metric(key) for key in scores],
        "columns": titles,
        "texts": list(pool),
        "sets": list(sets),
        "runs": packed,
    }
