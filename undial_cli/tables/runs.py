"""From a table to its runs: every line, column group and seed composed, and how each one stands.

Reads status.json of run folders and nothing of what is in them. Imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from undial_cli.config.schema import Run
from undial_cli.config.tables import ReproduceConfig, RowConfig, TableConfig
from undial_cli.errors import bad_value
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_folder import RunFolder, locate_run_folder

DONE, FAILED, REFUSED, MISSING = "done", "failed", "refused", "missing"


@dataclass(frozen=True, eq=False)
class TableLine:
    """A row in one of its sections."""

    row: RowConfig
    section: str

    @property
    def name(self) -> str:
        """What it is called in notes."""
        return f"{self.section}: {self.row.label}" if self.section else self.row.label


@dataclass
class TableRun:
    """One run of a table: where it stands there, what it is, and how it stands."""

    line: TableLine
    across: str
    seed: int
    run: Run
    folder: RunFolder
    status: str = MISSING
    reason: str = ""
    seconds: float | None = None

    @property
    def place(self) -> str:
        """Where it stands in the table."""
        return ", ".join(part for part in (self.line.name, self.across) if part)

    @property
    def label(self) -> str:
        """Its name among the table's runs."""
        return f"{self.place}, seed {self.seed}"

    @property
    def values(self) -> dict[str, str]:
        """What tells it from the others."""
        found = {"section": self.line.section, "row": self.line.row.label, "across": self.across}
        return {k: v for k, v in found.items() if v} | {"seed": str(self.seed)}

    def look(self) -> None:
        """Read how it stands from its folder; a refusal, which leaves none, is kept."""
        try:
            found = json.loads((self.folder.path / "status.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = {}
        status = found.get("status")
        self.seconds = found.get("seconds")
        if status in (DONE, FAILED):
            self.status, self.reason = status, found.get("reason", "")
        elif self.status != REFUSED:
            self.status, self.reason = MISSING, ""


def keep_last_words(words: list[str]) -> list[str]:
    """Of several words for the same key the last one, as on the command line."""
    found: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0]
        found.pop(key, None)
        found[key] = word
    return list(found.values())


def list_table_lines(table: TableConfig, wanted: list[str]) -> list[TableLine]:
    """The table's lines in order: those without a run first, then section by section.

    Raises:
        UserError: a wanted row or section does not exist.
    """
    sections = list(table.sections) or [""]
    found = [TableLine(row, row.section) for row in table.rows if row.of and not row.section]
    for section in sections:
        found += [
            TableLine(row, section)
            for row in table.rows
            if (row.section or not row.of) and row.section in ("", section)
        ]
    if not wanted:
        return found
    lowered = {word.lower(): word for word in wanted}
    known = [name for line in found for name in (line.row.label, line.section) if name]
    for low, word in lowered.items():
        if low not in (name.lower() for name in known):
            raise bad_value("rows", word, set(known))
    return [
        line
        for line in found
        if line.row.of or {line.row.label.lower(), line.section.lower()} & set(lowered)
    ]


def compose_table_runs(
    asked: ReproduceConfig, lines: list[TableLine], words: list[str], folder: str | None
) -> list[TableRun]:
    """All runs of the lines, composed and looked up; seeds stand side by side.

    Raises:
        UserError: an override is wrong.
    """
    table = asked.table
    found: list[TableRun] = []
    for line in lines:
        if line.row.of:
            continue
        for across in table.across or [None]:
            if across is not None and line.row.across and across.label not in line.row.across:
                continue
            own = [*table.overrides, *table.sections.get(line.section, [])]
            own += [*(across.overrides if across else []), *line.row.overrides, *words]
            own.append(f"output_dir={quote_for_hydra(asked.output_dir)}")
            for seed in asked.seeds or table.seeds:
                wanted = keep_last_words([*own, f"seed={seed}"])
                run = compose_run(line.row.command or table.command, wanted, folder)
                label = across.label if across else ""
                entry = TableRun(line, label, seed, run, locate_run_folder(run))
                entry.look()
                found.append(entry)
    return found


def quote_for_hydra(text: str) -> str:
    """A text as Hydra takes it on the command line, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def find_lacking_keys(table: TableConfig, runs: list[TableRun]) -> dict[str, str]:
    """Keys that the user has to give and that some run lacks, with what they are."""
    return {
        key: what
        for key, what in table.needs.items()
        if any(get_run_value(entry.run, key) is None for entry in runs)
    }


def get_run_value(run: Any, key: str) -> Any:
    """A run's value under a dotted key; None where there is none."""
    for part in key.split("."):
        run = getattr(run, part, None)
    return run
