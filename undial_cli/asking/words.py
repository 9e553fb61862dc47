"""The words of `undial ask` and `undial serve`: which are models, questions, keys.

Whatever is there, or can only be a model, is one; words with a blank between them are a question.
Loads nothing.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from undial_cli.config.asking import AnswerConfig, AskingConfig, ServingConfig, set_typed_value
from undial_cli.errors import UserError, bad_value, suggest_nearest
from undial_cli.runs.known_runs import find_known_runs

# A repository of the hub, perhaps at a revision.
HUB_ID = re.compile(r"[\w][\w.-]*/[\w.-]+(@[\w./-]+)?")
# `model=NAME`, and keys of a run's own config.
RUN_KEY = re.compile(r"model(\.\w+)*")
EXAMPLES = {
    "ask": 'as in undial ask outputs/unlearn/RUN "Who is ...?"',
    "serve": "as in undial serve outputs/unlearn/RUN",
}
ConfigType = TypeVar("ConfigType", bound=AnswerConfig)


@dataclass
class ModelWords(Generic[ConfigType]):
    """What the words of a command ask for; `overrides` are of the models' configs."""

    command: str
    config: ConfigType
    models: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)


AskWords = ModelWords[AskingConfig]


def parse_ask_words(words: Sequence[str]) -> AskWords:
    """The words of `undial ask`.

    Raises:
        UserError: a wrong key or value, a model that is not there, or no model.
    """
    asked = ModelWords("ask", AskingConfig())
    sort_words(words, asked)
    check_ask_words(asked)
    return asked


def parse_serve_words(words: Sequence[str]) -> ModelWords[ServingConfig]:
    """The words of `undial serve`; raises UserError as those of ask."""
    asked = ModelWords("serve", ServingConfig())
    sort_words(words, asked)
    if asked.questions:
        raise UserError(f"serve {asked.questions[0]}: no such run or model; questions come to it")
    return asked


def sort_words(words: Sequence[str], asked: ModelWords) -> None:
    """Put each word where it belongs; raises UserError for one that belongs nowhere."""
    fields = {f.name: f for f in dataclasses.fields(asked.config)}
    for word in words:
        name, given, value = word.partition("=")
        key = name.removeprefix("--").replace("-", "_")
        if is_model_word(word):
            asked.models.append(word)
        elif key in fields and (given or (name.startswith("--") and fields[key].type == "bool")):
            set_typed_value(asked.config, key, value if given else "true")
            if key == "question" and (question := getattr(asked.config, key)):
                asked.questions.append(question)
        elif given and RUN_KEY.fullmatch(name):
            asked.overrides.append(word)
        elif re.search(r"\s", name):
            asked.questions.append(word)
        elif word.startswith("-"):
            raise bad_value("flag", name, [f"--{key}" for key in fields])
        elif given:
            raise bad_value("key", name, [*fields, "model", "model.dtype"])
        elif asked.models and "question" in fields:
            raise UserError(
                f"ask {word}: no run or model there; a question of one word is question={word}"
                f"{suggest_run(word)}"
            )
        else:
            raise UserError(
                f"{asked.command} {word}: no such run folder, checkpoint or hub model"
                f"{suggest_run(word)}"
            )
    if not asked.models:
        example = EXAMPLES[asked.command]
        raise UserError(
            f"{asked.command}: expected a run folder or a model, {example}{suggest_run('')}"
        )


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
