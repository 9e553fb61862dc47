"""The words of `undial ask`: which are models, which are questions, which are keys.

Whatever is there, or can only be a model, is one; words with a blank between them are a question.
Loads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from undial_cli.config.asking import ASK_FIELDS, AskingConfig, set_ask_value
from undial_cli.errors import UserError, bad_value, suggest_nearest
from undial_cli.runs.known_runs import find_known_runs

# A repository of the hub, perhaps at a revision.
HUB_ID = re.compile(r"[\w][\w.-]*/[\w.-]+(@[\w./-]+)?")
# `model=NAME`, and keys of a run's own config.
RUN_KEY = re.compile(r"model(\.\w+)*")
EXAMPLE = 'as in undial ask outputs/unlearn/RUN "Who is ...?"'


@dataclass
class AskWords:
    """What the words ask for; `overrides` are of the models' configs."""

    models: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    config: AskingConfig = field(default_factory=AskingConfig)


def parse_ask_words(words: Sequence[str]) -> AskWords:
    """Sort the words of a command line.

    Raises:
        UserError: a wrong key or value, a model that is not there, or no model.
    """
    asked = AskWords()
    for word in words:
        name, given, value = word.partition("=")
        key = name.removeprefix("--").replace("-", "_")
        if is_model_word(word):
            asked.models.append(word)
        elif key in ASK_FIELDS and (
            given or (name.startswith("--") and ASK_FIELDS[key].type == "bool")
        ):
            set_ask_value(asked.config, key, value if given else "true")
            if key == "question" and asked.config.question:
                asked.questions.append(asked.config.question)
        elif given and RUN_KEY.fullmatch(name):
            asked.overrides.append(word)
        elif re.search(r"\s", name):
            asked.questions.append(word)
        elif word.startswith("-"):
            raise bad_value("flag", name, [f"--{key}" for key in ASK_FIELDS])
        elif given:
            raise bad_value("key", name, [*ASK_FIELDS, "model", "model.dtype"])
        elif asked.models:
            raise UserError(
                f"ask {word}: no run or model there; a question of one word is question={word}"
                f"{suggest_run(word)}"
            )
        else:
            raise UserError(
                f"ask {word}: no such run folder, checkpoint or hub model{suggest_run(word)}"
            )
    if not asked.models:
        raise UserError(f"ask: expected a run folder or a model, {EXAMPLE}{suggest_run('')}")
    check_ask_words(asked)
    return asked


def is_switch(name: str, key: str) -> bool:
    """Whether a word without a value turns a key on, as `--web`."""
    return name.startswith("--") and ASK_FIELDS[key].type == "bool"


def is_model_word(word: str) -> bool:
    """Whether a word is a model: one that is there, or what can be nothing else."""
    if word.startswith("pkg://"):
        return True
    try:
        path = Path(word).expanduser()
        if word and path.exists():
            return True
    except (OSError, ValueError, RuntimeError):  # a question is longer than a name may be
        return False
    # `outputs/x` of an `outputs` that is there is a folder that is missing, not one of the hub.
    return HUB_ID.fullmatch(word) is not None and not Path(word.partition("/")[0]).is_dir()


def suggest_run(word: str) -> str:
    """The known run whose folder a word may have meant; of none the one that was done last."""
    folders = [run.path for run in find_known_runs() if run.path.parent.name == "unlearn"]
    if not word and folders:
        latest = max(folders, key=lambda path: path.stat().st_mtime)
        return f"; the latest is {shorten_path_here(latest)}"
    names = {path.name: path for path in folders}
    near = suggest_nearest(Path(word).name, names) if word else ""
    return next(
        (f"; did you mean '{shorten_path_here(p)}'?" for n, p in names.items() if f"'{n}'" in near),
        "",
    )


def shorten_path_here(path: Path) -> Path:
    """A path from where one is, if it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def check_ask_words(asked: AskWords) -> None:
    """Raise UserError for what does not go together, or a file that is in the way."""
    config = asked.config
    if config.web and (asked.questions or config.file or config.json or config.out):
        other = next((key for key in ("file", "json", "out") if getattr(config, key)), "a question")
        raise UserError(f"web=true: not possible together with {other}; the page asks and saves")
    if config.port and not config.web:
        raise UserError(f"port={config.port}: read only with web=true")
    if config.out is not None:
        check_new_file("out", config.out)


def check_new_file(key: str, name: str) -> Path:
    """The file that is to be written; raises UserError where one is, or where none can be."""
    path = Path(name).expanduser()
    if path.exists() or path.is_symlink():
        raise UserError(f"{key}={name}: it is there already; allowed is a new file")
    if not path.parent.is_dir():
        raise UserError(f"{key}={name}: no such folder {path.parent}")
    return path
