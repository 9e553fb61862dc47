"""evidence.json: hashes of what went into a run and came out, and where text of it still lies.

Written when a run is done and again when files are added to it; what each field says stands in
docs/reliability.md. Holds no text of the data. Knows what rooms of a run and of the cache hold.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undial_cli import __version__, ui
from undial_cli.config.identity import collect_identity, digest_json
from undial_cli.config.schema import Run, TrainingRun
from undial_cli.config.splits import cut_slice
from undial_cli.errors import UserError, WorldError, first_line
from undial_cli.models.fingerprints import find_hub_commit
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.run_folder import RunFolder
from undial_cli.system.files import cache_dir, write_whole_text
from undial_cli.system.private_files import keep_ledger, read_ledger
from undial_cli.system.processes import run_on_main
from undial_cli.system.source_paths import is_local_path, resolve_model_path

EVIDENCE_VERSION = 1
TEXT, STATES = "text", "states"
# By the first folder of a run, and of the cache: what is private in it, and what that holds.
RUN_ROOMS = {
    "evaluation": ("samples", TEXT),
    "report": ("report", TEXT),
    "audit": ("answers of an audit", TEXT),
    "resume": ("state to resume from", STATES),
}
CACHE_ROOMS = {
    "evaluations": ("cached evaluation", TEXT),
    "audits": ("cached answers of an audit", TEXT),
    "datasets": ("copy of the data", TEXT),
    "teacher": ("the teacher's signal", STATES),
    "relearning": ("state of an attack's training", STATES),
}
WEIGHT_ENDINGS = (".safetensors", ".bin", ".gguf")
# Keys of `data` that name a user's own files, where data.path names no folder or hub set.
FILE_KEYS = ("forget_file", "retain_file", "train_file", "refusals")


@dataclass(frozen=True)
class PrivateFile:
    """A file that holds text of the data or states made from it; `holds`: text or states."""

    path: Path
    kind: str
    holds: str

    def record(self, folder: Path) -> dict[str, Any]:
        """As evidence.json has it: inside the run's folder by its relative path."""
        inside = self.path.is_relative_to(folder)
        shown = self.path.relative_to(folder) if inside else self.path
        size = self.path.stat().st_size
        return {"path": str(shown), "kind": self.kind, "holds": self.holds, "bytes": size}


@contextlib.contextmanager
def keep_evidence(resolved: ResolvedRun) -> Iterator[None]:
    """Note which private files a run makes and reads, and write its evidence when it is done."""
    folder = resolved.folder
    with keep_ledger(folder.ledger):
        yield
        run_on_main(lambda: complete_evidence(resolved))


def complete_evidence(resolved: ResolvedRun) -> None:
    """Write evidence.json of a run that is done, unless it says all already."""
    folder = resolved.folder
    if folder.status() != "done" or (folder.evidence.is_file() and not folder.ledger.exists()):
        return
    try:
        save_evidence(folder, read_evidence(folder) or collect_evidence(resolved))
    except OSError as error:
        ui.say(f"no {folder.evidence} was written ({first_line(error)})", "yellow")


def save_evidence(folder: RunFolder, content: dict[str, Any]) -> None:
    """Write evidence.json with the private files that are there now; the ledger is part of it."""
    files = list_private_files(folder)
    content["files"] = [file.record(folder.path.absolute()) for file in files]
    write_whole_text(folder.evidence, json.dumps(content, indent=2) + "\n")
    if folder.status() == "done":
        folder.ledger.unlink(missing_ok=True)


def read_evidence(folder: RunFolder) -> dict[str, Any]:
    """The content of evidence.json; empty where there is none that can be read."""
    return read_json_object(folder.evidence)


def read_json_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def collect_evidence(resolved: ResolvedRun) -> dict[str, Any]:
    """All that evidence.json says but the private files."""
    run, folder = resolved.run, resolved.folder
    inputs, environment = read_json_object(folder.inputs), read_json_object(folder.environment)
    weights = {"before": describe_weights(resolved.find_path(resolved.target_model))}
    if isinstance(run, TrainingRun):
        weights["after"] = describe_weights(str(folder.checkpoint))
    results = folder.evaluation / "results.json"
    return {
        "version": EVIDENCE_VERSION,
        "undial": __version__,
        "command": run.command,
        "name": run.name or folder.path.name,
        "begun": format_time(folder.run_yaml.stat().st_mtime),
        "done": format_time(time.time()),
        "settings": digest_json(collect_identity(run)),
        "data": inputs.get("digests", {}),
        "sources": list_sources(run),
        "weights": weights,
        "results": digest_file(results) if results.is_file() else None,
        "versions": {key: environment.get(key) for key in ("python", "packages", "commit")},
        "loggers": list(run.train.report_to) if isinstance(run, TrainingRun) else [],
        "files": [],
        "purged": [],
    }


def describe_weights(path: str) -> dict[str, Any]:
    """Where a model lies, with the SHA-256 of each file of weights, or its commit on the hub."""
    try:
        source = resolve_model_path(path)
        if not source.local:
            return {"hub": source.path, "commit": find_hub_commit(source)}
        folder = Path(source.path)
        files = [folder / source.gguf_file] if source.gguf_file else sorted(folder.rglob("*.*"))
        hashes = {
            str(file.relative_to(folder)): digest_file(file)
            for file in files
            if file.suffix in WEIGHT_ENDINGS and file.is_file()
        }
        return {"path": str(folder), "sha256": hashes}
    except (OSError, UserError, WorldError) as error:
        return {"path": path, "unknown": first_line(error)}


def list_sources(run: Run) -> list[dict[str, Any]]:
    """Where the data came from: files with their SHA-256, folders, data sets on the hub."""
    data = run.data
    names: list[str] = []
    for key in FILE_KEYS:
        value = getattr(data, key)
        names += value if isinstance(value, list) else [value] if value else []
    if data.path is None:
        names += data.requests
    files = {Path(cut_slice(str(name))[0]).expanduser() for name in names}
    sources = [
        {"path": str(file.absolute()), "sha256": digest_file(file)}
        for file in sorted(files)
        if file.is_file()
    ]
    path = data.path
    if path is not None:
        is_hub = not is_local_path(path) and "://" not in path and not Path(path).exists()
        sources.append({"hub" if is_hub else "path": path})
    return sources


def digest_file(file: Path) -> str:
    """The SHA-256 of a file, as `sha256sum` prints it."""
    total = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 22):
            total.update(block)
    return total.hexdigest()


def format_time(seconds: float) -> str:
    """A moment in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def list_private_files(folder: RunFolder) -> list[PrivateFile]:
    """The private files of a run that are there: those of its evidence and of its ledger."""
    root = folder.path.absolute()
    recorded = read_evidence(folder).get("files")
    known = [root / str(entry.get("path")) for entry in recorded or [] if isinstance(entry, dict)]
    files: dict[Path, PrivateFile] = {}
    for path in [*known, *read_ledger(folder.ledger)]:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not file.is_symlink():
                files[file] = describe_private_file(file, root)
    return list(files.values())


def describe_private_file(file: Path, root: Path) -> PrivateFile:
    """What a private file of the run in `root` is, by the room that it lies in."""
    for rooms, base in ((RUN_ROOMS, root), (CACHE_ROOMS, cache_dir().absolute())):
        if file.is_relative_to(base):
            kind, holds = rooms.get(file.relative_to(base).parts[0], ("other", TEXT))
            return PrivateFile(file, kind, holds)
    return PrivateFile(file, "other", TEXT)
