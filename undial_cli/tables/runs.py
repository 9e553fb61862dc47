"""From a table to its runs: every line, column group and seed composed, and how each one stands.

A row without runs of its own (target, retain model) is a line all the same. Imports no torch.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from undial_cli.config.schema import Run
from undial_cli.config.tables import AcrossConfig, ReproduceConfig, RowConfig, TableConfig
from undial_cli.errors import UserError, bad_value
from undial_cli.reporting.collect import RunRecord, read_jsonl_objects, read_object
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_folder import RunFolder, locate_run_folder

MODEL_KEYS = re.compile(r"model\.(path|base|targets\.\w+\.(path|retain))|eval\.retain_model")
HUB_NAME = re.compile(r"[\w.-]+/[\w.{}-]+")
DONE, FAILED, REFUSED, MISSING = "done", "failed", "refused", "missing"


@dataclass(frozen=True, eq=False)
class TableLine:
    """A row in one of its sections."""

    row: RowConfig
    section: str


@dataclass
class TableRun:
    """One run of a table: its line, column group and seed, what it is, and how it stands."""

    line: TableLine
    across: str
    seed: int
    run: Run
    folder: RunFolder
    status: str = MISSING
    reason: str = ""
    seconds: float | None = None
    searched: str = ""  # the settings that a run of a search tries

    @property
    def position(self) -> str:
        """The line and column group that it is of."""
        line = ": ".join(filter(None, (self.line.section, self.line.row.label)))
        return ", ".join(filter(None, (line, self.across, self.searched)))

    @property
    def label(self) -> str:
        return f"{self.position}, seed {self.seed}"

    @property
    def values(self) -> dict[str, str]:
        """What tells it from the others."""
        names = {"section": self.line.section, "row": self.line.row.label, "across": self.across}
        names["search"] = self.searched
        return {key: name for key, name in names.items() if name} | {"seed": str(self.seed)}

    def read_status(self) -> None:
        """See in its folder how it stands; one that was cut off counts as missing."""
        content = read_object(self.folder.path / "status.json")
        ended = content.get("status") in (DONE, FAILED)
        self.status = content["status"] if ended else MISSING
        self.reason = content.get("reason", "") if ended else ""
        self.seconds = content.get("seconds")

    @functools.cached_property
    def record(self) -> RunRecord:
        """What reports read of it; to be asked for once it has ended."""
        folder = self.folder.path
        record = RunRecord(
            folder, self.status, self.reason, self.seconds, self.label, values=self.values
        )
        if self.status == DONE:
            record.results = read_object(folder / "evaluation" / "results.json")
            record.audit = read_object(self.folder.audit / "audit.json")
            record.steps = read_jsonl_objects(folder / "metrics.jsonl", [])
        return record


def list_table_lines(table: TableConfig, wanted: list[str]) -> list[TableLine]:
    """The wanted lines in order: those without a run first, then section by section."""
    lines = [TableLine(row, row.section) for row in table.rows if row.of and not row.section]
    for section in table.sections or [""]:
        lines += [
            TableLine(row, section)
            for row in table.rows
            if (row.section or not row.of) and row.section in ("", section)
        ]
    if not wanted:
        return lines
    names = {name for line in lines for name in (line.row.label, line.section) if name}
    chosen: set[str] = set()
    for word in wanted:
        # equal or a glob: a label may hold characters that a glob reads otherwise
        named = {
            n for n in names if n.lower() == word.lower() or fnmatchcase(n.lower(), word.lower())
        }
        if not named:
            raise bad_value("rows", word, names)
        chosen |= named
    return [line for line in lines if line.row.of or {line.row.label, line.section} & chosen]


def list_table_places(
    table: TableConfig, lines: list[TableLine]
) -> Iterator[tuple[TableLine, AcrossConfig]]:
    """Each line that has runs, in each column group in which it is run."""
    for line in (line for line in lines if not line.row.of):
        for group in table.across or [AcrossConfig()]:
            if not (group.label and line.row.across and group.label not in line.row.across):
                yield line, group


def compose_table_runs(
    asked: ReproduceConfig,
    lines: list[TableLine],
    words: list[str],
    folder: str | None,
    settings: Mapping[tuple[TableLine, str], Sequence[str]] | None = None,
) -> list[TableRun]:
    """All runs of the lines, composed and looked up; `words` are stronger than the table's.

    Args:
        settings: further words by line and column group, as a search found them.
    """
    runs = []
    for line, group in list_table_places(asked.table, lines):
        further = (settings or {}).get((line, group.label), ())
        for seed in asked.seeds or asked.table.seeds:
            runs.append(compose_table_run(asked, line, group, seed, words, folder, further))
    return runs


def compose_table_run(
    asked: ReproduceConfig,
    line: TableLine,
    group: AcrossConfig,
    seed: int,
    words: list[str],
    folder: str | None,
    further: Sequence[str] = (),
) -> TableRun:
    """One run of a line in a column group, looked up in its folder; `further`: of it alone."""
    table = asked.table
    overrides = [*table.overrides, *table.sections.get(line.section, [])]
    overrides += [*group.overrides, *line.row.overrides]
    if asked.models is not None:
        overrides = locate_models(overrides, asked.models)
    output = quote_hydra_value(asked.output_dir)
    overrides += [*further, *words, f"output_dir={output}", f"seed={seed}"]
    wanted = keep_last_words(overrides)
    run = compose_run(line.row.command or table.command, wanted, folder, typed=words)
    entry = TableRun(line, group.label, seed, run, locate_run_folder(run))
    entry.read_status()
    return entry


def quote_hydra_value(text: str) -> str:
    """A text quoted as Hydra reads it, whatever is in a path."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def locate_models(words: list[str], folder: str) -> list[str]:
    """Overrides whose published models, ORG/NAME, lie in a folder instead of on the hub."""
    root, located = Path(folder).expanduser().resolve(), []
    if not root.is_dir():
        raise UserError(f"models={folder}: no such folder")
    for word in words:
        key, _, value = word.partition("=")
        if MODEL_KEYS.fullmatch(key) and HUB_NAME.fullmatch(value):
            word = f"{key}={quote_hydra_value(str(root / value))}"
        located.append(word)
    return located


def keep_last_words(words: list[str]) -> list[str]:
    """Of several words for the same key the last one: Hydra refuses a group that is said twice."""
    last: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0]
        last.pop(key, None)  # its position is that of the last one too
        last[key] = word
    return list(last.values())


def find_lacking_keys(table: TableConfig, runs: list[TableRun]) -> dict[str, str]:
    """Keys that the user has to give and that some run lacks, with their meanings."""
    lacking = {}
    for key, meaning in table.needs.items():
        for value in (entry.run for entry in runs):
            for name in key.split("."):
                value = getattr(value, name, None)
            if value is None:
                lacking[key] = meaning
    return lacking
