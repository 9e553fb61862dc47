"""The two kinds of failure a user meets, the wording of the first kind, and the end by a signal.

UserError: the input is wrong (exit code 2). WorldError: the input may be right but the network,
the disk or another file is not as needed (exit code 1). OutOfMemory is one of these, RowError a
UserError of one row, which may be left out and counted. Interrupted: nothing failed. No secret
stands in what is said of them (`mask_secrets`). Knows nothing of configs or models.
"""

from __future__ import annotations

import difflib
import os
import re
import signal
from collections.abc import Iterable

# Names of settings and variables that hold secrets, and values that are one by their form: tokens
# of the hub, GitHub, OpenAI and their like, AWS and Google, a header, a password within a URL.
SECRET_NAME = re.compile(
    r"(?<!bos)(?<!eos)(?<!pad)(?<!unk)(?<!sep)(?<!cls)(?<!mask)"
    r"(^|_)(token|secret|passw(or)?d|api_?key|access_?key|private_?key|credentials?)$",
    re.IGNORECASE,
)
SECRET_VALUE = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bgh[opsur]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"
    r"|\bsk-[A-Za-z0-9_-]{20,}|\bAKIA[A-Z0-9]{16}\b|\bAIza[\w-]{35}|\bxox[abprs]-[\w-]{10,}"
    r"|\bBearer\s+[\w.~+/-]{8,}=*|(?<=://)[^\s/:@]+:[^\s/@]+(?=@)"
)
SECRET_MASK = "***"
# That a message lists of what is allowed: a table may have hundreds of rows.
MOST_WORDS = 60
# Shorter values are words that stand in any text.
SHORTEST_SECRET = 8


class UserError(Exception):
    """Wrong input: one line that names the key, the value, what is allowed, the nearest match."""


class RowError(UserError):
    """One row cannot be used; the others can."""


class WorldError(Exception):
    """A failure that is not the user's: hub unreachable, disk full, a broken cache.

    `is_said`: the main process of several failed first, and says it for all.
    """

    is_said = False


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to end (exit code 128 + its number); the same command goes on.

    `reason`: the signal, and what is saved, once a run folder has it.
    """

    def __init__(self, sign: signal.Signals) -> None:
        super().__init__(sign.name)
        self.sign, self.reason = sign, ""

    @property
    def exit_code(self) -> int:
        """As a shell reports a process that a signal ended."""
        return 128 + self.sign


class OutOfMemory(WorldError):
    """Training took more memory than there is: a plan may say what takes less."""


def find_secret(name: str, value: str) -> bool:
    """Whether a value is a secret, by the name of what it is given to or by its form."""
    return bool(value and SECRET_NAME.search(name)) or bool(SECRET_VALUE.search(value))


def mask_secrets(text: str) -> str:
    """A text without secrets: neither what looks like one, nor what the environment says is one."""
    for name, value in os.environ.items():
        if len(value) >= SHORTEST_SECRET and SECRET_NAME.search(name):
            text = text.replace(value, SECRET_MASK)
    return SECRET_VALUE.sub(SECRET_MASK, text)


def suggest_nearest(value: object, allowed: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` when something in `allowed` is close to `value`, else `""`."""
    matches = difflib.get_close_matches(str(value), list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def bad_value(key: str, value: object, allowed: str | Iterable[str | int]) -> UserError:
    """The one line for a value that is not allowed.

    Args:
        key: dotted config key.
        value: what was given.
        allowed: a phrase ("a number >= 0") or the list of allowed words.
    """
    if SECRET_NAME.search(key.rpartition(".")[2]):
        value = SECRET_MASK
    if isinstance(allowed, str):
        return UserError(f"{key}={value}: allowed is {allowed}")
    words = sorted(map(str, allowed))
    listed = ", ".join(words[:MOST_WORDS])
    if len(words) > MOST_WORDS:
        listed += f" and {len(words) - MOST_WORDS} more"
    return UserError(f"{key}={value}: allowed is one of {listed}{suggest_nearest(value, words)}")


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, cut to a readable length."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:160]
