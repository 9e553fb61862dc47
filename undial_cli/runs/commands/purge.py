"""`undial purge`: remove what still holds text of the data or states made from it, and record that.

The checkpoint, the figures and the settings of a run stay: it counts as done, and its report can be
shown without text. Removes only what lies in a run's own rooms, in the cache's, or is a report: a
run folder may come from somebody else, and what it lists is no order.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undial_cli import ui
from undial_cli.errors import UserError, WorldError
from undial_cli.runs.command_words import CommandWords, parse_command_words
from undial_cli.runs.evidence import (
    CACHE_ROOMS,
    HOLDS_TEXT,
    REPORT_PAGES,
    RUN_ROOMS,
    PrivateFile,
    filter_objects,
    format_time,
    list_private_files,
    list_purges,
    save_evidence,
    shorten_path,
    walk_files,
)
from undial_cli.runs.known_runs import find_known_runs, find_runs_at
from undial_cli.runs.run_folder import RESULT_FILES, RunFolder, read_json_object
from undial_cli.system.files import cache_dir, remove_folder
from undial_cli.system.locks import WorkLock

PURGE_FLAGS = {"older-than": "an age, as in 30d", "text": "", "dry-run": ""}
BACKUPS = "backups, snapshots and blocks of the disk that were not yet written over"


@dataclass
class Purge:
    """What is removed of one run, and what is left of it, with the reason."""

    folder: RunFolder
    files: list[PrivateFile] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)

    def describe_files(self) -> str:
        """What is removed, in words: how many files of which kind."""
        kinds = Counter(file.kind for file in self.files)
        return ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))


def run_purge_command(words: list[str]) -> int:
    """Do `undial purge WORDS`; returns the exit code.

    Raises:
        UserError: a wrong word, or no such run; nothing is removed.
        WorldError: something could not be removed; the rest was.
    """
    asked = parse_command_words("purge", words, PURGE_FLAGS)
    if not (asked.paths or asked.has("text") or asked.age is not None):
        raise UserError("purge: expected a run folder, --older-than=30d or --text; see "
                        "undial purge --help")  # fmt: skip
    everything = find_known_runs()
    chosen = find_runs_at("purge", asked.paths, sweeps=False) if asked.paths else everything
    chosen = [folder for folder in chosen if is_old(folder.status_file, asked.age)]
    shared = find_shared_entries([run for run in everything if run not in chosen])
    failures: list[str] = []
    for folder in chosen:
        purge = plan_purge(folder, shared, asked)
        if purge.files and not asked.has("dry-run"):
            failures += carry_out_purge(purge)
        show_purge(purge, asked.has("dry-run"))
    if not asked.paths:
        failures += purge_orphans(everything, asked)
    if not chosen:
        ui.say("no run is that old" if everything else "no runs are known", "dim")
    if failures:
        more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
        raise WorldError(f"purge: not removed: {failures[0]}{more}")
    return 0


def is_old(file: Path, age: float | None) -> bool:
    """Whether a file was last written more than `age` seconds ago; None: any counts."""
    with contextlib.suppress(OSError):
        return age is None or file.stat().st_mtime < time.time() - age
    return age is None


def find_entry(file: Path) -> Path | None:
    """The entry of the cache that a file belongs to: what is made and removed as a whole."""
    base = cache_dir().absolute()
    parts = file.relative_to(base).parts if file.is_relative_to(base) else ()
    return base / parts[0] / parts[1] if len(parts) > 1 and parts[0] in CACHE_ROOMS else None


def find_shared_entries(runs: Sequence[RunFolder]) -> dict[Path, list[Path]]:
    """Entries of the cache that runs use, with the folders of those runs.

    A model that was trained in the cache for other runs needs nothing any more once it is done.
    """
    users: dict[Path, list[Path]] = {}
    cache = cache_dir().absolute()
    for folder in runs:
        if folder.path.is_relative_to(cache.resolve()) and folder.status() == "done":
            continue
        entries = {find_entry(file.path) for file in list_private_files(folder)}
        for entry in filter(None, entries):
            users.setdefault(entry, []).append(folder.path)
    return users


def plan_purge(folder: RunFolder, shared: dict[Path, list[Path]], asked: CommandWords) -> Purge:
    """What can be removed of a run."""
    purge, root = Purge(folder), folder.path.absolute()
    for file in list_private_files(folder):
        if asked.has("text") and file.holds != HOLDS_TEXT:
            continue
        users = shared.get(find_entry(file.path) or root, [])
        reason = f"shared with {', '.join(map(str, users))}" if users else find_bar(file.path, root)
        if reason:
            purge.left.append((shorten_path(file.path, root), reason))
        else:
            purge.files.append(file)
    return purge


def find_bar(file: Path, root: Path) -> str:
    """Why a file that a run lists is not for this command to remove; "" where it is."""
    for base, rooms in ((root, RUN_ROOMS), (cache_dir().absolute(), CACHE_ROOMS)):
        real = file.parent.resolve() / file.name
        if file.is_relative_to(base) and real.is_relative_to(base.resolve()):
            inside = file.relative_to(base)
            is_result = base == root and str(inside) in RESULT_FILES
            return "" if inside.parts[0] in rooms and not is_result else "no private file of a run"
    if file.name in REPORT_PAGES and b"undial" in file.read_bytes():
        return ""
    return "it lies neither in this run's folder nor in this cache (UNDIAL_CACHE_DIR)"


def carry_out_purge(purge: Purge) -> list[str]:
    """Remove the files and record it in evidence.json; what could not be removed, a line each."""
    folder = purge.folder
    lock = WorkLock(folder.path)
    lock.patience = 0.0
    if not lock.try_acquire():
        purge.left += [(shorten_path(f.path, folder.path), "in use") for f in purge.files]
        purge.files = []
        return [f"{folder.path}: another process works on it"]
    try:
        failures = remove_files(purge)
        if folder.log in {file.path for file in purge.files}:
            shorten_reason(folder)
        record_purge(purge)
    finally:
        lock.release()
    return failures


def remove_files(purge: Purge) -> list[str]:
    """Remove files, the entries of the cache that they are of, and folders that are empty then."""
    failures: list[str] = []
    removed: list[PrivateFile] = []
    root = purge.folder.path.absolute()
    for file in purge.files:
        try:
            file.path.unlink()
            removed.append(file)
        except OSError as error:
            failures.append(f"{file.path} ({error.strerror})")
            purge.left.append((shorten_path(file.path, purge.folder.path), str(error.strerror)))
    for file in removed:
        entry = find_entry(file.path)
        with contextlib.suppress(OSError):
            if entry is not None and entry.is_dir():
                remove_folder(entry)
            for parent in file.path.parents:
                if parent in (root, *root.parents) or not parent.is_relative_to(root):
                    break
                parent.rmdir()
    purge.files = removed
    return failures


def shorten_reason(folder: RunFolder) -> None:
    """Of the reason that a run failed for leave its kind: the rest may quote a row."""
    reason = str(read_json_object(folder.status_file).get("reason", ""))
    folder.set_status(folder.status(), reason.partition(":")[0])


def record_purge(purge: Purge) -> None:
    """Write into a run's evidence what was removed, when, and what is out of reach."""
    folder = purge.folder
    evidence = read_json_object(folder.evidence) or collect_unfinished(folder)
    left = [*purge.left, *list_unreachable(evidence)]
    removed = Counter((shorten_path(f.path, folder.path), f.kind) for f in purge.files)
    entry = {
        "at": format_time(time.time()),
        "removed": [{"path": path, "kind": kind} for path, kind in removed],
        "left": [{"what": name, "why": why} for name, why in left],
    }
    save_evidence(folder, evidence, [entry])


