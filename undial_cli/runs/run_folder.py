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

from undial_cli import ui
from undial_cli.config.identity import collect_identity, make_default_name
from undial_cli.config.schema import Run
from undial_cli.errors import UserError, WorldError
from undial_cli.runs.hydra_configs import PACKAGE_FOLDER
from undial_cli.runs.run_yaml import dump_run_yaml, load_run
from undial_cli.system.files import (
    MODEL_FILES,
    cache_dir,
    hash_files,
    overwrite_text,
    parse_json,
    remove_folder,
    write_whole_text,
)
from undial_cli.system.private_files import LEDGER_FILE

# Commands that compose a run, or take the folder of one and look at its checkpoint.
FOLLOW_UPS = ("audit", "evaluate")
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


# Of a file: its size, the time of its last change in ns, the hash of its content (hash_files).
FileState = tuple[int, int, str]
# What a finished run stands for, by where it lies in the folder.
RESULT_FILES = ("evaluation/results.json", "audit/audit.json", "alternatives.json")


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
    status_file = InFolder("status.json")
    inputs = InFolder("inputs.json")  # hashes of what the run read, and what became of the rows
    environment = InFolder("environment.json")  # what it ran on; exists once it has begun
    evidence = InFolder("evidence.json")  # hashes of what went in and came out, private files
    ledger = InFolder(LEDGER_FILE)  # private files as they are made, until it is done
    log = InFolder("log.txt")  # what the screen said, and tracebacks
    checkpoint = InFolder("checkpoint")  # the trained model, in Hugging Face format
    resume = InFolder("resume")  # trainer state, until the run is done
    evaluation = InFolder("evaluation")  # results.json and samples.jsonl
    audit = InFolder("audit")  # audit.json, and the answers that attacks got
    alternatives = InFolder("alternatives.json")  # counts of drawn answers, and where they lie
    report = InFolder("report")  # the page, its pictures, the summary table as files

    def status(self) -> str:
        """`planned`, `running`, `done`, `failed`, `interrupted`, or `""` where none is readable."""
        return str(read_json_object(self.status_file).get("status", ""))

    def set_status(
        self,
        status: str,
        reason: str = "",
        seconds: float | None = None,
        files: dict[str, FileState] | None = None,
        selected: dict[str, Any] | None = None,
    ) -> None:
        """Write status.json.

        Args:
            seconds: wall time of a run that was done in one go.
            files: what a finished run stands for, to be known again.
            selected: the step whose weights were chosen, and by what.
        """
        content: dict[str, Any] = {"status": status, **({"reason": reason} if reason else {})}
        if seconds is not None:
            content["seconds"] = round(seconds, 1)
        content |= {"selected": selected} if selected else {}
        content |= {"files": files} if files else {}
        file, text = self.status_file, json.dumps(content) + "\n"
        try:
            write_whole_text(file, text)
        except OSError:
            if not file.is_file():
                raise
            overwrite_text(file, text)

    def has_checkpoint(self) -> bool:
        """Whether a trained model lies in checkpoint/; an empty folder is none.

        Raises:
            WorldError: something else does.
        """
        files = list(self.checkpoint.rglob("*")) if self.checkpoint.is_dir() else []
        if files and not any(file.suffix == ".safetensors" for file in files):
            raise WorldError(f"{self.checkpoint}: holds no weights; remove it, or overwrite=true")
        return bool(files)


def find_trained_run(command: str, path: str) -> RunFolder:
    """The folder of a run that a command takes the checkpoint of.

    Raises:
        UserError: no run folder, or no checkpoint in it.
    """
    folder = RunFolder(Path(path).expanduser())
    if not folder.run_yaml.is_file():
        if (folder.path / "config.json").is_file():
            named = "name its run"
            if command in FOLLOW_UPS:
                named = f"name it with model.path={path}"
            raise UserError(f"{command} {path}: a checkpoint, not a run; {named}")
        raise UserError(f"{command} {path}: no run folder (no run.yaml there)")
    if not folder.checkpoint.is_dir():
        raise UserError(
            f"{command} {path}: the run has no checkpoint (status: {folder.status()}); unlearn and "
            "finetune leave one"
        )
    return folder


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
    links = [p for p in folder.path.iterdir() if p.is_symlink() and not p.is_dir()]
    if links:  # a line of the log would be added to whatever it is a link to
        raise UserError(f"name={run.name}: {links[0]} is a link; a run's files are no links")
    if not folder.run_yaml.is_file():
        # Hidden files may be leftovers of a write that was killed, or of a file system; the ledger
        # is of a run that was interrupted before all else.
        names = {p.name for p in folder.path.iterdir()} - {folder.ledger.name}
        if any(not name.startswith(".") for name in names):
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
    if run.overwrite or run.command in ("evaluate", "audit", "alternatives"):
        return
    recorded = read_json_object(folder.inputs)
    if not recorded:
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
    if run.overwrite:
        remove_folder(folder.path)
    if not run.resume and folder.resume.exists():
        shutil.rmtree(folder.resume)
    folder.path.mkdir(parents=True, exist_ok=True)
    if not folder.run_yaml.is_file():
        write_whole_text(folder.run_yaml, dump_run_yaml(run))
    if inputs is not None:
        write_whole_text(folder.inputs, json.dumps(inputs) + "\n")
    folder.set_status("planned")


def read_json_object(file: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is none, or another thing."""
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def list_result_files(folder: RunFolder) -> dict[str, FileState]:
    """Weights, their configs and the results of a finished run, by path in its folder."""
    weights = (file for file in folder.checkpoint.rglob("*") if file.suffix in MODEL_FILES)
    results = (folder.path / name for name in RESULT_FILES)
    states = {}
    for file in (*sorted(weights), *results):
        if file.is_file():
            size, changed = read_file_times(file)
            states[str(file.relative_to(folder.path))] = (size, changed, hash_files(file))
    return states


def read_file_times(file: Path) -> tuple[int, int]:
    """A file's size in bytes and the time of its last change in nanoseconds."""
    state = file.stat()
    return state.st_size, state.st_mtime_ns


def check_result_files(folder: RunFolder) -> None:
    """A finished run is what it was when it was done, or is not believed.

    One in the cache was made for others, and is removed: it is made anew.

    Raises:
        WorldError: a file of a run that the user asked for was changed or is gone.
    """
    if not (fault := find_changed_file(folder)):
        return
    line = f"{folder.path}: {fault} since this run was done"
    if folder.path.absolute().is_relative_to(cache_dir().absolute()):
        ui.say(f"{line}; it is done again", "yellow")
        remove_folder(folder.path)
        return
    raise WorldError(
        f"{line}; overwrite=true does it again, and so does the command once the folder is removed"
    )


def find_changed_file(folder: RunFolder) -> str:
    """What was changed of a finished run's files, or is gone, in words; "" if nothing.

    A file of the same size and time is the same; of others the content decides, so that a run may
    be copied.
    """
    files = read_json_object(folder.status_file).get("files", {})
    for name, (size, changed, digest) in files.items() if isinstance(files, dict) else ():
        file = folder.path / name
        if not file.is_file():
            return f"{name} is gone"
        if read_file_times(file) != (size, changed) and hash_files(file) != digest:
            return f"{name} was changed"
    return ""


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
