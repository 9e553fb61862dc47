"""Evaluations on disk: results.json and samples.jsonl, in a run folder or in the cache.

A cached evaluation is found by a hash of all it depends on, and never trusted when it is broken;
an interrupted one left a journal beside it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from undial_cli.config.schema import hash_json
from undial_cli.evaluation.evidence import Evaluation, replace_nonfinite
from undial_cli.evaluation.sharding import Journal
from undial_cli.system import processes
from undial_cli.system.files import cache_dir, hold_lock, write_whole_text

# Raised when the meaning of a stored figure changes.
EVALUATION_VERSION = 3


def save_evaluation(folder: Path, evaluation: Evaluation, extra: dict[str, Any]) -> None:
    """Write samples.jsonl, then results.json (its presence means that both are whole)."""
    lines = (
        json.dumps(replace_nonfinite(sample), ensure_ascii=False) for sample in evaluation.samples
    )
    write_whole_text(folder / "samples.jsonl", "".join(line + "\n" for line in lines), private=True)
    results = {
        **extra,
        "metrics": evaluation.metrics,
        "missing": evaluation.missing,
        "statistics": evaluation.statistics,
        "notes": evaluation.notes,
        "rows": evaluation.rows,
        "samples": len(evaluation.samples),
    }
    write_whole_text(
        folder / "results.json", json.dumps(replace_nonfinite(results), indent=2) + "\n"
    )


def load_evaluation(folder: Path) -> Evaluation | None:
    """A stored evaluation, or None if there is none or it is not whole."""
    try:
        results = read_results_json(folder)
        text = (folder / "samples.jsonl").read_text(encoding="utf-8")
        samples = [json.loads(line) for line in text.split("\n") if line]
        if len(samples) != results["samples"] or not all("set" in s for s in samples):
            return None
        return Evaluation(
            dict(results["metrics"]),
            samples,
            dict(results["missing"]),
            # results of before hold none of these
            statistics=dict(results.get("statistics", {})),
            notes=dict(results.get("notes", {})),
            rows=dict(results.get("rows", {})),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def locate_cached_evaluation(depends_on: Any) -> Path:
    """Where the cache keeps the evaluation under the hash of `depends_on`."""
    return cache_dir() / "evaluations" / hash_json([EVALUATION_VERSION, depends_on])


def load_or_evaluate(depends_on: Any, compute: Callable[[Journal], Evaluation]) -> Evaluation:
    """The evaluation under the hash of `depends_on`; all processes compute it if missing.

    One that lacks what a helper model or library would give is not kept, only its journal: it is
    completed once the helper is there.
    """
    folder = locate_cached_evaluation(depends_on)
    partial = folder.with_name(f"{folder.name}.partial")
    with hold_lock(folder) if processes.get_process_rank() == 0 else contextlib.nullcontext():
        found = processes.run_on_main(lambda: load_evaluation(folder))
        if found is None:
            found = compute(Journal(partial))
            if not found.incomplete:
                processes.run_on_main(lambda: save_evaluation(folder, found, {}))
                processes.run_on_main(lambda: shutil.rmtree(partial, ignore_errors=True))
    return found


def read_results_json(folder: Path) -> dict[str, Any]:
    """The results.json of an evaluation folder; empty where there is none that can be read."""
    try:
        return json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
