"""Evaluations on disk: results.json and samples.jsonl, in a run folder or in the cache.

A cached evaluation is found by a hash of all it depends on, and never trusted when it is broken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from undial_cli import distributed
from undial_cli.cache import cache_dir, locked, write_text
from undial_cli.evaluation.suite import Evaluation
from undial_cli.schema import digest

# Raised when the meaning of a stored figure changes.
VERSION = 1


def clean(value: Any) -> Any:
    """NaN and infinities as null: JSON has no number for them."""
    if isinstance(value, dict):
        return {k: clean(v) for k, v in value.items()}
    if isinstance(value, list):
        return [clean(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save(folder: Path, evaluation: Evaluation, extra: dict[str, Any]) -> None:
    """Write samples.jsonl, then results.json (its presence means that both are whole)."""
    lines = (json.dumps(clean(sample), ensure_ascii=False) for sample in evaluation.samples)
    write_text(folder / "samples.jsonl", "".join(line + "\n" for line in lines))
    results = {
        **extra,
        "metrics": evaluation.metrics,
        "missing": evaluation.missing,
        "samples": len(evaluation.samples),
    }
    write_text(folder / "results.json", json.dumps(clean(results), indent=2) + "\n")


def load(folder: Path) -> Evaluation | None:
    """A stored evaluation, or None if there is none or it is not whole."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        text = (folder / "samples.jsonl").read_text(encoding="utf-8")
        samples = [json.loads(line) for line in text.splitlines()]
        if len(samples) != results["samples"]:
            return None
        return Evaluation(results["metrics"], samples, results["missing"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def cached(depends_on: Any, compute: Callable[[], Evaluation]) -> Evaluation:
    """The evaluation under the hash of `depends_on`; all processes compute it if missing."""
    folder = cache_dir() / "evaluations" / digest([VERSION, depends_on])
    found = distributed.on_main(lambda: load(folder))
    if found is not None:
        return found
    found = compute()

    def keep() -> None:
        with locked(folder):
            save(folder, found, {})

    distributed.on_main(keep)
    return found


def read_results(folder: Path) -> dict[str, Any]:
    """The results.json of an evaluation folder; empty where there is none that can be read."""
    try:
        return json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
