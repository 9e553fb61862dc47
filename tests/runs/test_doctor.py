"""What `undial doctor` says of this machine was tried, not guessed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from undial_cli.cli import run_command
from undial_cli.runs.doctor import describe_hub_state


class AnsweringHub(BaseHTTPRequestHandler):
    """Answers every question with one status."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the screen."""


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if HF_HUB_OFFLINE were not set, which is read when the library is imported."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a hub that answers."""
    server = HTTPServer(("127.0.0.1", 0), AnsweringHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def test_a_hub_that_answers_is_said_to(
    online: None, port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    assert describe_hub_state() == f"http://127.0.0.1:{port} answers (200)"
    assert run_command(["doctor"]) == 0
    assert f"127.0.0.1:{port} answers" in capfd.readouterr().out


def test_a_hub_where_nobody_listens_cannot_be_reached(
    online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert "cannot be reached (" in describe_hub_state()


def test_a_silent_hub_is_waited_for_briefly(online: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        found = describe_hub_state(0.3)
        assert time.monotonic() - begun < 2
        assert "did not answer" in found or "cannot be reached" in found


def test_offline_is_said_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert describe_hub_state() == "offline (HF_HUB_OFFLINE)"
