"""States of a training that it can go on from: sealed when they are whole, checked before use.

A state is a folder `checkpoint-STEP` in a run's `resume/`; its seal lists its files. Knows no
trainer, and not what the files hold.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from undial_cli import ui
from undial_cli.system.files import checksum_file, parse_json, write_whole_text

SEAL_FILE = "whole.json"
STATE_PREFIX = "checkpoint-"


def seal_state(folder: Path) -> None:
    """List a folder's files with their sizes and checksums: from now on it is whole."""
    files = {
        str(file.relative_to(folder)): [file.stat().st_size, checksum_file(file)]
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != SEAL_FILE
    }
    write_whole_text(folder / SEAL_FILE, json.dumps(files) + "\n")


def read_seal(folder: Path) -> dict[str, list[int]]:
    """What a folder's seal lists; empty where there is none that can be read."""
    try:
        content = parse_json((folder / SEAL_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def find_damage(folder: Path) -> str:
    """Why a folder is not what was sealed, in words; `""` if it is.

    Sizes first: of gigabytes that were cut short none has to be read.
    """
    listed = read_seal(folder)
    if not listed:
        return "it was not saved to its end"
    for read_content in (False, True):
        for name, entry in listed.items():
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            size = file.stat().st_size
            given = [size, checksum_file(file) if read_content else entry[-1]]
            if given != entry:
                was = "was changed since" if size == entry[0] else f"has {size} of {entry[0]} bytes"
                return f"{name} {was}"
    return ""


def list_states(resume: Path) -> list[tuple[int, Path]]:
    """Steps and folders of the states in `resume`, whole or not, the newest first."""
    states = [(f.name.removeprefix(STATE_PREFIX), f) for f in resume.glob(f"{STATE_PREFIX}*")]
    return sorted(((int(step), f) for step, f in states if step.isdecimal()), reverse=True)


def read_newest_step(resume: Path) -> int | None:
    """The step of the newest state that was saved to its end; nothing is checked."""
    return next((step for step, folder in list_states(resume) if read_seal(folder)), None)


def remove_unsealed(resume: Path) -> None:
    """Remove the states that were not saved to their end."""
    for _, folder in list_states(resume):
        if not read_seal(folder):
            shutil.rmtree(folder, ignore_errors=True)


def choose_state(resume: Path) -> tuple[int, Path] | None:
    """The newest whole state and its step; newer ones that are damaged are removed, with a line."""
    for step, folder in list_states(resume):
        damage = find_damage(folder)
        if not damage:
            return step, folder
        ui.say(f"the saved state of step {step} is left out: {damage}", "yellow")
        shutil.rmtree(folder, ignore_errors=True)
    return None
