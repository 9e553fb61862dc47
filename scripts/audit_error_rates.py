"""How often an audit's intervals miss and its verdicts are wrong, on drawn scores of known truth.

    python scripts/audit_error_rates.py [--draws 2000]

Prints docs/audit.md's table. The distributions are those of tests/audit/drawn_audits.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "audit"))

from drawn_audits import draw_graded, draw_hits, estimate_drawn, number_rows  # noqa: E402

from undial_cli.audit.verdicts import (  # noqa: E402
    LEAKING,
    NEVER_SEEN,
    SUPPRESSED,
    AuditEvidence,
    decide_verdict,
)
from undial_cli.config.attacks import MODEL_ROLES, AuditConfig  # noqa: E402

MARGIN = 0.2
BACK, QUIET = {LEAKING, SUPPRESSED}, {NEVER_SEEN}
SHAPES = ((20, 20), (20, 5), (40, 5), (40, 1))
SCORES: dict[str, Callable[..., dict[str, Any]]] = {"graded": draw_graded, "hits": draw_hits}


def describe_rate(count: int, total: int) -> str:
    """A share in percent with its 95 % binomial interval (Clopper and Pearson)."""
    interval = stats.binomtest(count, total).proportion_ci()
    return f"{count / total:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def count_covered(draw: Callable[..., Any], shape: tuple[int, int], truth: float, n: int) -> int:
    """Draws of which the interval holds the truth."""
    draws, who = np.random.default_rng(0), number_rows(*shape)
    intervals = (estimate_drawn(draw(draws, who, truth), who)["interval"] for _ in range(n))
    return sum(low <= truth <= high for low, high in intervals)


def count_words(
    draw: Callable[..., Any], shape: tuple[int, int], truths: list[float], words: set[str], n: int
) -> int:
    """Draws of whose attacks, with these truths, the verdict is one of some words."""
    draws, who = np.random.default_rng(1), number_rows(*shape)
    names = ["direct", *(f"attack {i}" for i in range(1, len(truths)))]
    hits = 0
    for _ in range(n):
        entries = {
            name: estimate_drawn(draw(draws, who, truth), who)
            for name, truth in zip(names, truths, strict=True)
        }
        evidence = AuditEvidence(entries, {}, frozenset(MODEL_ROLES))
        hits += decide_verdict(evidence, AuditConfig()).word in words
    return hits


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=2000)
    n = parser.parse_args().draws
    several, margin = SHAPES[1:], [MARGIN] * 12
    settings = (
        ("leaking or suppressed, 12 attacks all exactly at the margin", margin, BACK, several),
        ("leaking or suppressed, 12 attacks on a retain-like model", [0.0] * 12, BACK, several),
        ("the same of two subjects, drawn anew", [0.0] * 12, BACK, [(2, 20)]),
        ("as if never seen, one of 3 attacks exactly at the margin", [0, 0, 0.2], QUIET, several),
        ("as if never seen, 12 attacks on a retain-like model", [0.0] * 12, QUIET, [(40, 5)]),
    )  # fmt: skip
    print("| | subjects x rows | " + " | ".join(SCORES) + " |\n| --- | --- | --- | --- |")
    for shape in [(8, 20), *SHAPES]:
        rates = [describe_rate(count_covered(d, shape, MARGIN, n), n) for d in SCORES.values()]
        print(f"| coverage of the 95 % interval | {shape[0]} x {shape[1]} | {' | '.join(rates)} |")
    for title, truths, words, shapes in settings:
        for shape in shapes:
            counts = [count_words(draw, shape, truths, words, n) for draw in SCORES.values()]
            rates = [describe_rate(count, n) for count in counts]
            print(f"| {title} | {shape[0]} x {shape[1]} | {' | '.join(rates)} |", flush=True)


if __name__ == "__main__":
    main()
