"""From run folders to plain dataclasses. Files that are missing or broken become notes, not errors.

Reads what a run leaves (status.json, run.yaml, results.json, ...). Knows no page and no picture.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undial_cli.reporting.text import parse_first_number, parse_number
from undial_cli.system.files import parse_json

# Beside a checkpoint there are no runs; looking through it takes time.
FOLDERS_WITHOUT_RUNS = ("checkpoint", "resume", "evaluation", "report", "__pycache__")
AUDIT_FOLDER = "audit"
RUN_FILES = ("run.yaml", "status.json")


def get_part(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object of results.json; empty where there is none."""
    content = results.get(name)
    return content if isinstance(content, dict) else {}


def list_request_figures(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures after each of sequential requests; empty for other runs."""
    requests = results.get("requests")
    requests = requests if isinstance(requests, list) else []
    return [get_part(request, "metrics") for request in requests if isinstance(request, dict)]


@dataclass
class RunRecord:
    """What is known of one run.

    Attributes:
        label: what tells it from the others; short: the same for pictures.
        values: the keys that differ between the runs, with their values.
        settings: run.yaml, flat; nested: as it is.
        results: results.json; audit: audit.json.
        steps: rows of metrics.jsonl; parts: those of sequential requests.
        problems: what could not be read, a line each.
    """

    folder: Path
    status: str = ""
    reason: str = ""
    seconds: float | None = None
    label: str = ""
    short: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    nested: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    parts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def figures(self, name: str = "metrics") -> dict[str, Any]:
        """`metrics`, `target` or `reference` (the retain model) of results.json."""
        return get_part(self.results, name)

    @property
    def command(self) -> str:
        """`unlearn`, `finetune`, `evaluate`, or what the folder is named after."""
        return str(self.settings.get("command") or self.folder.parent.name)

    @property
    def title(self) -> str:
        """The run in words: unlearn tiny on demo with undial."""
        names = [self.settings.get(f"{key}.name") for key in ("model", "data", "method")]
        words = f"{self.command} {names[0]} on {names[1]}" if names[0] else self.folder.name
        return words + (f" with {names[2]}" if names[0] and names[2] else "")

    @property
    def group(self) -> str:
        """What points of a picture are grouped by: the method."""
        return str(self.values.get("method") or self.settings.get("method.name") or self.command)


@dataclass
class RunCollection:
    """The runs of a report, and what a sweep says of them."""

    title: str
    runs: list[RunRecord]
    words: list[str] = field(default_factory=list)


def make_sweep_text(
    command: str, words: list[str], title: str, runs: list[RunRecord], folder: Path
) -> str:
    """The sweep.json of runs that belong together, for `folder`; `collect` reads it."""
    entries = [
        {
            "label": run.label,
            "values": run.values,
            "folder": os.path.relpath(run.folder, folder),
            "status": run.status,
            "reason": run.reason,
            "seconds": run.seconds,
        }
        for run in runs
    ]
    content = {"command": command, "words": words, "title": title, "runs": entries}
    return json.dumps(content, indent=2) + "\n"


def find_run_folders(path: Path) -> Iterator[Path]:
    """The run folders at or below a path; the parts of a run are not runs of their own."""
    if any((path / name).is_file() for name in RUN_FILES):
        yield path
        return
    for inner in sorted(path.iterdir()) if path.is_dir() else []:
        skipped = inner.name in FOLDERS_WITHOUT_RUNS or inner.name.startswith(".")
        # a link to a folder that it stands in would lead round for ever
        circular = inner.is_symlink() and path.resolve().is_relative_to(inner.resolve())
        if inner.is_dir() and not skipped and not circular:
            yield from find_run_folders(inner)


def find_sweep_runs(path: Path) -> list[Path]:
    """The run folders that a sweep's folder names, those that are there; they lie elsewhere."""
    entries = read_object(path / "sweep.json").get("runs")
    entries = entries if isinstance(entries, list) else []
    named = [entry.get("folder") for entry in entries if isinstance(entry, dict)]
    folders = [path / str(folder) for folder in named if folder]
    return [folder for folder in folders if any((folder / name).is_file() for name in RUN_FILES)]


def collect_runs(paths: list[Path]) -> RunCollection:
    """The runs at the paths: run folders, sweep folders, or folders with runs below them.

    A run that is met twice counts once.
    """
    records: dict[str, RunRecord] = {}
    titles: list[str] = []
    words: list[str] = []
    for path in paths:
        sweep = read_object(path / "sweep.json")
        if isinstance(sweep.get("runs"), list):
            titles.append(to_single_line(sweep.get("title")) or path.name)
            if isinstance(sweep.get("words"), list):
                words += map(to_single_line, sweep["words"])
            for entry in sweep["runs"]:
                if isinstance(entry, dict):
                    folder = path / str(entry.get("folder") or f"run {len(records) + 1}")
                    records.setdefault(os.path.realpath(folder), read_sweep_entry(folder, entry))
            continue
        for folder in find_run_folders(path):
            records.setdefault(os.path.realpath(folder), read_run_record(folder))
    runs = list(records.values())
    if not titles:
        titles.append(runs[0].title if len(runs) == 1 else f"{len(runs)} runs")
    return RunCollection(", ".join(titles), runs, words)


def read_sweep_entry(folder: Path, entry: dict[str, Any]) -> RunRecord:
    """A run of a sweep: its folder where there is one, and what the sweep says of it."""
    run = read_run_record(folder) if folder.is_dir() else RunRecord(folder)
    status = to_single_line(entry.get("status"))
    if not run.status:
        run.status = status or "missing"
    elif status in ("failed", "refused") and run.status != "done":
        # a run that was killed left "running" in its folder; the sweep saw how it ended
        run.status = status
    run.reason = run.reason or to_single_line(entry.get("reason"))
    if run.seconds is None:
        run.seconds = parse_number(entry.get("seconds"))
    run.label = to_single_line(entry.get("label"))
    run.values = get_part(entry, "values")
    return run


def read_run_record(folder: Path) -> RunRecord:
    """All that a run folder holds and that can be read; the rest is noted in `problems`."""
    problems: list[str] = []
    status = read_object(folder / "status.json", problems)
    run = RunRecord(
        folder,
        status=to_single_line(status.get("status")) or "unknown",
        reason=to_single_line(status.get("reason")),
        seconds=parse_number(status.get("seconds")),
        nested=read_object(folder / "run.yaml", problems, parse_yaml),
        environment=read_object(folder / "environment.json", problems),
        problems=problems,
    )
    run.settings = dict(flatten_settings(run.nested))
    evaluated = run.settings.get("eval.name") != "none"
    wanted = run.status == "done" and evaluated
    run.results = read_object(folder / "evaluation" / "results.json", problems if wanted else None)
    if run.status == "done" and not evaluated and not run.results:
        problems.append("eval=none: nothing was evaluated")
    run.audit = read_object(folder / AUDIT_FOLDER / "audit.json")
    run.steps = read_jsonl_objects(folder / "metrics.jsonl", problems)
    for request in sorted(folder.glob("request_*"), key=lambda path: parse_first_number(path.name)):
        if rows := read_jsonl_objects(request / "metrics.jsonl", problems):
            run.parts[request.name.replace("_", " ")] = rows
    rows = read_jsonl_objects(folder / "evaluation" / "samples.jsonl", problems)
    run.samples = [row for row in rows if "set" in row]
    count = run.results.get("samples")
    purged = read_object(folder / "evidence.json").get("purged")
    if isinstance(purged, list) and purged and not run.samples:
        problems.append("its texts were removed by undial purge (evidence.json)")
    elif isinstance(count, int) and count != len(run.samples):
        problems.append(f"evaluation/samples.jsonl: {len(run.samples)} of {count} samples")
    return run


def parse_file(file: Path, parse: Callable[[str], Any], problems: list[str]) -> Any:
    """What `parse` makes of a file's text; None, with a note in `problems`, where it cannot."""
    try:
        return parse(file.read_bytes().decode("utf-8", errors="replace"))
    except FileNotFoundError:
        problems.append(f"{name_run_file(file)}: missing")
    except Exception as error:  # the YAML reader raises many kinds
        problems.append(f"{name_run_file(file)}: cannot be read ({type(error).__name__})")
    return None


def read_object(
    file: Path, problems: list[str] | None = None, parse: Callable[[str], Any] = json.loads
) -> dict[str, Any]:
    """A JSON object; empty, with a note in `problems`, where there is none that can be read."""
    problems = [] if problems is None else problems
    content = parse_file(file, parse, problems)
    if isinstance(content, dict):
        return {str(key): value for key, value in content.items()}
    if content is not None:
        kind = "JSON object" if parse is json.loads else "mapping"
        problems.append(f"{name_run_file(file)}: no {kind}")
    return {}


def parse_yaml(text: str) -> Any:
    """The content of a YAML file, interpolations as they are."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.create(text))


def read_jsonl_objects(file: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The objects of a JSONL file up to the first line that is cut or broken; that is noted."""
    text = parse_file(file, str, problems) if file.exists() else None
    rows: list[Any] = []
    for number, line in enumerate((text or "").split("\n"), 1):
        try:
            rows += [parse_json(line)] if line.strip() else []
        except ValueError:
            # the last line of a run that was killed; what follows a broken one cannot be trusted
            cut = f"cut or broken at line {number}; read up to there"
            problems.append(f"{name_run_file(file)}: {cut}")
            break
    return [row for row in rows if isinstance(row, dict)]


def name_run_file(file: Path) -> str:
    inside = file.parent.name.startswith(("evaluation", "request_"))
    return f"{file.parent.name}/{file.name}" if inside else file.name


def to_single_line(value: Any) -> str:
    return "" if value is None else " ".join(str(value).split())


def flatten_settings(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf of a mapping; an empty mapping is a leaf."""
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from flatten_settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
