"""`undial list`: runs with their state, size, age and what they hold of the data; and the cache.

Reads what runs left; changes nothing but evidence that was noted and not yet written.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undial_cli import ui
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow, make_screen_table
from undial_cli.reporting.text import format_memory
from undial_cli.runs.command_words import parse_command_words
from undial_cli.runs.commands.cache_list import (
    MODEL_ROOM,
    CacheEntry,
    format_age,
    list_cache_entries,
    make_cache_sheet,
    measure_folder,
)
from undial_cli.runs.evidence import (
    HOLDS_STATES,
    HOLDS_TEXT,
    format_time,
    list_private_files,
    list_purges,
    read_time,
    settle_ledger,
)
from undial_cli.runs.known_runs import find_known_runs, find_runs_at
from undial_cli.runs.run_folder import RunFolder
from undial_cli.system.files import cache_dir

LIST_FLAGS = {"json": ""}


@dataclass(frozen=True)
class ListedRun:
    """A run; sizes in bytes: of its folder, of private files in it and in the cache.

    `changed`: when a file of it was last written, in seconds since 1970; `purged`: when its text
    was removed last.
    """

    folder: str
    status: str
    ended: str | None
    changed: float
    bytes: int
    text_bytes: int
    state_bytes: int
    purged: str | None


def run_list_command(words: list[str]) -> int:
    """Do `undial list WORDS`; returns the exit code.

    Raises:
        UserError: a wrong word, or no such run.
    """
    asked = parse_command_words("list", words, LIST_FLAGS)
    folders = find_runs_at("list", asked.paths, sweeps=True) if asked.paths else find_known_runs()
    runs = sorted(map(describe_run, folders), key=lambda run: -run.changed)
    entries = [] if asked.paths else list_cache_entries(folders)
    listed = {run.folder for run in runs}
    entries = [entry for entry in entries if entry.path not in listed]
    if asked.has("json"):
        print(json.dumps([*map(record_run, runs), *map(record_entry, entries)], indent=2))
        return 0
    if runs:
        ui.say(make_screen_table(make_listing_sheet(runs)))
        hint = "undial purge RUN removes text and states of a run, rm -r RUN all of it"
        if any(map(is_cached_model, runs)):
            hint += "; models are made again when a run needs them"
        ui.say(hint, "dim")
    else:
        ui.say("no runs are known: neither below outputs nor in the cache's list")
    if entries:
        ui.say(make_screen_table(make_cache_sheet(entries)))
        ui.say("AGE: what is older, as 30d or 1h, of all runs and of none; --dry-run tells", "dim")
    if cache_dir().is_dir() and not asked.paths:
        free = format_memory(shutil.disk_usage(cache_dir()).free)
        ui.say(f"cache: {cache_dir()}; {free} are free on its disk", "dim")
    return 0


def describe_run(folder: RunFolder) -> ListedRun:
    """What `undial list` says of a run."""
    settle_ledger(folder)
    private = list_private_files(folder)
    sizes = {
        holds: sum(file.size for file in private if file.holds == holds)
        for holds in (HOLDS_TEXT, HOLDS_STATES)
    }
    purges = list_purges(folder)
    size, changed = measure_folder(folder.path)
    return ListedRun(
        str(folder.path),
        folder.status() or "unknown",
        read_time(folder.status_file),
        changed,
        size,
        sizes[HOLDS_TEXT],
        sizes[HOLDS_STATES],
        str(purges[-1].get("at")) if purges else None,
    )


def record_run(run: ListedRun) -> dict[str, Any]:
    """A run as JSON has it."""
    kind = "model" if is_cached_model(run) else "run"
    return {"kind": kind, **dataclasses.asdict(run), "changed": format_time(run.changed)}


def record_entry(entry: CacheEntry) -> dict[str, Any]:
    """An entry of the cache as JSON has it."""
    content = dataclasses.asdict(entry)
    room, title = content.pop("room"), content.pop("kind")
    return {"kind": room, "what": title, **content, "changed": format_time(entry.changed)}


def is_cached_model(run: ListedRun) -> bool:
    """Whether a run made a model of the cache, for other runs."""
    return Path(run.folder).is_relative_to((cache_dir() / MODEL_ROOM).resolve())


def make_listing_sheet(runs: Sequence[ListedRun]) -> Sheet:
    """A row per run, the newest first; behind them models that were made for runs; the total."""
    sized = [[run.bytes, run.text_bytes, run.state_bytes] for run in runs]
    totals = [sum(sizes) for sizes in zip(*sized, strict=True)]
    rows = []
    for run in sorted(runs, key=is_cached_model):
        folder = Path(run.folder).name if is_cached_model(run) else shorten_folder(run.folder)
        texts = [folder, run.status, format_age(run.changed)]
        texts += [
            *map(format_size, (run.bytes, run.text_bytes, run.state_bytes)),
            run.purged or "–",
        ]
        group = f"made for runs, in {Path(run.folder).parent}" if is_cached_model(run) else "runs"
        rows.append(SheetRow([*map(Cell, texts)], group))
    rows.append(SheetRow([*map(Cell, ["total", "", "", *map(format_size, totals), ""])]))
    columns = ["run", "status", "age", "size", "text", "states", "purged"]
    heads = [Column(name, numeric=name in ("size", "text", "states")) for name in columns]
    return Sheet("", heads, rows)


def format_size(count: int) -> str:
    """Bytes as text; a dash for none."""
    return format_memory(count) if count else "–"


def shorten_folder(folder: str) -> str:
    """A folder relative to the one that one is in, where it lies below."""
    path, here = Path(folder), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else folder
