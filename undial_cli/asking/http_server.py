"""What the page of `undial ask` and the endpoint of `undial serve` have in common, over HTTP.

One request is answered at a time, and the next one waits: a model is in the middle of a token.
Knows no page and no protocol.
"""

from __future__ import annotations

import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from undial_cli.errors import UserError, bad_value
from undial_cli.system.files import parse_json
from undial_cli.system.signals import absorb_interrupts

# Of a question with all turns before it.
MOST_BODY_BYTES = 4_000_000
# Seconds that a question waits for one whose asker has left, and the end for both.
PATIENCE = 10


class AnswerServer(ThreadingHTTPServer):
    """A server with the lock of the one answer at a time, and the word that it ends."""

    daemon_threads = True

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.busy, self.closing = threading.Lock(), threading.Event()
        self.answering: threading.Thread | None = None
        super().__init__((host, port), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what failed; not that a caller left, or that the end closed the connection."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def begin_answer(self, seconds: float) -> bool:
        """Whether it is this thread's turn within so many seconds; it is to release `busy` then."""
        if not self.busy.acquire(timeout=seconds):
            return False
        if self.closing.is_set():
            self.busy.release()
            return False
        self.answering = threading.current_thread()
        return True

    def serve_until_interrupted(self) -> None:
        """Serve until Ctrl-C, and let a model that answers end its token."""
        try:
            with absorb_interrupts(), self:
                self.serve_forever()
        finally:
            self.closing.set()
            self.busy.acquire(timeout=PATIENCE)  # nobody begins any more
            if self.answering is not None:
                # A thread that Python ends within torch takes the process with it (SIGABRT).
                self.answering.join(PATIENCE)


class AnswerHandler(BaseHTTPRequestHandler):
    """One request: its JSON, and how it is replied to (HTTP/1.0: the body ends the connection)."""

    server_version, sys_version = "undial", ""
    timeout = 60  # seconds of a request that does not come whole

    def read_json(self) -> Any:
        """The body of a request; raises UserError for none, too long a one or no JSON."""
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or int(size) > MOST_BODY_BYTES:
            raise bad_value("Content-Length", size, f"a number up to {MOST_BODY_BYTES}")
        try:
            return parse_json(self.rfile.read(int(size)))
        except ValueError as error:
            raise UserError(f"the question is no JSON ({error})") from error

    def list_headers(self) -> dict[str, str]:
        """What every reply says besides the kind of its content."""
        return {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

    def start(self, status: HTTPStatus, kind: str) -> None:
        """Status and headers."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, **self.list_headers()}.items():
            self.send_header(name, value)
        self.end_headers()

    def send_whole(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.start(status, kind)
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests hold keys and questions, and stand in no log."""
