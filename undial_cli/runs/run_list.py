"""`undial list`: runs with their state, their size, and whether they still hold text of the data.

Reads what runs left; changes nothing but evidence that was noted and not yet written.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from undial_cli import ui
from undial_cli.reporting.sheet import Sheet, make_screen_table, make_text_sheet
from undial_cli.reporting.text import format_memory
from undial_cli.runs.command_words import parse_command_words
from undial_cli.runs.evidence import (
    HOLDS_STATES,
    HOLDS_TEXT,
    list_private_files,
    list_purges,
    read_time,
    settle_ledger,
)
from undial_cli.runs.known_runs import find_known_runs, find_runs_at
from undial_cli.runs.run_folder import RunFolder

LIST_FLAGS = {"json": ""}


@dataclass(frozen=True)
class ListedRun:
    """A run; sizes in bytes: of its folder, of private files in it and in the cache.

    `purged`: when its text was removed last.
    """

    folder: str
    status: str
    ended: str | None
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
    folders = find_runs_at("list", asked.paths) if asked.paths else find_known_runs()
    runs = [describe_run(folder) for folder in folders]
    if asked.has("json"):
        print(json.dumps([dataclasses.asdict(run) for run in runs], indent=2))
    elif runs:
        ui.say(make_screen_table(make_listing_sheet(runs)))
        ui.say("undial purge removes text and states; see undial purge --help", "dim")
    else:
        ui.say("no runs are known: neither below outputs nor in the cache's list")
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
    return ListedRun(
        str(folder.path),
        folder.status() or "unknown",
        read_time(folder.status_file),
        measure_folder(folder.path),
        sizes[HOLDS_TEXT],
        sizes[HOLDS_STATES],
        str(purges[-1].get("at")) if purges else None,
    )


def measure_folder(folder: Path) -> int:
    """Bytes of all files below a folder; a link counts as nothing."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return sum(file.stat().st_size for file in files)


def make_listing_sheet(runs: Sequence[ListedRun]) -> Sheet:
    """A row per run."""
    columns = ["run", "status", "ended", "size", "text", "states", "purged"]
    rows = [
        [
            shorten_folder(run.folder),
            run.status,
            run.ended or "–",
            format_memory(run.bytes),
            format_memory(run.text_bytes) if run.text_bytes else "–",
            format_memory(run.state_bytes) if run.state_bytes else "–",
            run.purged or "–",
        ]
        for run in runs
    ]
    return make_text_sheet(columns, rows)


def shorten_folder(folder: str) -> str:
    """A folder relative to the one that one is in, where it lies below."""
    path, here = Path(folder), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else folder
