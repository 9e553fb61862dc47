"""Prepared data in the user's cache: made once of what a hash names, mapped by all who need it.

An entry is a folder of Arrow files with a record of what they are, checksums among it: one that is
damaged is made anew. Knows nothing of what is prepared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import transformers

from undial_cli import __version__, ui
from undial_cli.config.identity import digest_json
from undial_cli.system.files import (
    checksum_file,
    hash_files,
    locate_in_cache,
    make_private_folder,
    parse_json,
    remove_folder,
    whole_folder,
)
from undial_cli.system.locks import hold_lock
from undial_cli.system.private_files import note_private, open_private_umask

ROOM, RECORD_FILE = "prepared", "record.json"


def open_entry(content: Any, make: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """The folder of what `content` names and its record; made where it is not there.

    Args:
        content: all that what is prepared depends on, as JSON; the code is added.
        make: fills a folder and returns the record.
    """
    code = hash_files(*sorted(Path(__file__).parent.glob("*.py")))
    versions = [__version__, code, transformers.__version__, datasets.__version__]
    folder = locate_in_cache(ROOM, digest_json([content, versions])[:32])
    make_private_folder(folder.parent)
    note_private(folder)
    with hold_lock(folder):
        record = read_record(folder)
        if record is not None:
            return folder, record
        if folder.exists():
            ui.say(f"the prepared data in {folder} are damaged: they are made anew", "yellow")
            remove_folder(folder)
        with whole_folder(folder, private=True) as unfinished, open_private_umask():
            note_private(unfinished)  # a killed process leaves it
            make_private_folder(unfinished)
            record = make(unfinished)
            sums = {file.name: checksum_file(file) for file in sorted(unfinished.iterdir())}
            text = json.dumps({"sums": sums, **record})
            (unfinished / RECORD_FILE).write_text(text, encoding="utf-8")
        return folder, record


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of an entry; None where there is none whose files are as they were written."""
    try:
        record = parse_json((folder / RECORD_FILE).read_bytes())
        sums = record.pop("sums")
        whole = all(checksum_file(folder / name) == total for name, total in sums.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if whole else None
