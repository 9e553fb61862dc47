"""Conversations through a chat template, within limits of time and memory.

The template comes with the tokenizer and is a program: it runs in a process of its own
(`render_process`), started when it is first needed, stopped when its time is up, and gone when
nobody asks any more. Knows no messages and no tokenizer.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import selectors
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from undial_cli.errors import UserError

# Seconds that a template has for a row (ordinary ones take a thousandth of one), and that the
# process has to start.
SECONDS, START_SECONDS = 20.0, 120.0
# Environment that Python itself may need to find its libraries, and nothing else.
SEARCH_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "SYSTEMROOT")


class TemplateError(Exception):
    """What a template raises for, in its own words."""


class Renderer:
    """The process, and the pipes to it."""

    def __init__(self) -> None:
        known = {name: os.environ[name] for name in SEARCH_VARIABLES if name in os.environ}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("render_process.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=known | {"PYTHONSAFEPATH": "1", "PYTHONIOENCODING": "utf-8"},
            cwd="/",
            start_new_session=True,  # an interrupt of the terminal is for the run
        )
        self.lock = threading.Lock()
        self.read_line(START_SECONDS)

    def ask(self, request: bytes, seconds: float) -> dict[str, Any]:
        """The answer to a request; TimeoutError, or EOFError where the process is gone."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(request + b"\n")
            self.process.stdin.flush()
        except OSError as error:
            raise EOFError from error
        return json.loads(self.read_line(seconds))

    def read_line(self, seconds: float) -> bytes:
        assert self.process.stdout is not None
        pieces, handle = [], self.process.stdout.fileno()
        with selectors.DefaultSelector() as waiting:
            waiting.register(handle, selectors.EVENT_READ)
            while True:
                if not waiting.select(seconds):
                    raise TimeoutError
                piece = os.read(handle, 1 << 20)
                if not piece:
                    raise EOFError
                pieces.append(piece)
                if piece.endswith(b"\n"):
                    return b"".join(pieces)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()


@functools.lru_cache(maxsize=1)
def start_renderer(process: int) -> Renderer:
    """The renderer of a process: one that was forked shares no pipe with the other."""
    del process
    renderer = Renderer()
    atexit.register(renderer.stop)
    return renderer


def stop_renderer(renderer: Renderer) -> None:
    start_renderer.cache_clear()
    atexit.unregister(renderer.stop)
    renderer.stop()


def render_within_limits(
    template: str,
    conversations: list[list[dict[str, Any]]],
    variables: dict[str, Any],
    day: str,
) -> list[str]:
    """The text of each conversation.

    Args:
        variables: what the template is given besides the messages.
        day: what the template takes for today, as in 2024-07-26.

    Raises:
        TemplateError: the template refuses the messages.
        UserError: it takes too long, too much memory, or writes without end.
    """
    request = json.dumps(
        {
            "template": template,
            "conversations": conversations,
            "variables": variables,
            "day": day,
        },
        default=lambda value: f"<{type(value).__name__}>",
    ).encode()
    answer = ask_renderer(request)
    if "texts" in answer:
        return answer["texts"]
    if answer["limit"]:
        raise limit_error(answer["error"])
    raise TemplateError(answer["error"])


def ask_renderer(request: bytes) -> dict[str, Any]:
    """The answer to a request; a renderer that something killed is asked anew, once."""
    for _ in range(2):
        renderer = start_renderer(os.getpid())
        with renderer.lock:
            try:
                return renderer.ask(request, SECONDS)
            except TimeoutError as error:
                stop_renderer(renderer)
                raise limit_error(f"it takes more than {SECONDS:g} seconds for a row") from error
            except EOFError:
                stop_renderer(renderer)
    raise limit_error("it ends the process that it runs in")


def limit_error(reason: str) -> UserError:
    return UserError(
        f"model.template.chat=true: the chat template is not to be trusted ({reason}); set "
        "model.template.chat=false, or model.tokenizer_path to a tokenizer that you trust"
    )
