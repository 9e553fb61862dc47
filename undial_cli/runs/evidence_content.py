"""The evidence of a run that is done: hashes of its data, weights, settings and results.

`keep_evidence` surrounds a run; what it leaves is a file of runs/evidence.py, which holds no text
of the data.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from undial_cli import __version__, ui
from undial_cli.config.identity import collect_identity, digest_json
from undial_cli.config.schema import AuditRun, Run, TrainingRun, UnlearnRun
from undial_cli.config.splits import cut_slice, list_splits
from undial_cli.errors import UserError, WorldError, first_line
from undial_cli.models.fingerprints import find_hub_commit
from undial_cli.runs.evidence import list_private_files, read_time, save_evidence, walk_files
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.run_folder import RESULT_FILES, read_json_object
from undial_cli.system.files import digest_file
from undial_cli.system.private_files import keep_ledgers
from undial_cli.system.processes import run_on_main
from undial_cli.system.source_paths import is_local_path, resolve_model_path

# Raised when the meaning of a field changes.
EVIDENCE_VERSION = 1
WEIGHT_ENDINGS = (".safetensors", ".bin", ".gguf")
# Keys of `data` that name splits, or a user's own files.
SPLIT_KEYS = ("forget_file", "retain_file", "train_file", "alternatives_file", "refusals",
              "requests", "forget_split", "retain_split", "train_split",
              "reference_split")  # fmt: skip


@contextlib.contextmanager
def keep_evidence(resolved: ResolvedRun) -> Iterator[None]:
    """Note which private files a run makes and reads, and write its evidence when it is done."""
    folder = resolved.folder
    # What a run that is done again left in the cache is still of this folder.
    noted = [file.path for file in list_private_files(folder)] if resolved.run.overwrite else []
    with keep_ledgers([folder.ledger], noted):
        yield
    run_on_main(lambda: complete_evidence(resolved))


def complete_evidence(resolved: ResolvedRun) -> None:
    """Write evidence.json of a run that is done, unless it says all already."""
    folder = resolved.folder
    if folder.status() != "done":
        return
    evidence = read_json_object(folder.evidence)
    is_current = evidence.get("ended") == read_time(folder.status_file)
    if is_current and not folder.ledger.exists():
        return
    try:
        save_evidence(folder, evidence if is_current else collect_evidence(resolved))
    except OSError as error:
        ui.say(f"no {folder.evidence} was written ({first_line(error)})", "yellow")


def collect_evidence(resolved: ResolvedRun) -> dict[str, Any]:
    """All that evidence.json says but the private files and what was purged."""
    run, folder = resolved.run, resolved.folder
    inputs, environment = read_json_object(folder.inputs), read_json_object(folder.environment)
    weights = {"before": describe_weights(resolved)}
    if isinstance(run, TrainingRun):
        weights["after"] = describe_model_at(str(folder.checkpoint))
    weights |= locate_retain_weights(resolved)
    results = (folder.path / name for name in RESULT_FILES)
    return {
        "version": EVIDENCE_VERSION,
        "undial": __version__,
        "command": run.command,
        "name": run.name or folder.path.name,
        "status": folder.status(),
        "begun": read_time(folder.run_yaml),
        "ended": read_time(folder.status_file),
        "settings": digest_json(collect_identity(run)),
        "data": inputs.get("digests", {}),
        "sources": list_sources(run),
        "weights": weights,
        "results": {
            str(file.relative_to(folder.path)): digest_file(file)
            for file in results
            if file.is_file()
        },
        "versions": {key: environment.get(key) for key in ("python", "packages", "commit")},
        "sent": list_recipients(run),
    }


def describe_weights(resolved: ResolvedRun) -> dict[str, Any]:
    """The model that a run worked on."""
    try:
        path = resolved.find_path(resolved.target_model)
    except (OSError, UserError, WorldError) as error:  # the data may be gone by now
        return {"unknown": first_line(error)}
    return describe_model_at(path)


def locate_retain_weights(resolved: ResolvedRun) -> dict[str, Any]:
    """Where the retain model lies that a run was compared with; nothing where it has none."""
    try:
        location = resolved.retain_model
        return {} if location is None else {"retain": {"path": resolved.find_path(location)}}
    except (OSError, UserError, WorldError):  # the data may be gone by now
        return {}


def describe_model_at(path: str) -> dict[str, Any]:
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
    names = [name for key in SPLIT_KEYS for name in list_splits(getattr(run.data, key))]
    paths = [run.data.path]
    for config in run.eval.sets.values():
        names += list_splits(config.split) if isinstance(config.split, str | list) else []
        paths.append(config.path)
    files = {Path(cut_slice(str(name))[0]).expanduser().absolute() for name in names}
    sources: list[dict[str, Any]] = [
        {"path": str(file), "sha256": digest_file(file)} for file in sorted(files) if file.is_file()
    ]
    for path in dict.fromkeys(filter(None, paths)):
        local = Path(path).expanduser()
        if path.startswith("pkg://"):
            sources.append({"package": path})
        elif local.is_file():
            sources.append({"path": str(local.absolute()), "sha256": digest_file(local)})
        elif local.exists() or is_local_path(path):
            digests = {str(f.relative_to(local)): digest_file(f) for f in walk_files(local)}
            sources.append({"path": str(local.absolute()), "sha256": digests})
        else:
            sources.append({"hub": path})
    return sources


def list_recipients(run: Run) -> list[dict[str, str]]:
    """To whom a run sends what, as its settings say; no setting sends the texts but the last."""
    sent = []
    if isinstance(run, TrainingRun):
        sent += [{"to": logger, "what": "figures of training"} for logger in run.train.report_to]
        if run.push_to_hub:
            sent.append({"to": run.push_to_hub, "what": "checkpoint and model card"})
    if isinstance(run, AuditRun | UnlearnRun) and run.audit.is_on and run.audit.judge.url:
        texts = "questions, true answers and replies of the audit"
        sent.append({"to": run.audit.judge.url, "what": texts})
    return sent
