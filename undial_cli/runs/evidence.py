"""evidence.json: hashes of what went into a run and came out, and where text of it still lies.

What each field says stands in docs/reliability.md. Knows what the rooms of a run and of the cache
hold, and nothing of how a run comes about (runs/evidence_content.py does).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from undial_cli.reporting.audit_page import AUDIT_PAGE, AUDIT_TEXT
from undial_cli.reporting.collect import find_run_folders
from undial_cli.reporting.page import PAGE, TEXT
from undial_cli.runs.run_folder import RunFolder, read_json_object
from undial_cli.system.files import cache_dir, write_whole_text
from undial_cli.system.private_files import read_paths

HOLDS_TEXT, HOLDS_STATES = "text", "states"
# By the first folder of a run, and of the cache: what is private in it, and what that holds.
RUN_ROOMS = {
    "evaluation": ("samples", HOLDS_TEXT),
    "report": ("report", HOLDS_TEXT),
    "audit": ("answers of an audit", HOLDS_TEXT),
    "resume": ("state to resume from", HOLDS_STATES),
    "log.txt": ("log with a traceback", HOLDS_TEXT),  # whose message may quote a row
}
CACHE_ROOMS = {
    "evaluations": ("cached evaluation", HOLDS_TEXT),
    "audits": ("cached answers of an audit", HOLDS_TEXT),
    "alternatives": ("cached drawn answers", HOLDS_TEXT),
    "datasets": ("copy of the data", HOLDS_TEXT),
    "prepared": ("prepared data", HOLDS_TEXT),
    "teacher": ("the teacher's signal", HOLDS_STATES),
    "relearning": ("state of an attack's training", HOLDS_STATES),
    "ask": ("questions that were typed", HOLDS_TEXT),
}
# A report may lie anywhere.
REPORT_PAGES = (PAGE, TEXT, AUDIT_PAGE, AUDIT_TEXT)
# What is private in the folder of a run that has neither evidence nor ledger: of older versions.
USUAL_FILES = (
    "evaluation/samples.jsonl", "audit/answers.jsonl", "resume", "report/summary.md",
    *(f"report/{name}" for name in REPORT_PAGES),
)  # fmt: skip


@dataclass(frozen=True)
class PrivateFile:
    """A file that holds text of the data or states made from it; `holds`: text or states."""

    path: Path
    kind: str
    holds: str

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size

    def record(self, folder: Path) -> dict[str, Any]:
        """As evidence.json has it: inside the run's folder by its relative path."""
        return {
            "path": shorten_path(self.path, folder), "kind": self.kind, "holds": self.holds
        }  # fmt: skip


def shorten_path(path: Path, folder: Path) -> str:
    """A path relative to the run's folder, where it lies in it."""
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def save_evidence(
    folder: RunFolder, content: dict[str, Any], purged: Iterable[dict[str, Any]] = ()
) -> None:
    """Write evidence.json with the private files that are there now; the ledger is part of it.

    Args:
        purged: what is to be added to the record of what was removed.
    """
    root = folder.path.absolute()
    content["files"] = [file.record(root) for file in list_private_files(folder)]
    content["purged"] = [*list_purges(folder), *purged]
    write_whole_text(folder.evidence, json.dumps(content, indent=2) + "\n")
    if folder.status() == "done":
        folder.ledger.unlink(missing_ok=True)


def settle_ledgers(paths: Iterable[Path]) -> None:
    """`settle_ledger` of all runs at or below paths."""
    for path in paths:
        for folder in find_run_folders(path):
            settle_ledger(RunFolder(folder))


def settle_ledger(folder: RunFolder) -> None:
    """Take into a run's evidence what was noted since, as of a report of many runs."""
    evidence = read_json_object(folder.evidence)
    if evidence and folder.ledger.exists():
        with contextlib.suppress(OSError):  # of somebody else: the ledger says it as well
            save_evidence(folder, evidence)


def list_purges(folder: RunFolder) -> list[dict[str, Any]]:
    """What was removed of a run by `undial purge`, the latest last."""
    return filter_objects(read_json_object(folder.evidence).get("purged"))


def is_purged(folder: RunFolder) -> bool:
    """Whether a run's text was removed, and none came since."""
    files = list_private_files(folder)
    return bool(list_purges(folder)) and all(file.holds != HOLDS_TEXT for file in files)


def list_private_files(folder: RunFolder) -> list[PrivateFile]:
    """The private files of a run that are there: those of its evidence and of its ledger.

    Both may be of somebody else: of a folder outside the rooms that hold such files nothing is
    looked at.
    """
    root = folder.path.absolute()
    recorded = filter_objects(read_json_object(folder.evidence).get("files"))
    known = [str(entry.get("path")) for entry in recorded]
    if not (folder.evidence.exists() or folder.ledger.exists()):
        known = list(USUAL_FILES)
    files: dict[Path, PrivateFile] = {}
    for name in [*known, *map(str, read_paths(folder.ledger))]:
        path = Path(os.path.normpath(root / name))
        if "\0" in name or (path.is_dir() and find_room(path, root) is None):
            continue
        for file in walk_files(path):
            kind, holds = find_room(file, root) or ("other", HOLDS_TEXT)
            files[file] = PrivateFile(file, "report" if file.name in REPORT_PAGES else kind, holds)
    return [files[path] for path in sorted(files)]


def filter_objects(content: Any) -> list[dict[str, Any]]:
    """The objects of a list in evidence.json; none of anything else."""
    entries = content if isinstance(content, list) else []
    return [entry for entry in entries if isinstance(entry, dict)]


def find_room(path: Path, root: Path) -> tuple[str, str] | None:
    """What the room holds that a path lies in, in the run's folder or the cache: kind, holds."""
    for rooms, base in ((RUN_ROOMS, root), (CACHE_ROOMS, cache_dir().absolute())):
        if path.is_relative_to(base) and path != base:
            return rooms.get(path.relative_to(base).parts[0])
    return None


def walk_files(path: Path) -> Iterator[Path]:
    """A file, or all below a folder, and what a killed process left half written of it."""
    parts = [path, *path.parent.glob(f".{escape(path.name)}.*.unfinished")]
    for part in parts:
        if part.is_symlink():
            continue
        for file in sorted(part.rglob("*")) if part.is_dir() else [part]:
            if file.is_file() and not file.is_symlink():
                yield file


def read_time(file: Path) -> str | None:
    """When a file was last written."""
    return format_time(file.stat().st_mtime) if file.is_file() else None


def format_time(seconds: float) -> str:
    """A moment in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
