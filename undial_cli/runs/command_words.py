"""The words of commands that compose no run themselves.

`undial list`, `purge`, `merge` and `export` take paths and flags, `undial reproduce` and `undial
tune` settings of their own and those of their runs. A flag is written as one (`--older-than=30d`)
or as a setting (`older_than=30d`). Knows no command.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from undial_cli.errors import UserError, bad_value

AGE = re.compile(r"(\d+(?:\.\d+)?)([hdw])")
SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
SWITCHES = {"": True, "true": True, "false": False}


@dataclass
class CommandWords:
    """Paths, and what was said of each flag; `age` in seconds."""

    paths: list[Path] = field(default_factory=list)
    switches: dict[str, bool] = field(default_factory=dict)
    age: float | None = None

    def has(self, name: str) -> bool:
        """Whether a switch is on."""
        return self.switches.get(name, False)


def parse_command_words(
    command: str, words: Sequence[str], flags: Mapping[str, str]
) -> CommandWords:
    """What the words of a command ask for.

    Args:
        flags: names, with what must follow; "" for a switch.

    Raises:
        UserError: a flag that is none, or a value that is not allowed.
    """
    asked = CommandWords()
    left = list(words)
    while left:
        word = left.pop(0)
        name, given, value = word.partition("=")
        name = name.removeprefix("--").replace("_", "-")
        if name not in flags:
            if word.startswith("-"):
                raise bad_value("flag", word.partition("=")[0], [f"--{flag}" for flag in flags])
            if given and not Path(word).expanduser().exists():
                raise bad_value("key", word.partition("=")[0], [f.replace("-", "_") for f in flags])
            asked.paths.append(Path(word).expanduser())
        elif flags[name]:
            if not given and not left:
                raise UserError(f"{command} --{name}: expected {flags[name]} after it")
            asked.age = parse_age(name, value if given else left.pop(0))
        else:
            if value not in SWITCHES:
                raise bad_value(name, value, [text for text in SWITCHES if text])
            asked.switches[name] = SWITCHES[value]
    return asked


def split_run_words(
    words: Sequence[str],
    command_keys: Collection[str],
    refused: Mapping[str, str],
    command: str,
    example: str,
) -> tuple[list[str], list[str], str | None]:
    """Words for a command, words for its runs, and the folder after --config-dir.

    Args:
        command_keys: keys that are the command's own.
        refused: keys that its runs are not given, and why.
        command: what they are not given with.

    Raises:
        UserError: a word is no setting, is refused, or the folder is not there.
    """
    command_words: list[str] = []
    run_words: list[str] = []
    folder: str | None = None
    rest = list(words)
    while rest:
        word = rest.pop(0)
        key, given, _ = word.partition("=")
        if key in ("--config-dir", "-cd"):
            folder = take_config_folder(word, rest)
        elif word.startswith("-"):
            raise bad_value("flag", key, ["--config-dir"])
        elif not given:
            raise UserError(f"{word}: expected key=value, as in {example}")
        elif (bare := key.lstrip("+~")) in refused:
            raise UserError(f"{word}: not with {command}: {refused[bare]}")
        else:
            (command_words if key in command_keys else run_words).append(word)
    return command_words, run_words, folder


def take_config_folder(word: str, rest: list[str]) -> str:
    """The folder of `--config-dir`: in its word, or the next of `rest`, which is taken off.

    Raises:
        UserError: none is said, or it is not there.
    """
    flag, given, folder = word.partition("=")
    if not given and not rest:
        raise UserError(f"{flag}: expected a folder after it")
    folder = folder if given else rest.pop(0)
    if not Path(folder).is_dir():
        raise UserError(f"{flag} {folder}: no such folder")
    return folder


def parse_age(name: str, text: str) -> float:
    """Seconds of an age."""
    match = AGE.fullmatch(text.strip())
    if match is None:
        raise bad_value(name, text, "a number of hours, days or weeks, as in 12h, 30d or 4w")
    return float(match[1]) * SECONDS[match[2]]


# Keys of a run that may be said anew: where an adapter's base lies, and what no file may say.
RUN_KEYS = ("model.", "method.file")


def parse_run_words(
    command: str, words: Sequence[str], keys: Mapping[str, Sequence[str] | None]
) -> tuple[str, dict[str, str], list[str]]:
    """The run folder that a command names, its settings, and overrides of the run's own keys.

    Args:
        keys: what each may be; None: anything. The first value is what it is without a word.

    Raises:
        UserError: no run or several, a key that is none, or a value that is not allowed.
    """
    paths: list[str] = []
    overrides: list[str] = []
    settings = {key: allowed[0] for key, allowed in keys.items() if allowed is not None}
    for word in words:
        key, given, value = word.partition("=")
        name = key.removeprefix("--").replace("-", "_")
        if given and name in keys:
            allowed = keys[name]
            if allowed is None and not value:
                raise UserError(f"{name}=: expected a folder after it")
            if allowed is not None and value not in allowed:
                raise bad_value(name, value, allowed)
            settings[name] = value
        elif given and key.startswith(RUN_KEYS):
            overrides.append(word)
        elif word.startswith("-") or (given and not Path(word).expanduser().exists()):
            raise bad_value("key" if given else "flag", key, [f"{name}=" for name in keys])
        else:
            paths.append(word)
    if len(paths) != 1:
        named = f"got {len(paths)} ({', '.join(paths)})" if paths else "got none"
        raise UserError(f"{command}: expected one run folder, as outputs/unlearn/NAME; {named}")
    return paths[0], settings, overrides
