"""What lies in the cache beside runs: models, the teacher's signal, data, evaluations, answers.

Each entry with its size, its age, the runs that use it and the command that removes it. Removes
nothing itself.
"""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from undial_cli.reporting.sheet import Sheet, make_text_sheet
from undial_cli.reporting.text import format_memory
from undial_cli.runs.commands.purge import find_shared_entries
from undial_cli.runs.evidence import CACHE_ROOMS
from undial_cli.runs.run_folder import RunFolder
from undial_cli.system.files import cache_dir

MODEL_ROOM = "models"
# Rooms of the cache whose entries hold neither text nor states: they are made again when needed.
MODEL_ROOMS = {MODEL_ROOM: "model made for runs", "gguf": "converted GGUF file"}
# Shown one by one; of the others there may be thousands.
ROOMS_SHOWN_WHOLE = (*MODEL_ROOMS, "teacher", "datasets")
PURGE_UNUSED = "undial purge --older-than=AGE"
DAY = 86400


@dataclass(frozen=True)
class CacheEntry:
    """An entry of the cache. `bytes` of all its files; `changed`: seconds since 1970.

    `used_by`: folders of runs that list it; `remove`: the command that removes it.
    """

    room: str
    kind: str
    path: str
    bytes: int
    changed: float
    used_by: tuple[str, ...]
    remove: str


def list_cache_entries(runs: Sequence[RunFolder]) -> list[CacheEntry]:
    """The entries of all rooms, the newest of each room first.

    Args:
        runs: all that are known.
    """
    users = find_shared_entries(runs)
    entries = [
        describe_entry(room, kind, path, users)
        for room, kind in (MODEL_ROOMS | {r: kind for r, (kind, _) in CACHE_ROOMS.items()}).items()
        for path in list_entries(cache_dir().absolute() / room)
    ]
    order = list(dict.fromkeys(entry.room for entry in entries))
    return sorted(entries, key=lambda entry: (order.index(entry.room), -entry.changed))


def list_entries(room: Path) -> Iterator[Path]:
    """What lies in a room of the cache; what a killed process left half made too, but no locks."""
    # Models are runs, which lie below their command.
    for path in sorted(room.glob("*/*" if room.name == MODEL_ROOM else "*")):
        if not path.name.endswith(".lock") and not path.is_symlink():
            yield path


def describe_entry(
    room: str, kind: str, path: Path, users: Mapping[Path, Sequence[Path]]
) -> CacheEntry:
    """What `undial list` says of an entry."""
    size, changed = measure_folder(path)
    used_by = tuple(map(str, users.get(path, ())))
    remove = PURGE_UNUSED if room in CACHE_ROOMS else f"rm -r {shlex.quote(str(path))}"
    if used_by:
        remove = f"undial purge {shlex.join(used_by)}"
    return CacheEntry(room, kind, str(path), size, changed, used_by, remove)


def measure_folder(folder: Path) -> tuple[int, float]:
    """Bytes of a file, or of all files below a folder, and when one was last written.

    A link counts as nothing.
    """
    size, changed = 0, 0.0
    for file in itertools.chain([folder], folder.rglob("*")):
        if file.is_file() and not file.is_symlink():
            state = file.stat()
            size, changed = size + state.st_size, max(changed, state.st_mtime)
    return size, changed or folder.stat().st_mtime


def format_age(changed: float) -> str:
    """How long ago a moment was, in words."""
    seconds = max(0.0, time.time() - changed)
    for size, unit in ((DAY, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "now"


def make_cache_sheet(entries: Sequence[CacheEntry]) -> Sheet:
    """A row per entry of the large kinds, one for all of each other kind, and the total."""
    rows: list[list[str]] = []
    for room, group in itertools.groupby(entries, key=lambda entry: entry.room):
        of_room = list(group)
        if room in ROOMS_SHOWN_WHOLE:
            rows += [make_entry_row(entry) for entry in of_room]
        else:
            rows.append(make_room_row(of_room))
    rows.append(["total", "", format_memory(sum(entry.bytes for entry in entries)), "", "", ""])
    return make_text_sheet(["what", "in the cache", "size", "age", "runs", "removed by"], rows)


def make_entry_row(entry: CacheEntry) -> list[str]:
    remove = "undial purge RUN" if entry.used_by else entry.remove
    return [
        entry.kind,
        f"{entry.room}/{Path(entry.path).name}",
        format_memory(entry.bytes),
        format_age(entry.changed),
        str(len(entry.used_by)) if entry.room in CACHE_ROOMS else "–",
        "rm -r" if entry.room in MODEL_ROOMS else remove,
    ]


def make_room_row(entries: Sequence[CacheEntry]) -> list[str]:
    """All entries of a room in a row: how many, how old, and how many no run uses."""
    first = entries[0]
    ages = dict.fromkeys(format_age(entry.changed) for entry in (first, entries[-1]))
    unused = sum(not entry.used_by for entry in entries)
    runs = {run for entry in entries for run in entry.used_by}
    ways = ["undial purge RUN"] if runs else []
    ways += [PURGE_UNUSED] if unused else []
    return [
        first.kind,
        f"{first.room}/ ({len(entries)}, of no run: {unused})",
        format_memory(sum(entry.bytes for entry in entries)),
        " to ".join(ages),
        str(len(runs)),
        " or ".join(ways),
    ]
