"""The real command in a process of its own, without the seconds that importing takes it.

What a command imports is most of a short one. A server imports it once (forked_imports.py), and
each command is a fork of the server, with folder, environment, signals, streams and exit code of
its own. Where a variable is set that is read as something is imported, Python starts anew.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
# Variables that libraries read as they are imported begin so.
READ_BY_IMPORTS = (
    "PYTHON", "LD_", "OMP_", "MKL_", "CUDA_", "TORCH_", "TORCHDYNAMO", "BNB_", "HF_",
    "HUGGING", "TRANSFORMERS_", "HOME", "XDG_", "MPL", "TERM", "COLUMNS", "NO_COLOR",
    "FORCE_COLOR",
)  # fmt: skip


def find_import_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that an import may read."""
    return {k: v for k, v in environment.items() if k.startswith(READ_BY_IMPORTS)}


@functools.cache
def read_own_settings() -> dict[str, str]:
    """Those of the tests, when they begin; the server is started with them."""
    return find_import_settings(os.environ)


@functools.cache
def start_server() -> None:
    """Start the server, once: before Python 3.12 it does not look where this process would."""
    SERVER.set_forkserver_preload(["forked_imports"])
    path = os.environ.get("PYTHONPATH")
    try:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        forkserver.ensure_running()
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


class Command:
    """A command under way, to be used as a `subprocess.Popen`; what it says goes to files.

    Args:
        words: those of the command line after `undial`, or after the script.
        env: variables beside those of the tests.
        heeded: a signal that is not ignored, even if what started the tests had them ignore it.
        script: a file of Python that is run in place of the command.
    """

    def __init__(
        self,
        words: Sequence[str],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        heeded: signal.Signals = signal.SIGTERM,
        script: Path | None = None,
    ) -> None:
        self.words = [*words]
        environment = {**os.environ, **(env or {})}
        self.files = [tempfile.NamedTemporaryFile() for _ in range(2)]  # noqa: SIM115
        self.process: Any
        if find_import_settings(environment) == read_own_settings():
            files = [file.name for file in self.files]
            asked = (self.words, str(cwd), environment, files, heeded, script)
            start_server()
            self.process = SERVER.Process(target=become_command, args=asked)
            self.process.start()
        else:
            self.process = subprocess.Popen(
                [sys.executable, *([script] if script else ["-m", "undial_cli.cli"]), *words],
                cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
                stdout=self.files[0], stderr=self.files[1],
                # A shell's job in the background ignores SIGINT, one under nohup SIGHUP, and so
                # does all that they start.
                preexec_fn=lambda: signal.signal(heeded, signal.SIG_DFL),
            )  # fmt: skip
        self.pid: int = self.process.pid

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.poll()
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended; raises subprocess.TimeoutExpired."""
        if isinstance(self.process, subprocess.Popen):
            return self.process.wait(timeout)
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(self.words, timeout or 0)
        return self.process.exitcode

    def send_signal(self, sign: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sign)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def finish(self, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Wait for the end; what it said. It is killed where it takes longer."""
        try:
            code = self.wait(timeout)
        finally:
            self.kill()
        texts = []
        for file in self.files:
            file.seek(0)
            texts.append(file.read().decode())
        return subprocess.CompletedProcess(self.words, code, *texts)


def become_command(
    words: list[str],
    cwd: str,
    environment: dict[str, str],
    files: list[str],
    heeded: int,
    script: Path | None,
) -> None:
    """In a fork of the server: do what `python -m undial_cli.cli WORDS` does, or a script."""
    from undial_cli.cli import main

    for number, file in enumerate(files, start=1):
        opened = os.open(file, os.O_WRONLY)
        os.dup2(opened, number)
        os.close(opened)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = io.TextIOWrapper(io.FileIO(number, "w"), "utf-8", line_buffering=True)
        setattr(sys, name, stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(heeded, signal.SIG_DFL)
    tempfile.tempdir = None  # or it would be that of the server
    sys.argv = [str(script or "undial"), *words]
    try:
        if script:
            sys.path.insert(0, str(script.parent))
            runpy.run_path(str(script), run_name="__main__")
        else:
            main()
    finally:
        atexit._run_exitfuncs()  # which a process of multiprocessing leaves out


def run_together(
    script: Path, words: Sequence[str], cwd: Path, count: int, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in several processes as torchrun does: where one fails, the others are ended.

    Returns:
        The first exit code that is not 0, and what all of them said.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    counts = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    commands = [
        Command(
            words, cwd, {**env, **meeting, **counts, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            script=script,
        )
        for rank in range(count)
    ]  # fmt: skip
    failed = 0
    while not failed and any(command.poll() is None for command in commands):
        time.sleep(0.05)
        # One that was killed comes before one that misses it.
        failed = min((code for command in commands if (code := command.poll())), default=0)
    if failed:
        for command in commands:
            command.kill()
    ended = [command.finish() for command in commands]
    out, err = ("".join(getattr(end, name) for end in ended) for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess([*words], failed, out, err)
