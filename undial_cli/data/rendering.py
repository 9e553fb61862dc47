"""Conversations through a chat template, within limits of time and memory.

The template comes with the tokenizer and is a program of somebody else's: it runs in a process of
its own (`render_process`), which is started when it is first needed and ends with the one that asks
it. Knows no messages and no tokenizer.
"""

from __future__ import annotations

import functools
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil

from undial_cli.data.render_process import MEMORY, SECONDS
from undial_cli.errors import UserError

# Seconds of silence after which the memory of the process is looked at; a row takes a thousandth.
WATCH_SECONDS = 0.05
# Environment that Python may need to start, and nothing else.
START_VARIABLES = ("PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


Conversation = list[dict[str, Any]]


class TemplateError(Exception):
    """What a template raises for, in its own words."""


class Renderer:
    """The process, and the pipes to it."""

    def __init__(self) -> None:
        known = {name: os.environ[name] for name in START_VARIABLES if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("render_process.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=known | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"},
            cwd="/",
            start_new_session=True,  # an interrupt of the terminal is for the run
        )
        self.lock = threading.Lock()
        assert self.process.stdout is not None
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def ask(self, request: bytes) -> list[dict[str, Any]]:
        """The answer to a request; EOFError where the process is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(request + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise EOFError from error
        return json.loads(self.read_line())

    def read_line(self) -> bytes:
        assert self.process.stdout is not None
        pieces = [b""]
        while not pieces[-1].endswith(b"\n"):
            while not self.selector.select(WATCH_SECONDS):
                self.check_memory()
            pieces.append(os.read(self.process.stdout.fileno(), 1 << 20))
            if not pieces[-1]:
                raise EOFError
        return b"".join(pieces)

    def check_memory(self) -> None:
        """Raise UserError beyond the limit, where the system itself holds no process to one."""
        try:
            taken = psutil.Process(self.process.pid).memory_info().rss
        except psutil.Error:  # it has just ended
            return
        if taken > MEMORY:
            raise limit_error(f"it takes more than {MEMORY >> 20:,} MB of memory")


@functools.lru_cache(maxsize=1)
def start_renderer(process: int) -> Renderer:
    """The renderer of a process: one that was forked shares no pipe with the other."""
    del process
    return Renderer()


def render_within_limits(
    template: str, conversations: list[Conversation], variables: dict[str, Any], day: str
) -> list[str]:
    """The text of each conversation of a row.

    Args:
        variables: what the template is given besides the messages.
        day: what the template takes for today, as in 2024-07-26.

    Raises:
        TemplateError: the template refuses the messages.
        UserError: it takes too long, too much memory, or writes without end.
    """
    (texts,) = render_rows_within_limits(template, [conversations], variables, day)
    if isinstance(texts, TemplateError):
        raise texts
    return texts


def render_rows_within_limits(
    template: str, rows: list[list[Conversation]], variables: dict[str, Any], day: str
) -> list[list[str] | TemplateError]:
    """The texts of each row's conversations, or what the template raises for the row.

    The other arguments and what is raised are those of `render_within_limits`.
    """
    request = {"template": template, "rows": rows, "variables": variables, "day": day}
    text = json.dumps(request, default=lambda value: f"<{type(value).__name__}>")
    try:
        answers = ask_renderer(text.encode())
        if answers and answers[-1].get("limit"):
            raise limit_error(answers[-1]["error"])
    except UserError:
        if len(rows) == 1:
            raise
        # Together they may have taken what each may by itself.
        parts = [render_rows_within_limits(template, [row], variables, day) for row in rows]
        return [answer for part in parts for answer in part]
    return [TemplateError(a["error"]) if "error" in a else a["texts"] for a in answers]


def ask_renderer(request: bytes) -> list[dict[str, Any]]:
    """The answer to a request; a renderer that somebody killed is asked anew, once."""
    for _ in range(2):
        renderer = start_renderer(os.getpid())
        with renderer.lock:
            try:
                return renderer.ask(request)
            except EOFError:
                start_renderer.cache_clear()
                if renderer.process.wait() == -signal.SIGPROF:
                    raise limit_error(f"it takes more than {SECONDS} seconds for a row") from None
            except BaseException:  # an answer that comes yet is to another request
                start_renderer.cache_clear()
                renderer.process.kill()
                renderer.process.wait()
                raise
    raise limit_error("it ends the process that it runs in")


def limit_error(reason: str) -> UserError:
    return UserError(
        f"model.template.chat=true: the chat template is not to be trusted ({reason}); set "
        "model.template.chat=false, or model.tokenizer_path to a tokenizer that you trust"
    )