def collect_unfinished(folder: RunFolder) -> dict[str, Any]:
    """The evidence of a run that has none, as it never got to its end."""
    from undial_cli.runs.evidence_content import collect_evidence
    from undial_cli.runs.resolved import ResolvedRun
    from undial_cli.runs.run_yaml import load_run

    try:
        return collect_evidence(ResolvedRun(load_run(folder.run_yaml), folder))
    except (UserError, WorldError) as error:
        return {"unknown": str(error)}


def list_unreachable(evidence: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a purge does not reach: the data themselves, what was sent away, copies of the disk."""
    for source in filter_objects(evidence.get("sources")):
        if "path" in source and os.path.exists(str(source["path"])):
            yield str(source["path"]), "the data themselves"
        elif "hub" in source:
            yield f"{source['hub']}, in the cache of the hub (HF_HOME)", "the data themselves"
    for recipient in filter_objects(evidence.get("sent")):
        yield f"{recipient.get('what')}, sent to {recipient.get('to')}", "sent away"
    yield BACKUPS, "out of reach"


def show_purge(purge: Purge, dry: bool) -> None:
    """Say in a line what was removed of a run, and in one more each what is left."""
    verb = "would purge" if dry else "purged"
    if purge.files:
        ui.say(f"{verb} {purge.folder.path}: {purge.describe_files()}")
    elif not purge.left:
        known = list_purges(purge.folder)
        when = f" since {known[-1].get('at')}" if known else ""
        ui.say(f"{purge.folder.path}: holds nothing to purge{when}", "dim")
    for name, why in purge.left:
        ui.say(f"  left: {name} ({why})", "yellow")
    if purge.files and not dry:
        ui.say(f"  what is out of reach is named in {purge.folder.evidence}", "dim")


def list_abandoned(folder: Path) -> Iterator[Path]:
    """What killed processes left half made in a folder of the cache; not what is being made."""
    for entry in folder.glob(".*.unfinished"):
        lock = WorkLock(entry.with_name(entry.name.removesuffix(".unfinished")[1:]))
        lock.patience = 0.0
        if lock.try_acquire():
            lock.release()
            yield entry


def purge_orphans(runs: Sequence[RunFolder], asked: CommandWords) -> list[str]:
    """Remove entries of the cache that no run lists: of folders that are gone, of refused input."""
    used = find_shared_entries(runs)
    failures: list[str] = []
    for room, (kind, holds) in CACHE_ROOMS.items():
        folder = cache_dir().absolute() / room
        for entry in sorted([*folder.glob("[!.]*"), *list_abandoned(folder)]):
            wanted = entry not in used and (holds == HOLDS_TEXT or not asked.has("text"))
            files = [*walk_files(entry)] if wanted else []
            if not files or not all(is_old(file, asked.age) for file in files):
                continue
            verb = "would purge" if asked.has("dry-run") else "purged"
            try:
                if not asked.has("dry-run"):
                    remove_folder(entry) if entry.is_dir() else entry.unlink()
                ui.say(f"{verb} {entry}: {kind}, of no run that is there")
            except OSError as error:
                failures.append(f"{entry} ({error.strerror})")
    return failures
