"""Signals that ask a run to end: an exception where the run is, or a wish that is held back.

A training step holds them back until its state is saved. Knows no run; loads no torch.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from undial_cli.errors import Interrupted

# What schedulers, shells and people end a command with; not all of them exist on every system.
ENDING_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
# So long a process waits for those that it started, which save their state; schedulers wait less.
SAVING_SECONDS = 600
# One wish to end may come twice: `timeout` signals the process and then its group.
REPEAT_SECONDS = 0.5


class Answer(enum.Enum):
    """What is done at the first signal.

    EXIT: end here and now, for nothing is written yet and libraries are being imported, which
    swallow exceptions. RAISE: `Interrupted`, where the run is. HOLD: note it.
    """

    EXIT = enum.auto()
    RAISE = enum.auto()
    HOLD = enum.auto()


@dataclass
class SignalState:
    """What is to be done at a signal, and which came first; `held`: it is noted and not raised."""

    answer: Answer = Answer.EXIT
    quiet: bool = False
    first: signal.Signals | None = None
    first_at: float = 0.0
    held: bool = False


_state = SignalState()


def install_signal_handlers(quiet: bool = False) -> None:
    """Take over the signals that end a command, from its first line on.

    Args:
        quiet: another process says what happened.
    """
    _state.quiet = quiet
    for name in ENDING_SIGNALS:
        sign = getattr(signal, name, None)
        # nohup and a shell's job in the background have some ignored, and mean it.
        if sign is not None and signal.getsignal(sign) is not signal.SIG_IGN:
            signal.signal(sign, receive_signal)


def receive_signal(number: int, frame: Any) -> None:
    """End at once, raise or note; a second Ctrl-C cuts short what the first one began."""
    del frame
    sign, now = signal.Signals(number), time.monotonic()
    if _state.first is None:
        _state.first, _state.first_at = sign, now
        if _state.answer is Answer.EXIT:
            exit_at_once(sign)
        if _state.answer is Answer.HOLD:
            _state.held = True
            return
        raise Interrupted(sign)
    if sign is not signal.SIGINT or now - _state.first_at < REPEAT_SECONDS:
        return
    if _state.held and _state.answer is Answer.HOLD:
        interrupt_run(sign)
    exit_at_once(sign)


def exit_at_once(sign: signal.Signals) -> NoReturn:
    """End this process with a line; what it had begun to write has a temporary name."""
    if not _state.quiet:
        show_cursor = "\x1b[?25h" if sys.stderr is not None and sys.stderr.isatty() else ""
        line = f"{show_cursor}undial: interrupted by {sign.name}; the same command goes on\n"
        with contextlib.suppress(OSError):
            os.write(2, line.encode())
    os._exit(128 + sign)


def raise_signals() -> None:
    """From now on a signal is raised where the run is: there is something to be put in order."""
    if _state.answer is Answer.EXIT:
        _state.answer = Answer.RAISE


def exit_on_signals() -> None:
    """From now on a signal ends the process at once: all is done, or was given up."""
    _state.answer = Answer.EXIT


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Hold signals back in this block; one that came is raised after it."""
    before, _state.answer = _state.answer, Answer.HOLD
    try:
        yield
    finally:
        _state.answer = before
    if before is not Answer.HOLD:
        raise_held_signal()


@contextlib.contextmanager
def release_signals() -> Iterator[None]:
    """Within `hold_signals`, what may be ended at any moment: it has a journal of its own."""
    before = _state.answer
    if before is Answer.HOLD:
        _state.answer = Answer.RAISE
        raise_held_signal()
    try:
        yield
    finally:
        _state.answer = before


@contextlib.contextmanager
def absorb_interrupts(held: bool = False) -> Iterator[None]:
    """A block that Ctrl-C ends, and nothing beyond it; other signals end the command after it.

    Args:
        held: it ends by itself, once `get_held_signal` says so; a second Ctrl-C cuts it short.
    """
    before = _state.answer
    _state.answer = Answer.HOLD if held else Answer.RAISE
    try:
        yield
    except Interrupted as stop:
        if stop.sign is not signal.SIGINT:
            raise
    finally:
        _state.answer = before
        if _state.first is signal.SIGINT:
            _state.first, _state.held = None, False
    raise_held_signal()


def get_held_signal() -> signal.Signals | None:
    """The signal that is held back, if one came."""
    return _state.first if _state.held else None


def raise_held_signal() -> None:
    """Raise `Interrupted` for a signal that was held back."""
    sign = get_held_signal()
    if sign is not None:
        interrupt_run(sign)


def raise_lost_signal() -> None:
    """Raise `Interrupted` again where it did not end the work.

    Python drops an exception that meets it in a finalizer, of a model that is let go for instance.
    """
    if _state.first is not None and _state.answer is Answer.RAISE:
        interrupt_run(_state.first)


def find_signal(code: object) -> signal.Signals | None:
    """The signal by which a process ended itself in order, of its exit code."""
    for name in ENDING_SIGNALS:
        sign = getattr(signal, name, None)
        if sign is not None and code == Interrupted(sign).exit_code:
            return sign
    return None


def interrupt_run(sign: signal.Signals) -> NoReturn:
    """Raise `Interrupted` for a signal, to this process or to another one of the run."""
    _state.first, _state.held = _state.first or sign, False
    raise Interrupted(sign)
