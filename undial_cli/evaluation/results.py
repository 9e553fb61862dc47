"""Evaluations on disk: results.json and samples.jsonl, in a run folder or in the cache.

A cached evaluation is found by a hash of all it depends on, and never trusted when it is broken;
an interrupted one left a journal beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from undial_cli import ui
from undial_cli.config.identity import hash_json
from undial_cli.evaluation.evidence import Evaluation, replace_nonfinite
from undial_cli.evaluation.sharding import Journal
from undial_cli.system import processes
from undial_cli.system.files import (
    format_json_line,
    locate_in_cache,
    make_private_folder,
    parse_json,
    write_whole_text,
)
from undial_cli.system.private_files import note_private

# Raised when the meaning of a stored figure changes.
EVALUATION_VERSION = 3

REQUIRED_FIELDS = ("metrics", "missing")
# Results of earlier versions hold none of these.
LATER_FIELDS = ("statistics", "notes", "rows")


def save_evaluation(folder: Path, evaluation: Evaluation, extra: dict[str, Any]) -> None:
    """Write samples.jsonl, then results.json (its presence means that both are whole)."""
    samples = replace_nonfinite(evaluation.samples)
    lines = (format_json_line(sample) for sample in samples)
    write_whole_text(folder / "samples.jsonl", "".join(lines), private=True)
    fields = {name: getattr(evaluation, name) for name in (*REQUIRED_FIELDS, *LATER_FIELDS)}
    results = replace_nonfinite({**extra, **fields, "samples": len(samples)})
    write_whole_text(folder / "results.json", json.dumps(results, indent=2) + "\n")


def load_evaluation(folder: Path) -> Evaluation | None:
    """A stored evaluation, or None if there is none or it is not whole."""
    try:
        results = read_results_json(folder)
        text = (folder / "samples.jsonl").read_text(encoding="utf-8")
        # Not by splitlines, which also breaks at characters that JSON leaves in a text (U+2028).
        samples = [dict(parse_json(line)) for line in text.split("\n") if line]
        if len(samples) != results["samples"] or not all("set" in s for s in samples):
            return None
        fields: dict[str, Any] = {name: dict(results[name]) for name in REQUIRED_FIELDS}
        fields |= {name: dict(results.get(name, {})) for name in LATER_FIELDS}
        return Evaluation(samples=samples, **fields)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def locate_cached_evaluation(depends_on: Any) -> Path:
    """Where the cache keeps the evaluation under the hash of `depends_on`."""
    return locate_in_cache("evaluations", hash_json([EVALUATION_VERSION, depends_on]))


def load_or_evaluate(depends_on: Any, compute: Callable[[Journal], Evaluation]) -> Evaluation:
    """The evaluation under the hash of `depends_on`; all processes compute it if missing.

    One that lacks what a helper model or library would give is not kept, only its journal: it is
    completed once the helper is there.
    """
    folder = locate_cached_evaluation(depends_on)
    note_private(folder / "samples.jsonl")
    journal = Journal(folder.with_name(f"{folder.name}.partial"))
    evaluation = processes.run_on_main(lambda: load_evaluation(folder))
    if evaluation is not None:  # what is whole needs no lock, and no cache that can be written to
        journal.discard()
        return evaluation
    with processes.hold_lock_on_main(folder):
        evaluation = processes.run_on_main(lambda: load_evaluation(folder))
        if evaluation is None:
            if folder.exists():
                ui.say(f"the cached evaluation {folder} is damaged: it is made anew", "yellow")
            evaluation = compute(journal)
            if not evaluation.incomplete:
                processes.run_on_main(lambda: make_private_folder(folder))
                processes.run_on_main(lambda: save_evaluation(folder, evaluation, {}))
                journal.discard()
    return evaluation


def read_results_json(folder: Path) -> dict[str, Any]:
    """The results.json of an evaluation folder; empty where there is none that can be read."""
    try:
        return dict(parse_json((folder / "results.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
