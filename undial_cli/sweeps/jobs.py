"""One run of many: what is sent to the process that carries it out, and what comes back.

The parent composes; text goes out and text comes back, so that any executor can carry it.
Imports no torch before a run is carried out.
"""

from __future__ import annotations

import functools
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from undial_cli.config.attacks import ATTACK_FILE_VARIABLE
from undial_cli.config.schema import Run
from undial_cli.errors import UserError, WorldError
from undial_cli.evaluation.user_metrics import METRIC_FILE_VARIABLE
from undial_cli.methods import user_file
from undial_cli.runs.run_folder import locate_run_folder
from undial_cli.runs.run_yaml import dump_run_yaml, parse_run_yaml
from undial_cli.system.garbage import spare_imports
from undial_cli.system.memory import give_back_memory

# Of the command that carries out a run, by how the run ended.
EXIT_CODES = {"done": 0, "failed": 1, "refused": 2}


# Name the files that the command line allows to be run.
FILE_VARIABLES = (user_file.METHOD_FILE_VARIABLE, ATTACK_FILE_VARIABLE, METRIC_FILE_VARIABLE)


@dataclass(frozen=True)
class Job:
    """A composed run, its name among the others, and the swept keys with their values."""

    label: str
    run: Run
    values: dict[str, str] = field(default_factory=dict)

    @functools.cached_property
    def folder(self) -> Path:
        """Where the run is, or would be."""
        return locate_run_folder(self.run).path


@dataclass
class JobOutcome:
    """How a run ended: `done`, `failed`, or `refused` (wrong input, no folder).

    `seconds`: wall time spent here, next to nothing where it was done before.
    """

    status: str
    folder: Path
    reason: str = ""
    seconds: float = 0.0


def pack_job(job: Job) -> dict[str, Any]:
    """A job as JSON-able content, with what its process needs of this one."""
    return {
        "run": dump_run_yaml(job.run),
        "folder": str(Path.cwd()),
        "files": {name: os.environ[name] for name in FILE_VARIABLES if os.environ.get(name)},
    }


def run_job(packed: dict[str, Any]) -> dict[str, Any]:
    """Carry out, in this process, what `pack_job` made; an JobOutcome as JSON-able content."""
    begin = time.monotonic()
    os.chdir(packed["folder"])
    os.environ.update(packed["files"])
    run = parse_run_yaml(packed["run"])
    status, reason = "done", ""
    try:
        with spare_imports():
            from undial_cli.pipeline import execute_run

        execute_run(run, show=False)
    except UserError as error:
        status, reason = "refused", str(error)
    except WorldError as error:
        status, reason = "failed", str(error)
    except Exception as error:
        status, reason = "failed", f"{type(error).__name__}: {error}"
    give_back_memory()  # this process may wait long for its next job
    # one line: it becomes a cell of a table
    reason = reason.strip().splitlines()[0] if reason.strip() else ""
    outcome = JobOutcome(status, locate_run_folder(run).path, reason, time.monotonic() - begin)
    return {**asdict(outcome), "folder": str(outcome.folder)}


def unpack_outcome(answer: dict[str, Any]) -> JobOutcome:
    """What `run_job` returned, as an JobOutcome."""
    return JobOutcome(answer["status"], Path(answer["folder"]), answer["reason"], answer["seconds"])
