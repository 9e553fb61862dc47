"""What README and docs tell a user to type is taken: every command composes, every key is one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from undial_cli.config.schema import RUN_TYPES
from undial_cli.runs.compose import compose_run, translate_words
from undial_cli.runs.known_keys import list_known_keys
from undial_cli.sweeps.launchers import parse_sweep_words

ROOT = Path(__file__).parents[2]
# docs/extending.md makes groups of its own; test_extending.py types what stands there.
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name != "extending.md"),
]
COMMAND = re.compile(rf"(?:^(?:    )?|`)undial ({'|'.join(RUN_TYPES)})\b([^`\n]*)", re.MULTILINE)
LAUNCHER = re.compile(r"`([^`\n]*hydra/(?:launcher|sweeper)=[^`\n]*)`")
KEY = re.compile(r"`((?:[a-z_0-9]+\.)+[a-z_0-9]+)=[^`\n]*`")
# What a page leaves for the reader to fill in.
PLACEHOLDER = re.compile(r"\.\.\.|\[eval=|=[A-Z]+$|FILE$")
FLAGS = {"--multirun", "-m"}


def find_commands() -> Iterator[tuple[str, str, list[str]]]:
    """Page, command and words; a positional run folder and what is to be filled in left out."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command, rest in COMMAND.findall(text):
            if "||" in rest:
                continue  # refused, to show how
            words = shlex.split(rest, comments=True)
            if FLAGS.isdisjoint(words) and any(word.startswith("-") for word in words):
                continue
            if any(word.startswith("method.file=") for word in words):
                continue  # its keys are the file's
            words = [w for w in words if "=" in w and not PLACEHOLDER.search(w)]
            yield page.name, command, words


def find_launchers() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for span in LAUNCHER.findall(page.read_text(encoding="utf-8")):
            if "..." not in span:
                yield page.name, shlex.split(span.partition("undial unlearn")[2] or span)


@pytest.mark.slow
def test_every_command_of_the_pages_composes() -> None:
    commands = {f"{page}: {c} {words}": (c, words) for page, c, words in find_commands()}
    assert len(commands) > 20
    wrong = []
    for label, (command, words) in commands.items():
        try:
            words = translate_words(command, words, None)
            _, _, overrides = parse_sweep_words(command, words, None)
            chosen = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
            compose_run(command, chosen)
        except Exception as error:
            wrong.append(f"{label}: {error}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_every_launcher_of_the_pages_is_taken_with_its_keys() -> None:
    launchers = {f"{page}: {words}": words for page, words in find_launchers()}
    assert len(launchers) >= 4
    wrong = []
    for label, words in launchers.items():
        try:
            parse_sweep_words("unlearn", [w for w in words if "=" in w], None)
        except Exception as error:
            wrong.append(f"{label}: {error}")
    assert not wrong, "\n".join(wrong)


def test_every_key_of_the_pages_is_one() -> None:
    known = {key for command in (*RUN_TYPES, "reproduce") for key in list_known_keys(command)}
    free = (
        "hydra.", "train.args.", "hardware.args.", "model.template.args.", "eval.sets.",
        "eval.joint.", "audit.attack.",
    )  # fmt: skip
    wrong = []
    for page in PAGES:
        for key in KEY.findall(page.read_text(encoding="utf-8")):
            if key not in known and not key.startswith(free):
                wrong.append(f"{page.name}: {key}")
    assert not wrong, "\n".join(wrong)
