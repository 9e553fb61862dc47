"""Tries things, each in a process of its own: what crashes, hangs or prints ends itself alone.

A trial is a function that returns what it measured or raises; knows nothing of what is tried.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import multiprocessing
import os
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from undial_cli.errors import UserError, WorldError, first_line

OK, WARN, FAIL, ABSENT = "ok", "warn", "fail", "absent"


@dataclass(frozen=True)
class Trial:
    """What is tried: `act` returns a Measurement, within `seconds` of wall time."""

    name: str
    act: Callable[..., Measurement]
    advice: str  # what to do where it fails
    needed: bool = False  # whether a run of the defaults fails where this does
    arguments: tuple[Any, ...] = ()
    seconds: float = 60


@dataclass(frozen=True)
class Measurement:
    """What a trial measured; with advice, what is to be done although it went well."""

    text: str
    advice: str = ""
    state: str = OK


@dataclass(frozen=True)
class Finding:
    """What became of a trial: `ok`, `warn`, `fail` or `absent` (of what is optional)."""

    name: str
    state: str
    measured: str
    advice: str
    seconds: float


@dataclass
class StartedTrial:
    """A trial's process, and the end of the pipe that its measurement comes from."""

    trial: Trial
    process: Any
    receiver: Connection
    begun: float

    @property
    def seconds_left(self) -> float:
        return self.begun + self.trial.seconds - time.monotonic()


def carry_out_trials(trials: Sequence[Trial], side_by_side: int = 2) -> list[Finding]:
    """What became of each trial, in their order; a few are tried at a time."""
    findings = {finding.name: finding for finding in watch_trials(deque(trials), side_by_side)}
    return [findings[trial.name] for trial in trials]


def watch_trials(waiting: deque[Trial], side_by_side: int) -> Iterator[Finding]:
    """Start trials as others end; none is left running."""
    started: list[StartedTrial] = []
    try:
        while waiting or started:
            while waiting and len(started) < side_by_side:
                started.append(start_trial(waiting.popleft()))
            limit = max(0.0, min(one.seconds_left for one in started))
            answered = wait([one.receiver for one in started], limit)
            for one in list(started):
                if one.receiver in answered or one.seconds_left <= 0:
                    started.remove(one)
                    yield finish_trial(one)
    finally:
        for one in started:
            end_process(one.process)


def start_trial(trial: Trial) -> StartedTrial:
    # A fork has the libraries of this process, whose imports are what takes seconds.
    method = "fork" if sys.platform == "linux" else "spawn"
    receiver, sender = multiprocessing.get_context(method).Pipe(duplex=False)
    process = multiprocessing.get_context(method).Process(
        target=answer_trial, args=(trial, sender), daemon=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that wait for work
        process.start()
    sender.close()  # or the pipe would not end with the process
    return StartedTrial(trial, process, receiver, time.monotonic())


def answer_trial(trial: Trial, sender: Connection) -> None:
    """In a trial's process: act, send what came of it, and leave without taking anything down."""
    if hasattr(os, "setsid"):
        os.setsid()  # its own processes end with it
        signal.alarm(math.ceil(trial.seconds) + 1)  # where nobody is left to end it
    silence = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(silence, number)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - what a test put in their place
    faulthandler.disable()  # a crash is said in a word
    try:
        measured = trial.act(*trial.arguments)
        answer = (measured.state, measured.text, measured.advice)
        if measured.advice and measured.state == OK:
            answer = (WARN, measured.text, measured.advice)
    except BaseException as error:
        named = isinstance(error, UserError | WorldError)
        text = str(error) if named else f"{type(error).__name__}: {first_line(error)}"
        answer = (FAIL, " ".join(text.split()), trial.advice)
    sender.send(answer)
    sender.close()
    os._exit(0)


def finish_trial(one: StartedTrial) -> Finding:
    """The finding of a trial that answered, ended or took too long."""
    trial, seconds = one.trial, time.monotonic() - one.begun
    answer = (FAIL, f"gave no answer within {trial.seconds:g} s", trial.advice)
    if one.receiver.poll():
        try:
            answer = one.receiver.recv()
        except (EOFError, OSError):
            one.process.join(5)
            answer = (FAIL, f"ended by {name_exit(one.process.exitcode)}", trial.advice)
    end_process(one.process)
    state, text, advice = answer
    if state == FAIL and not trial.needed:
        state = WARN
    return Finding(trial.name, state, text, advice, round(seconds, 2))


def name_exit(code: int | None) -> str:
    """The signal, or the exit code, that a process ended with."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


def end_process(process: Any) -> None:
    """End a trial's process and those that it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join(5)
