"""`undial show`: the values that a command line composes, each with where it comes from.

Composes and prints; no model, no data and no folder is looked at.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from undial_cli import ui
from undial_cli.config.schema import RUN_TYPES
from undial_cli.errors import UserError, bad_value, suggest_nearest
from undial_cli.reporting.sheet import Cell, Column, Sheet, SheetRow, make_screen_table
from undial_cli.reporting.text import format_setting_value
from undial_cli.runs.command_words import take_config_folder
from undial_cli.runs.commands.value_sources import DEFAULT, SourcedValue, list_sourced_values
from undial_cli.runs.compose import compose_run

SHOW_FLAGS = ("--json", "--all", "--config-dir")


@dataclass
class ShowWords:
    """What is composed, and the sections or keys of it that are shown; none: by the words."""

    command: str = "unlearn"
    overrides: list[str] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)
    folder: str | None = None
    everything: bool = False
    as_json: bool = False


def run_show_command(words: Sequence[str]) -> int:
    """Do `undial show WORDS`; returns the exit code.

    Raises:
        UserError: a word is wrong, or the words do not compose.
    """
    asked = parse_show_words(words)
    # What is said of an experiment that a command takes in part is no JSON.
    with contextlib.redirect_stdout(sys.stderr if asked.as_json else sys.stdout):
        run = compose_run(asked.command, asked.overrides, asked.folder)
    values = list_sourced_values(asked.command, asked.overrides, asked.folder, run)
    shown = choose_shown_values(asked, values)
    if asked.as_json:
        print(json.dumps([record_value(value) for value in shown], indent=2))
        return 0
    ui.say(make_screen_table(make_value_sheet(shown, values)))
    if len(shown) < len(values) and not asked.shown:
        ui.say(f"{len(values) - len(shown)} more keys: --all, or name a section or a key", "dim")
    return 0


def parse_show_words(words: Sequence[str]) -> ShowWords:
    """What the words ask for; raises UserError for a flag or a folder that is none."""
    asked = ShowWords()
    left = list(words)
    while left:
        word = left.pop(0)
        name, given, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            asked.folder = take_config_folder(word, left)
        elif word == "--all":
            asked.everything = True
        elif word in ("--json", "json=true"):
            asked.as_json = True
        elif word.startswith("-"):
            raise bad_value("flag", word, SHOW_FLAGS)
        elif name == "command":
            if value not in RUN_TYPES:
                raise bad_value("command", value, RUN_TYPES)
            asked.command = value
        elif given or word.startswith("~"):
            asked.overrides.append(word)
        else:
            asked.shown.append(word)
    return asked


def choose_shown_values(asked: ShowWords, values: list[SourcedValue]) -> list[SourcedValue]:
    """The values of the sections and keys that were named.

    Without names: those of the groups and keys that were chosen, or all where an experiment was,
    which may set any, or nothing.
    """
    keys = [value.key for value in values]
    sections = dict.fromkeys(key.split(".")[0] for key in keys)
    chosen = [word.lstrip("+~").partition("=")[0] for word in asked.overrides]
    shown = asked.shown
    if not shown and not asked.everything and "experiment" not in chosen:
        shown = [name for name in sections if name in {key.split(".")[0] for key in chosen}]
    for name in asked.shown:
        if not any(f"{key}.".startswith(f"{name}.") for key in keys):
            if Path(name).expanduser().exists():
                raise UserError(f"show {name}: expected key=value, or a section or a key; the "
                                "values of a run stand in its run.yaml")  # fmt: skip
            raise UserError(f"show {name}: no such section or key"
                            f"{suggest_nearest(name, [*sections, *keys])}")  # fmt: skip
    if asked.everything or not shown:
        return values
    return [v for v in values if any(f"{v.key}.".startswith(f"{name}.") for name in shown)]


def describe_source(value: SourcedValue, values: dict[str, SourcedValue]) -> str:
    """A source in words; of an interpolation also what it leads to."""
    if value.written is None or "${" not in value.written.text:
        return value.source
    if value.reference is None:
        return f"{value.source}: {value.written.text}"
    return f"{value.source}, as {value.reference} ({values[value.reference].source})"


def make_value_sheet(shown: Sequence[SourcedValue], values: Sequence[SourcedValue]) -> Sheet:
    """A row per value; what nobody set is dim."""
    by_key = {value.key: value for value in values}
    rows = []
    for value in shown:
        style = "dim" if value.source == DEFAULT else ""
        text = format_setting_value(value.value).replace("\n", "\\n")
        texts = (value.key, text, describe_source(value, by_key))
        rows.append(SheetRow([Cell(text, style=style) for text in texts]))
    return Sheet("", [Column(name, numeric=False) for name in ("key", "value", "from")], rows)


def record_value(value: SourcedValue) -> dict[str, object]:
    """A value as JSON has it."""
    written = value.written
    return {
        "key": value.key,
        "value": value.value,
        "source": value.source,
        "file": None if written is None or written.file is None else str(written.file),
        "line": (written and written.line) or None,
        "written": written.text if written is not None and "${" in written.text else None,
    }
