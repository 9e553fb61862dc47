"""The words of a command line as Hydra takes them. Knows which keys hold lists, and no values."""

from __future__ import annotations

import re

from undial_cli.errors import UserError
from undial_cli.runs.known_keys import is_list_key

SLICED_SPLIT = re.compile(r"^([\w.+]+)=([\w./-]+\[[-\d%]*:[-\d%]*\]\w*)$")
# Texts that Hydra would read as its own syntax; an expression is none of its functions.
QUOTED_OVERRIDE = re.compile(
    r"^(?:(model\.template\.(?:prompt|system_prompt)=)(?!['\"])(.*\{.*)"
    r"|(train\.select=)(?!['\"]|choice\()(.*\(.*))$",
    re.DOTALL,
)
BUDGET_KEY = re.compile(r"^audit\.budget=")
ONE_WORD = re.compile(r"[\w./@:+-]+")
OPEN_KEYS = (
    "train.args",
    "hardware.args",
    "model.targets",
    "model.template.args",
    "eval.sets",
    "audit.attack",
)
OPEN_STARTS = tuple(f"{key}{end}" for key in OPEN_KEYS for end in ".=")


def normalise_overrides(overrides: list[str]) -> list[str]:
    """Spare users seven surprises of Hydra.

    `eval=auto` is dropped: it is the default, the suite that the data set names. Keys of open
    dictionaries (`train.args.x=1`) need no plus sign in front, slices (`forget10[:20]`), texts with
    `{question}` and expressions of train.select no quotes, and a list of one word
    (`train.report_to=wandb`) no brackets. A budget may be named by its key (`audit.budget=quick`),
    though it is an option of a group.
    """
    overrides = [BUDGET_KEY.sub("audit=", word) for word in overrides]
    return [normalise_override(word) for word in overrides if word != "eval=auto"]


def normalise_override(override: str) -> str:
    """One override as Hydra takes it.

    Raises:
        UserError: it names no key, which Hydra only asserts.
    """
    if not override.partition("=")[0].lstrip("+~").partition("@")[0].strip():
        raise UserError(f"{override}: expected key=value, as in seed=1 or method=npo")
    override = SLICED_SPLIT.sub(r"\1='\2'", bracket_single_word(override))
    if match := QUOTED_OVERRIDE.match(override):
        key, text = filter(None, match.groups())
        text = text.replace("'", r"\'")
        override = f"{key}'{text}'"
    return f"++{override}" if override.startswith(OPEN_STARTS) else override


def bracket_single_word(override: str) -> str:
    """`key=word` as `key=[word]`, where the key holds a list."""
    key, _, word = override.partition("=")
    if is_list_key(key) and ONE_WORD.fullmatch(word) and word != "null":
        return f"{key}=[{word}]"
    return override
