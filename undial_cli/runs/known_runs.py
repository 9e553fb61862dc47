"""The runs that this user made, wherever their folders lie: a list of them in the cache.

Knows where run folders are, and nothing of what is in them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from undial_cli.config.identity import hash_json
from undial_cli.errors import UserError
from undial_cli.reporting.collect import find_run_folders, find_sweep_runs
from undial_cli.runs.run_folder import RunFolder
from undial_cli.system.files import cache_dir, write_whole_text
from undial_cli.system.private_files import read_paths

DEFAULT_FOLDER = Path("outputs")


def locate_run_list() -> Path:
    """The folder of all run folders, a file with the path of each; by it those are found that share
    the cache.
    """
    return cache_dir() / "runs"


def remember_run(folder: RunFolder) -> None:
    """Put a run's folder on the list; a cache that cannot be written to is no obstacle."""
    path = str(folder.path.absolute())
    with contextlib.suppress(OSError):
        write_whole_text(locate_run_list() / f"{hash_json(path)}.txt", json.dumps(path) + "\n")


def forget_run(folder: RunFolder) -> None:
    """Take a run's folder off the list."""
    file = locate_run_list() / f"{hash_json(str(folder.path.absolute()))}.txt"
    with contextlib.suppress(OSError):
        file.unlink()
        file.parent.rmdir()  # the last one's


def find_known_runs() -> list[RunFolder]:
    """The run folders that are there, of the list and below `outputs`."""
    listed = [path for file in locate_run_list().glob("*.txt") for path in read_paths(file)]
    folders = sorted(path for path in listed if (path / "run.yaml").is_file())
    return make_unique([*folders, *find_run_folders(DEFAULT_FOLDER)])


def find_runs_at(command: str, paths: Sequence[Path], sweeps: bool) -> list[RunFolder]:
    """The run folders at or below paths, each with the requests that it served.

    Args:
        command: for errors.
        sweeps: also those elsewhere that a sweep's folder names; not for what removes files, as
            the folder may come from somebody else.

    Raises:
        UserError: a path is none, or no run is there.
    """
    folders: list[Path] = []
    for path in paths:
        path = path.parent if path.name == "run.yaml" and path.is_file() else path
        if not path.is_dir():
            raise UserError(f"{command} {path}: no such folder; allowed is a run folder, or one "
                            "with runs below it")  # fmt: skip
        named = find_sweep_runs(path)
        folders_there = named if sweeps and named else find_run_folders(path)
        runs = [run for run in folders_there if (run / "run.yaml").is_file()]
        if not runs:
            where = f"; this sweep's lie in {os.path.normpath(named[0].parent)}" if named else ""
            raise UserError(f"{command} {path}: there are no runs (no run.yaml below){where}")
        for run in runs:
            folders += [run, *(part.parent for part in run.glob("request_*/run.yaml"))]
    return make_unique(folders)


def make_unique(folders: Iterable[Path]) -> list[RunFolder]:
    """Run folders, each once, however it is called."""
    return [RunFolder(Path(path)) for path in dict.fromkeys(map(os.path.realpath, folders))]
