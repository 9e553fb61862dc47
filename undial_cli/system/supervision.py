"""A process and the one that started it, each watching the other. Imports no torch.

A child ends when its parent is gone, at whatever stage it is, and gives a beat whenever its work
gets on; the parent counts how long no beat has come. Knows nothing of the work.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from undial_cli import ui
from undial_cli.system import signals

# What a child finds in its environment: its parent's number, and the file for its beats.
PARENT_VARIABLE, BEAT_VARIABLE = "UNDIAL_PARENT", "UNDIAL_BEAT"
PR_SET_PDEATHSIG = 1  # linux/prctl.h
HALTED = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP, psutil.STATUS_DISK_SLEEP)
BEAT_BYTES = 200


def make_child_environment(beats: Path) -> dict[str, str]:
    """The variables of a child of this process that writes its beats to this file."""
    return {PARENT_VARIABLE: str(os.getpid()), BEAT_VARIABLE: str(beats)}


def end_with_parent() -> None:
    """End this process when the one that started it is gone, however that was killed.

    To be called before all else. The child was told who started it: a parent that is gone already
    is no longer the one that the system names.
    """
    parent = int(os.environ.pop(PARENT_VARIABLE, 0)) or os.getppid()
    if sys.platform == "linux":
        # The kernel's kill reaches a process that is stopped, or that hangs in a call, as well.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def wait_for_death() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # sys.exit would end this thread alone

    if os.getppid() != parent:
        os._exit(1)
    threading.Thread(target=wait_for_death, daemon=True).start()


@functools.cache
def open_beat_file() -> int | None:
    """The file for the beats of this process, None where nobody watches it."""
    path = os.environ.pop(BEAT_VARIABLE, None)  # of this process, not of those that it starts
    return None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)


def is_watched() -> bool:
    """Whether a parent ends this process when it gives no beat."""
    return open_beat_file() is not None


class Pulse:
    """What this process last told: how often it got on, in which stage, after which step."""

    count, stage, step = 0, "starting", 0


def give_beat(stage: str = "", step: int = 0) -> None:
    """Tell the parent and the progress shown that the work gets on.

    After every step, batch and exchange.

    Args:
        stage: what is done, in a word or two; "" for what was done before.
        step: the number of the last step done; 0 where there is none.
    """
    if stage:
        signals.raise_lost_signal()
        ui.note_work(stage, step)
    file = open_beat_file()
    if file is None:
        return
    if stage:
        Pulse.stage, Pulse.step = stage, step
    Pulse.count += 1
    line = f"{Pulse.count} {Pulse.step} {Pulse.stage}".encode()[:BEAT_BYTES]
    os.pwrite(file, line.ljust(BEAT_BYTES), 0)


class Watch:
    """How long the children that write to these files have given no beat, in seconds.

    Time is counted between looks: while the parent is stopped itself, as by a scheduler that
    suspends a job, nobody's time runs.
    """

    LONGEST_LOOK = 5.0

    def __init__(self, files: Mapping[int, Path]) -> None:
        self.files, self.looked_at = files, time.monotonic()
        self.beats = dict.fromkeys(files, b"")
        self.silence = dict.fromkeys(files, 0.0)

    def look(self) -> bool:
        """Read all beats; whether there was a new one."""
        now = time.monotonic()
        passed = min(now - self.looked_at, self.LONGEST_LOOK)
        self.looked_at = now
        for number, file in self.files.items():
            beat = file.read_bytes() if file.exists() else b""
            is_new = beat != self.beats[number]
            self.silence[number] = 0.0 if is_new else self.silence[number] + passed
            self.beats[number] = beat
        return 0.0 in self.silence.values()

    def measure_silence(self) -> float:
        """Seconds since any child gave a beat: those that wait for another one give none either."""
        return min(self.silence.values())

    def find_silent(self, pids: Mapping[int, int]) -> int:
        """Which child the others wait for: one that is halted, else the one silent for longest."""
        halted = [number for number, pid in pids.items() if is_halted(pid)]
        return max(halted or list(pids), key=self.silence.__getitem__)

    def describe_silence(self, number: int) -> str:
        """For how long a child has said nothing, and what it said last."""
        _, step, stage = (self.beats[number].decode(errors="replace").split(None, 2) + [""] * 3)[:3]
        last = f"{stage.strip() or 'starting'}{f', last step {step}' if step.strip('0') else ''}"
        return f"has not answered for {self.silence[number]:.0f} s ({last})"


def is_halted(pid: int) -> bool:
    """Whether a process is stopped, waits for a disk that does not answer, or is gone."""
    try:
        return psutil.Process(pid).status() in HALTED
    except psutil.NoSuchProcess:
        return True
