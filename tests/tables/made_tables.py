"""Small tables, and run folders with given figures, as the runs of a table would have left them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from undial_cli.config.tables import ReproduceConfig, TableConfig
from undial_cli.runs.run_yaml import dump_run_yaml
from undial_cli.tables import command, load, render, runs
from undial_cli.tables.figures import FilledTable, fill_table
from undial_cli.tables.runs import TableRun

SMALL = """
title: A small table
source: a paper
overrides: [train.max_steps=4]
columns:
  - {name: forget, metric: [forget_rouge], format: .2f, better: lower, tolerance: 0.1}
  - {name: retain, metric: [retain_rouge], format: .2f, better: higher, relative_tolerance: 0.2}
rows:
  - {label: target, of: target}
  - {label: undial, overrides: [method=undial], reference: {forget: 0.3, retain: 0.9}}
  - {label: ga, overrides: [method=ga]}
"""


def asked_of(text: str, folder: Path, **keys: Any) -> ReproduceConfig:
    """A table from its text, without a file, and where its runs go."""
    config = OmegaConf.merge(OmegaConf.structured(TableConfig), OmegaConf.create(text))
    table: Any = OmegaConf.to_object(config)
    load.complete_table(table)
    return ReproduceConfig(table=table, output_dir=str(folder), **keys)


def made(asked: ReproduceConfig, act: Callable[[TableRun], None]) -> FilledTable:
    """A table after `act` has made the folder of each of its runs."""
    lines = runs.list_table_lines(asked.table, asked.rows)
    entries = runs.compose_table_runs(asked, lines, [], None)
    for entry in entries:
        act(entry)
        entry.read_status()
    return fill_table(asked.table, "small", lines, entries)


def long_rows(filled: FilledTable) -> list[dict[str, str]]:
    """The rows of table.csv."""
    return list(csv.DictReader(render.format_long_csv(filled).splitlines()))


def write_table(folder: Path, text: str = SMALL, name: str = "small") -> list[str]:
    """A table in a config folder of its own; the words that ask for it."""
    (folder / "table").mkdir(parents=True, exist_ok=True)
    (folder / "table" / f"{name}.yaml").write_text(text)
    return [f"table={name}", "--config-dir", str(folder)]


def runs_of(words: list[str]) -> list[TableRun]:
    """The runs of a table."""
    own, others, folder = load.split_table_words(words)
    asked = load.load_table(own, folder)
    return runs.compose_table_runs(
        asked, runs.list_table_lines(asked.table, asked.rows), others, folder
    )


def finish(entry: TableRun, metrics: dict[str, float], **results: Any) -> None:
    """The folder of a run that is done with these figures."""
    folder = entry.folder
    folder.evaluation.mkdir(parents=True)
    folder.run_yaml.write_text("command: unlearn\n")  # not read by a table
    folder.set_status("done")
    content = {"metrics": metrics, "target": {}, "reference": {}, "missing": {}, **results}
    (folder.evaluation / "results.json").write_text(json.dumps(content))


def fail(entry: TableRun, reason: str) -> None:
    """The folder of a run that failed."""
    entry.folder.path.mkdir(parents=True)
    entry.folder.set_status("failed", reason)


def finish_all(words: list[str], figures: Callable[[TableRun], dict[str, Any]]) -> None:
    """All runs of a table are done; `figures` gives the contents of results.json."""
    for entry in runs_of(words):
        found = figures(entry)
        finish(entry, found.pop("metrics"), **found)
        entry.folder.run_yaml.write_text(dump_run_yaml(entry.run))


def reproduced(words: list[str]) -> tuple[int, list[dict[str, str]]]:
    """The command's exit code and the rows of table.csv."""
    code = command.run_reproduce_command(words)
    output = next(w.partition("=")[2] for w in words if w.startswith("output_dir="))
    name = next(w.partition("=")[2] for w in words if w.startswith("table="))
    with open(Path(output) / "reproduce" / name / "table.csv", newline="") as file:
        return code, list(csv.DictReader(file))
