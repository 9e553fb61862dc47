"""The folder of a run: run.yaml, status.json, environment.json, log.txt and where the rest goes.

Decides whether a folder is new, finished, to be resumed, or somebody else's. Knows no models.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from undial_cli.config.identity import collect_identity, make_default_name
from undial_cli.config.schema import Run
from undial_cli.errors import UserError
from undial_cli.runs.compose import PACKAGE_FOLDER
from undial_cli.runs.run_yaml import dump_run_yaml, load_run
from undial_cli.system.files import write_whole_text

RECORDED_PACKAGES = (
    "undial",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "hydra-core",
    "tokenizers",
)


class InFolder:
    """A file or folder of a run, by its name in the run's folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: RunFolder, owner: type) -> Path:
        return folder.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    run_yaml = InFolder("run.yaml")  # the fully resolved run
    inputs = InFolder("inputs.json")  # hashes of what the run read, and what became of the rows
    environment = InFolder("environment.json")  # what it ran on; exists once it has begun
    evidence = InFolder("evidence.json")  # hashes of what went in and came out, private files
    ledger = InFolder("private_files.txt")  # private files as they are made, until it is done
    log = InFolder("log.txt")  # what the screen said, and tracebacks
    checkpoint = InFolder("checkpoint")  # the trained model, in Hugging Face format
    resume = InFolder("resume")  # trainer state, until the run is done
    evaluation = InFolder("evaluation")  # results.json and samples.jsonl
    audit = InFolder("audit")  # audit.json, and the answers that attacks got
    report = InFolder("report")  # the page, its pictures, the summary table as files

    def status(self) -> str:
        """`planned`, `running`, `done`, `failed`, or `""` where there is no readable status."""
        try:
            return json.loads((self.path / "status.json").read_text())["status"]
        except (OSError, ValueError, KeyError):
            return ""

    def set_status(self, status: str, reason: str = "", seconds: float | None = None) -> None:
        """Write status.json; `seconds`: wall time of a run that was done in one go."""
        content: dict[str, Any] = {"status": status, **({"reason": reason} if reason else {})}
        if seconds is not None:
            content["seconds"] = round(seconds, 1)
        write_whole_text(self.path / "status.json", json.dumps(content) + "\n")


def locate_run_folder(run: Run) -> RunFolder:
    """Where a run lives: output_dir/command/name."""
    return RunFolder(
        Path(run.output_dir).expanduser() / run.command / (run.name or make_default_name(run))
    )


def check_run_folder(run: Run, folder: RunFolder) -> None:
    """Raise UserError if the folder belongs to another run."""
    if not folder.path.exists():
        return
    if not folder.path.is_dir():
        raise UserError(f"name={run.name}: {folder.path} is a file")
    if not folder.run_yaml.is_file():
        # Hidden files may be leftovers of a write that was killed, or of a file system.
        if any(not p.name.startswith(".") for p in folder.path.iterdir()):
            raise UserError(f"name={run.name}: {folder.path} is not empty and holds no run.yaml")
        return
    if run.overwrite:
        return
    try:
        other = collect_identity(load_run(folder.run_yaml))
    except UserError as error:
        raise UserError(
            f"name={run.name}: {folder.run_yaml} cannot be read ({error}); take another name or "
            "overwrite=true"
        ) from error
    ours = collect_identity(run)
    differing = sorted(key for key in ours | other if ours.get(key) != other.get(key))
    if differing:
        raise UserError(
            f"name={run.name}: {folder.path} holds a run with other settings "
            f"({', '.join(differing)}); take another name or overwrite=true"
        )


def check_input_fingerprint(run: Run, folder: RunFolder, fingerprint: dict[str, str]) -> None:
    """Raise UserError if the data or the model changed since the folder's run began."""
    if run.overwrite or run.command in ("evaluate", "audit"):
        return
    try:
        recorded = json.loads(folder.inputs.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    changed = [name for name in fingerprint if recorded.get(name) != fingerprint[name]]
    if changed:
        raise UserError(
            f"{folder.path}: the {' and the '.join(changed)} changed since this run began; take "
            "another name or overwrite=true"
        )


def create_run_folder(run: Run, folder: RunFolder, inputs: dict[str, Any] | None) -> None:
    """Make the folder of a run that is about to start (or go on).

    Args:
        inputs: hashes of what the run reads and counts of its rows, where they are known.
    """
    if run.overwrite and folder.path.exists():
        shutil.rmtree(folder.path)
    if not run.resume and folder.resume.exists():
        shutil.rmtree(folder.resume)
    folder.path.mkdir(parents=True, exist_ok=True)
    if not folder.run_yaml.is_file():
        write_whole_text(folder.run_yaml, dump_run_yaml(run))
    if inputs is not None:
        write_whole_text(folder.inputs, json.dumps(inputs) + "\n")
    folder.set_status("planned")


def write_environment(run: Run, folder: RunFolder, processes: int) -> None:
    """environment.json: versions, commit, devices, seed. No user's environment variables."""
    import torch

    versions = {}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    content: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "commit": read_commit(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        or [f"cpu ({torch.get_num_threads()} threads)"],
        "processes": processes,
        "seed": run.seed,
    }
    write_whole_text(folder.environment, json.dumps(content, indent=2) + "\n")


def read_commit() -> str | None:
    """The commit of the checkout that the package runs from, if it runs from one."""
    if not (PACKAGE_FOLDER.parent / ".git").exists():
        return None
    try:
        return subprocess.check_output(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=PACKAGE_FOLDER.parent,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=10,
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None
