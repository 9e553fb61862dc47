"""`undial completion SHELL`: the command line's words for a shell's tab key.

The script holds all of them, made from the configs, the schema and the commands' help, so that
nothing is started when the key is pressed. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from undial_cli.config.asking import ASK_FIELDS, SERVE_FIELDS
from undial_cli.config.schema import RUN_TYPES
from undial_cli.errors import UserError, bad_value
from undial_cli.evaluation.selection_rule import RULE_WORDS
from undial_cli.runs.commands.file_kinds import FILE_KINDS
from undial_cli.runs.help import (
    COMMAND_SUMMARIES,
    COMMAND_WORDS,
    CONFIG_GROUPS,
    HELP_FLAGS,
    USAGE_LINES,
)
from undial_cli.runs.hydra_configs import find_config_folder
from undial_cli.runs.known_keys import COMMAND_TYPES, list_known_keys

SHELLS = ("bash", "zsh", "fish")
# A word of a command's help that one types as it stands, or as `key=`; of several: key=a|b.
TYPED_WORD = re.compile(r"(--[a-z-]+|[a-z_.]+)(=(\S*))?$")
TYPED_VALUES = re.compile(r"[a-z0-9_]+(\|[a-z0-9_]+)*")
USED_WORD = re.compile(r"\[(--[a-z-]+|[a-z_]+=)")
# What takes a folder of runs or of the user's.
PATH_COMMANDS = ("audit", "evaluate", "ask", "merge", "export", "list", "compare", "purge",
                 "report", "validate", "copy")  # fmt: skip
# Keys that are no setting of a run on the command line.
HIDDEN_KEYS = ("command",)


def run_completion_command(words: Sequence[str]) -> int:
    """Do `undial completion SHELL`; returns the exit code.

    Raises:
        UserError: no shell is named, or none that is known.
    """
    if len(words) != 1:
        raise UserError('completion: expected a shell, as in eval "$(undial completion bash)"')
    if words[0] not in SHELLS:
        raise bad_value("shell", words[0], SHELLS)
    print(make_script(words[0]), end="")
    return 0


def make_script(shell: str) -> str:
    """The script for a shell, with all words in it."""
    words = {command: list_command_words(command) for command in COMMAND_SUMMARIES}
    script = Path(__file__).with_name(f"completion.{shell}").read_text(encoding="utf-8")
    either = " " if shell == "fish" else " | "
    script = script.replace("@COMMANDS@", " ".join(COMMAND_SUMMARIES))
    script = script.replace("@PATH_COMMANDS@", either.join(PATH_COMMANDS))
    lookups = {"words": words, "values": list_key_values()}
    texts = [spell_lookup(name, table, shell) for name, table in lookups.items()]
    return script.replace("@LOOKUPS@", "\n\n".join(texts))


def spell_lookup(name: str, words: dict[str, list[str]], shell: str) -> str:
    """A shell's function `_undial_NAME`, which prints the words of a command or key.

    Those with the same words share a branch of its `case`.
    """
    names_by_text: dict[str, list[str]] = {}
    for key, each in words.items():
        names_by_text.setdefault(" ".join(each), []).append(key)
    # Fish takes a list of names with blanks, and a word for a line.
    whole = "_undial_{}() {{\n  case $1 in\n{}\n  esac\n}}"
    branch, either = "    {}) echo '{}' ;;", "|"
    if shell == "fish":
        whole = "function __undial_{}\n    switch $argv[1]\n{}\n    end\nend"
        branch, either = "        case {}\n            string split ' ' -- '{}'", " "
    branches = [branch.format(either.join(n), text) for text, n in names_by_text.items()]
    return whole.format(name, "\n".join(branches))


def list_command_words(command: str) -> list[str]:
    """What may follow a command: flags, and groups and keys with their `=`."""
    if command == "copy":
        return [f"{group}/{name}" for group in FILE_KINDS for name in list_option_names(group)]
    if command == "schema":
        return list(FILE_KINDS)
    if command == "completion":
        return list(SHELLS)
    typed = [m for w in COMMAND_WORDS.get(command, {}) if (m := TYPED_WORD.match(w.split()[0]))]
    words = [match[1] + ("=" if match[2] else "") for match in typed]
    if command in COMMAND_WORDS and command not in COMMAND_TYPES and command != "show":
        # A key of `undial ask` stands in its help by its name alone.
        return [word if word[-1] == "=" or word[:2] == "--" else f"{word}=" for word in words]
    if command in USAGE_LINES and command not in COMMAND_WORDS:
        return USED_WORD.findall(USAGE_LINES[command])
    words += [flag.split()[0] for flag in HELP_FLAGS] if command in RUN_TYPES else []
    config = command if command in RUN_TYPES else "unlearn"
    primary = (find_config_folder() / f"{config}.yaml").read_text(encoding="utf-8")
    words += [f"{group}=" for group in CONFIG_GROUPS if f"- {group}:" in primary]
    words += [f"{key}=" for key in list_known_keys(config) if key not in HIDDEN_KEYS]
    return list(dict.fromkeys(words))


def list_option_names(group: str) -> list[str]:
    """The options of a config group."""
    return sorted(file.stem for file in (find_config_folder() / group).glob("*.yaml"))


def list_allowed_words(field: dataclasses.Field) -> list[str]:
    """The words that a field may be."""
    words = [str(word) for word in field.metadata.get("allowed") or ()]
    words += [field.metadata["word"]] if field.metadata.get("word") else []
    return words or (["true", "false"] if field.type == "bool" else [])


def list_key_values() -> dict[str, list[str]]:
    """What may stand behind `key=`: options of a group, words that are allowed, true or false."""
    values = {group: list_option_names(group) for group in (*CONFIG_GROUPS, "table", "tune")}
    fields = ASK_FIELDS | SERVE_FIELDS
    for command in (*COMMAND_TYPES, *RUN_TYPES):
        fields |= list_known_keys(command)
    for key, field in fields.items():
        values.setdefault(key, list_allowed_words(field))
    for texts in COMMAND_WORDS.values():
        for match in filter(None, map(TYPED_WORD.match, texts)):
            if TYPED_VALUES.fullmatch(match[3] or "") and not values.get(match[1]):
                values[match[1]] = match[3].split("|")
    values |= {"rule": list(RULE_WORDS), "kind": list(FILE_KINDS), "command": list(RUN_TYPES)}
    return {key: words for key, words in values.items() if words}
