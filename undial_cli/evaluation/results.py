"""Evaluations on disk: results.json and samples.jsonl, in a run folder or in the cache.

The cache holds an evaluation in parts, each found by a hash of all it depends on, and never trusted
when it is broken; an interrupted evaluation left a journal beside them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
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
EVALUATION_VERSION = 4

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


def locate_cached_parts(depends_on: Mapping[str, Any]) -> dict[str, Path]:
    """Where the cache keeps the parts of an evaluation, by the hash of what each depends on."""
    return {
        name: locate_in_cache("evaluations", hash_json([EVALUATION_VERSION, of_part]))
        for name, of_part in depends_on.items()
    }


def load_cached_parts(folders: Mapping[str, Path]) -> dict[str, Evaluation]:
    """Those parts of an evaluation that are there and whole, on every process."""

    def load() -> dict[str, Evaluation]:
        parts = {name: load_evaluation(folder) for name, folder in folders.items()}
        return {name: part for name, part in parts.items() if part is not None}

    return processes.run_on_main(load)


def load_or_evaluate(
    depends_on: Mapping[str, Any],
    compute: Callable[[list[str], Journal], dict[str, Evaluation]],
) -> dict[str, Evaluation]:
    """The parts of an evaluation; those that the cache lacks are computed together.

    None is kept of a computation that lacks what a helper model or library would give, only its
    journal: it is completed once the helper is there.

    Args:
        depends_on: by part all that its figures depend on.
        compute: gives the parts of these names.
    """
    folders = locate_cached_parts(depends_on)
    for folder in folders.values():
        note_private(folder / "samples.jsonl")
    by_name = {name: folder.name for name, folder in folders.items()}
    whole = locate_in_cache("evaluations", hash_json(by_name))
    journal = Journal(whole.with_name(f"{whole.name}.partial"))
    parts = load_cached_parts(folders)
    if parts.keys() != folders.keys():  # what is whole needs no lock, and no cache to write to
        with processes.hold_lock_on_main(whole):
            parts = load_cached_parts(folders)
            lacking = [name for name in folders if name not in parts]
            for folder in (folders[name] for name in lacking):
                if folder.exists():
                    ui.say(f"the cached evaluation {folder} is damaged: it is made anew", "yellow")
            computed = compute(lacking, journal) if lacking else {}
            if any(part.incomplete for part in computed.values()):
                return parts | computed
            for name, part in computed.items():
                processes.run_on_main(partial(save_cached_part, folders[name], part))
            parts |= computed
    journal.discard()
    return parts


def save_cached_part(folder: Path, part: Evaluation) -> None:
    make_private_folder(folder)
    save_evaluation(folder, part, {})


def read_results_json(folder: Path) -> dict[str, Any]:
    """The results.json of an evaluation folder; empty where there is none that can be read."""
    try:
        return dict(parse_json((folder / "results.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
