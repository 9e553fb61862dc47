"""The keys of `undial ask` and `undial serve`: how models answer, and where that goes.

On the command line as `temperature=0.7`, while one types as `:temperature 0.7`, on the page in a
field: all three are read here. Knows no model.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from undial_cli.config.fields import check_field_value, key, unescape_text
from undial_cli.errors import bad_value

SWITCH_WORDS = {"true": True, "on": True, "false": False, "off": False}
# What stands for no value of a key that may have none.
NO_VALUE = ("none", "null", "")
# A page or a file that asks for more would be waited for until the evening.
MOST_NEW_TOKENS = 100_000


@dataclass
class AnswerConfig:
    """Which models answer, and how."""

    system: str | None = key(
        None, "system prompt, in place of the one that the run has; none: without one"
    )
    temperature: float = key(
        0.0, "0: the likeliest token each time, as in evaluations; above: drawn", minimum=0,
        maximum=100,
    )  # fmt: skip
    top_p: float = key(
        1.0, "drawn from the likeliest tokens with this probability", above=0, maximum=1
    )
    seed: int = key(0, "seeds what is drawn", minimum=0, maximum=2**32 - 1)
    max_new_tokens: int = key(
        256, "tokens of an answer at most", minimum=1, maximum=MOST_NEW_TOKENS
    )
    target: str | None = key(None, "model to take as the target; none: leave it out")
    retain: str | None = key(None, "model to take as the retain model; none: leave it out")
    hardware: str = key("auto", "auto: a GPU where there is one", allowed=("auto", "cpu"))


@dataclass
class AskingConfig(AnswerConfig):
    """How a question is asked, and where the answers go."""

    chat: bool = key(False, "a question goes on from those before it, each model from its answers")
    diff: bool = key(True, "mark the words by which answers part from the first model's")
    question: str | None = key(None, "a question; any words with a blank between them are one too")
    file: str | None = key(None, "file of questions: a line each, or rows with a question column")
    out: str | None = key(None, "new file for questions and answers, an object a line")
    json: bool = key(False, "print them so as well, in place of the view")
    history: bool = key(True, "keep the lines that one types, in a private file of the cache")
    web: bool = key(False, "the same as a page for a browser on this machine")
    port: int = key(0, "of that page; 0: any that is free", minimum=0, maximum=65535)


@dataclass
class ServingConfig(AnswerConfig):
    """Where an endpoint listens, and who may ask it."""

    host: str = key("127.0.0.1", "address that is listened at; another than this machine's: a key")
    port: int = key(8000, "port; 0: any that is free", minimum=0, maximum=65535)
    key_variable: str = key(
        "UNDIAL_API_KEY",
        "environment variable with the key that callers have to give, if it is set",
    )
    key_file: str | None = key(None, "in its stead a file that holds the key, and nothing else")
    engine: str = key(
        "undial", "what answers: undial as in undial ask; or vllm", allowed=("undial", "vllm")
    )


ASK_FIELDS = {f.name: f for f in dataclasses.fields(AskingConfig)}
SERVE_FIELDS = {f.name: f for f in dataclasses.fields(ServingConfig)}
# What may be set between questions, while one types and on the page.
ASKING_KEYS = ("system", "temperature", "top_p", "seed", "max_new_tokens", "chat", "diff")
# Fields whose `none` means another thing than that nothing was said.
KEPT_NONE = ("system", "target", "retain")


def set_typed_value(config: AnswerConfig, name: str, text: str) -> None:
    """Set a key from what was typed.

    Args:
        name: a field of the config.

    Raises:
        UserError: the value is not allowed.
    """
    field = {f.name: f for f in dataclasses.fields(config)}[name]
    value = parse_typed_value(name, str(field.type), text.strip() if name != "question" else text)
    check_field_value(name, value, field)
    setattr(config, name, value)


def parse_typed_value(name: str, kind: str, text: str) -> Any:
    """A typed value of a key of that type; its range is not looked at."""
    if kind == "bool":
        if text.lower() not in SWITCH_WORDS:
            raise bad_value(name, text, list(SWITCH_WORDS))
        return SWITCH_WORDS[text.lower()]
    if kind in ("int", "float"):
        try:
            return int(text) if kind == "int" else float(text)
        except ValueError as error:
            phrase = "an integer" if kind == "int" else "a number"
            raise bad_value(name, text, phrase) from error
    if text.lower() in NO_VALUE:
        # "" is a system prompt, or a model, that is none; None one of which nothing was said.
        return "" if name in KEPT_NONE else None
    return unescape_text(text) if name in ("system", "question") else text
