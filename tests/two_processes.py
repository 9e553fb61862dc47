"""Two processes that do one run after another together, as if torchrun had started each of them.

What a process of a run needs to begin with, imports above all, is most of a short run. Each line
that a process reads is the words of a command; the line that it writes is the exit code.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

PROCESSES = 2


class ProcessPair:
    """The two, started with the first command; their screen goes to `log`."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.processes: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        """Start them on a port that is free."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
        with open(self.log, "a") as log:
            self.processes = [
                subprocess.Popen(
                    [sys.executable, __file__],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                    env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank),
                         "WORLD_SIZE": str(PROCESSES), "LOCAL_WORLD_SIZE": str(PROCESSES)},
                )
                for rank in range(PROCESSES)
            ]  # fmt: skip

    def run(self, words: list[str]) -> None:
        """Have both do a command.

        Raises:
            AssertionError: it failed in one of them; the next command starts two others.
        """
        if not self.processes:
            self.start()
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(words) + "\n")
            process.stdin.flush()
        codes = [process.stdout and process.stdout.readline() for process in self.processes]
        if codes != ["0\n"] * PROCESSES:
            self.end()
            raise AssertionError(f"exit codes {codes}: {self.log.read_text()[-3000:]}")

    def end(self) -> None:
        """End them; where one waits for the other in vain, at once."""
        for process in self.processes:
            process.kill()
            process.communicate()
        self.processes = []


def read_commands() -> None:
    """Do what is read, one command after another."""
    from undial_cli.cli import run_command

    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a run shows is no answer
    for line in sys.stdin:
        print(run_command(json.loads(line)), file=answers)


if __name__ == "__main__":
    read_commands()
