"""From a table to its runs: every line, column group and seed composed, and how each one stands.

Composes quickly: what groups choose is composed once, values are set on a copy of it. Reads
status.json of run folders and nothing of what is in them. Imports no torch.
"""

from __future__ import annotations

import copy
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from undial_cli.compose import (
    compose_run,
    config_dir,
    normalise,
    register_schemas,
    to_run,
    with_own_method,
)
from undial_cli.errors import bad_value
from undial_cli.run_folder import RunFolder, folder_of
from undial_cli.schema import Run
from undial_cli.tables.config import ReproduceConfig, RowConfig, TableConfig

DONE, FAILED, REFUSED, MISSING = "done", "failed", "refused", "missing"


@dataclass(frozen=True, eq=False)
class Line:
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

    line: Line
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


def composed(command: str, words: list[str], extra: tuple[str, ...] = ()) -> Run:
    """The run that `compose_run` makes of the same words, in a tenth of the time.

    Args:
        extra: words for Hydra itself.

    Raises:
        UserError: one of the words is wrong.
    """
    words = last_of_each(with_own_method(words))
    try:
        chosen, values = sorted_out(normalise(words), groups_of(extra))
        config = copy.deepcopy(base(command, chosen, extra))
        for override in values:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        return to_run(config)
    except (HydraException, OmegaConfBaseException, ValueError):
        return compose_run(command, [*words, *extra])  # says what is wrong


def sorted_out(words: list[str], groups: frozenset[str]) -> tuple[tuple[str, ...], list[Any]]:
    """Words for Hydra (options of groups, + and ~), and parsed ones that set a value."""
    chosen: list[str] = []
    values: list[Any] = []
    for word, parsed in zip(words, OverridesParser.create().parse_overrides(words), strict=True):
        if word[0] in "+~" or parsed.key_or_group in groups:
            chosen.append(word)
        else:
            values.append(parsed)
    return tuple(chosen), values


@functools.cache
def groups_of(extra: tuple[str, ...]) -> frozenset[str]:
    """The config groups, shipped ones and those in the folders of the user's search path."""
    folders = [config_dir(), *(Path(w.partition("[")[2].rstrip("]")) for w in extra)]
    return frozenset(p.name for folder in folders for p in folder.iterdir() if p.is_dir())


@functools.cache
def base(command: str, chosen: tuple[str, ...], extra: tuple[str, ...]) -> DictConfig:
    """The config of a choice of groups; to be copied."""
    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose(command, [*chosen, *extra])


def last_of_each(words: list[str]) -> list[str]:
    """Of several words for the same key the last one, as on the command line."""
    found: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0]
        found.pop(key, None)
        found[key] = word
    return list(found.values())


def lines_of(table: TableConfig, wanted: list[str]) -> list[Line]:
    """The table's lines in order: those without a run first, then section by section.

    Raises:
        UserError: a wanted row or section does not exist.
    """
    sections = list(table.sections) or [""]
    found = [Line(row, row.section) for row in table.rows if row.of and not row.section]
    for section in sections:
        found += [
            Line(row, section)
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


def runs_of(
    asked: ReproduceConfig, lines: list[Line], words: list[str], folder: str | None
) -> list[TableRun]:
    """All runs of the lines, composed and looked up; seeds stand side by side.

    Raises:
        UserError: an override is wrong.
    """
    table = asked.table
    extra = (f"hydra.searchpath=[{Path(folder).resolve()}]",) if folder else ()
    found: list[TableRun] = []
    for line in lines:
        if line.row.of:
            continue
        for across in table.across or [None]:
            if across is not None and line.row.across and across.label not in line.row.across:
                continue
            own = [*table.overrides, *table.sections.get(line.section, [])]
            own += [*(across.overrides if across else []), *line.row.overrides, *words]
            own.append(f"output_dir={quoted(asked.output_dir)}")
            for seed in asked.seeds or table.seeds:
                run = composed(line.row.command or table.command, [*own, f"seed={seed}"], extra)
                place = folder_of(run)
                entry = TableRun(line, across.label if across else "", seed, run, place)
                entry.look()
                found.append(entry)
    return found


def quoted(text: str) -> str:
    """A text as Hydra takes it on the command line, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def lacking(table: TableConfig, runs: list[TableRun]) -> dict[str, str]:
    """Keys that the user has to give and that some run lacks, with what they are."""
    return {
        key: what
        for key, what in table.needs.items()
        if any(value_of(entry.run, key) is None for entry in runs)
    }


def value_of(run: Any, key: str) -> Any:
    """A run's value under a dotted key; None where there is none."""
    for part in key.split("."):
        run = getattr(run, part, None)
    return run
