"""The runs that this user made, wherever their folders lie: a list of them in the cache.

Knows where run folders are, and nothing of what is in them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from undial_cli.errors import UserError
from undial_cli.reporting.collect import find_run_folders
from undial_cli.runs.run_folder import RunFolder
from undial_cli.system.files import cache_dir
from undial_cli.system.private_files import append_paths, read_paths

DEFAULT_FOLDER = Path("outputs")


def locate_run_list() -> Path:
    """The file of all run folders, a path a line; runs that share a cache are found by it."""
    return cache_dir() / "runs.txt"


def remember_run(folder: RunFolder) -> None:
    """Put a run's folder on the list; a cache that cannot be written to is no obstacle."""
    file = locate_run_list()
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        append_paths(file, [folder.path.absolute()])


def find_known_runs() -> list[RunFolder]:
    """The run folders that are there, of the list and below `outputs`."""
    folders = [path for path in read_paths(locate_run_list()) if (path / "run.yaml").is_file()]
    return make_unique([*folders, *find_run_folders(DEFAULT_FOLDER)])


def find_runs_at(command: str, paths: Sequence[Path]) -> list[RunFolder]:
    """The run folders at or below paths, each with the requests that it served.

    Args:
        command: for errors.

    Raises:
        UserError: a path is none, or no run is there.
    """
    folders: list[Path] = []
    for path in paths:
        path = path.parent if path.name == "run.yaml" and path.is_file() else path
        if not path.is_dir():
            raise UserError(f"{command} {path}: no such folder; allowed is a run folder, or one "
                            "with runs below it")  # fmt: skip
        runs = [run for run in find_run_folders(path) if (run / "run.yaml").is_file()]
        if not runs:
            raise UserError(f"{command} {path}: there are no runs (no run.yaml below)")
        for run in runs:
            folders += [run, *(part.parent for part in run.glob("request_*/run.yaml"))]
    return make_unique(folders)


def make_unique(folders: Iterable[Path]) -> list[RunFolder]:
    """Run folders, each once, however it is called."""
    return [RunFolder(Path(path)) for path in dict.fromkeys(map(os.path.realpath, folders))]
