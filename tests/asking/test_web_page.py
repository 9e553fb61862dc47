"""The page: whom its server answers, and the three-way view in headless Chromium.

The browser's part skips where there is no Chromium (on the PATH, or named by UNDIAL_CHROMIUM) or no
websocket-client.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from asked import QUESTION, open_engine, write_model
from chromium import Page, find
from conftest import refused

from undial_cli.asking import web_page
from undial_cli.asking.engine import AskingEngine
from undial_cli.asking.web_page import PageServer, serve_page
from undial_cli.asking.words import parse_ask_words
from undial_cli.ui import reveal_controls

in_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(find() is None, reason="no Chromium on the PATH or in UNDIAL_CHROMIUM"),
    pytest.mark.skipif(
        importlib.util.find_spec("websocket") is None, reason="websocket-client is not installed"
    ),
]
NASTY = "<img src=x onerror=alert(1)> \x1b[31m\u202e </script>"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> AskingEngine:
    """Two models that say different things."""
    folder = tmp_path_factory.mktemp("models")
    return open_engine(*(str(write_model(folder / name, seed=len(name))) for name in ("a", "bb")))


@pytest.fixture
def server(engine: AskingEngine) -> Iterator[PageServer]:
    """A server of the page, on a free port."""
    config = parse_ask_words(["pkg://any", "web=true", "max_new_tokens=8"]).config
    with PageServer(engine, config) as opened:
        thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


def request(
    server: PageServer, method: str = "GET", path: str = "/view", body: Any = None, **headers: str
) -> tuple[int, dict[str, str], str]:
    """Status, headers and text; by default as the page itself asks."""
    known = {"Host": server.hosts[0], "X-Undial-Token": server.token}
    known |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    text = body if isinstance(body, str | None) else json.dumps(body)
    connection.request(method, path, text, {k: v for k, v in known.items() if v})
    reply = connection.getresponse()
    content = reply.status, dict(reply.getheaders()), reply.read().decode()
    connection.close()
    return content


def ask_server(server: PageServer, **body: Any) -> list[dict[str, Any]]:
    """The lines that come of a question."""
    status, _, text = request(server, "POST", "/ask", {"question": QUESTION, **body})
    assert status == 200, text
    return [json.loads(line) for line in text.splitlines()]


def test_only_this_machine_is_listened_to(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    for address in others - {"127.0.0.1", "127.0.1.1", "::1"}:
        with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
            socket.create_connection((address, server.server_address[1]), timeout=2)


@pytest.mark.parametrize(
    "headers",
    [
        {"X_Undial_Token": ""},
        {"X_Undial_Token": "guess"},
        {"X_Undial_Token": "é"},
        {"Host": "evil.example"},  # a name that was made to lead here
        {"Host": "127.0.0.1:1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_who_is_not_the_page_gets_nothing(server: PageServer, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/"), ("GET", "/view"), ("POST", "/ask")):
        status, _, text = request(server, method, path, {"question": QUESTION}, **headers)
        assert status == 403
        assert set(json.loads(text)) == {"error"}
        assert server.token not in text


def test_the_page_may_run_its_own_script_and_ask_its_own_server_alone(server: PageServer) -> None:
    status, headers, text = request(server, "GET", f"/?token={server.token}", X_Undial_Token="")
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2
    assert not re.search(r"https?://|\bsrc=|@import|url\(", text)
    assert request(server, "GET", "/../../etc/passwd")[0] == 404


def test_answers_come_token_by_token_and_their_record_is_whole(server: PageServer) -> None:
    lines = ask_server(server)
    texts = [line["text"] for line in lines if line.get("number") == 1]
    assert len(set(texts)) > 3
    end = lines[-1]
    record = json.loads(end["line"])
    assert record["question"] == end["question"] == QUESTION
    assert end["texts"] == [answer["text"] for answer in record["answers"]]
    shown = ["".join(words for words, _ in part) for part in end["partings"]]
    assert shown == [reveal_controls(text) for text in end["texts"]]
    assert record["max_new_tokens"] == 8
    assert json.loads(ask_server(server, settings={"max_new_tokens": "2"})[-1]["line"])[
        "max_new_tokens"
    ] == 2  # fmt: skip


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("{", ("no JSON",)),
        ("[" * 100_000, ("no JSON",)),
        ([], ("question", "none")),
        ({"question": "  "}, ("question", "none")),
        ({"question": "Who?", "settings": {"temperature": "hot"}}, ("temperature=hot",)),
        ({"question": "Who?", "settings": {"out": "/tmp/x"}}, ("key=out",)),
        ({"question": "Who?", "settings": {"chat": "on"}, "turns": [1]}, ("turns",)),
    ],
)
def test_what_is_no_question_is_refused(
    server: PageServer, body: Any, parts: tuple[str, ...]
) -> None:
    status, _, text = request(server, "POST", "/ask", body)
    assert status == 400
    assert all(part in json.loads(text)["error"] for part in parts)


def test_a_body_without_end_is_not_read(server: PageServer) -> None:
    status, _, text = request(server, "POST", "/ask", "x", Content_Length="9" * 12)
    assert (status, "Content-Length" in text) == (400, True)


def test_a_page_that_leaves_ends_its_answers(server: PageServer) -> None:
    body = json.dumps({"question": QUESTION, "settings": {"max_new_tokens": "100000"}})
    head = (
        f"POST /ask HTTP/1.1\r\nHost: {server.hosts[0]}\r\nX-Undial-Token: {server.token}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    with socket.create_connection(server.server_address) as page:
        page.sendall(head.encode())
        assert b"200" in page.recv(1000)
    assert ask_server(server)[-1]["texts"]  # the next one is not kept waiting


def test_a_port_that_is_taken_is_refused(server: PageServer, engine: AskingEngine) -> None:
    taken = server.server_address[1]
    config = parse_ask_words(["pkg://any", "web=true", f"port={taken}"]).config
    refused(lambda: serve_page(engine, config), f"port={taken}", "free")


class TestBrowser:
    """The page as somebody uses it."""

    pytestmark = in_browser

    def test_a_question_is_answered_side_by_side(self, server: PageServer) -> None:
        with Page(dark=True) as page:
            page.open(server.url)
            page.until("document.getElementById('models').textContent === 'a · bb'")
            type_question(page, QUESTION)
            page.until("document.querySelectorAll('.answer .state')[1]?.textContent.includes(' s')")
            page.until("document.body.dataset.busy === 'false'")
            shown = page.run("[...document.querySelectorAll('.answer p')].map(p => p.textContent)")
            expected = ask_server(server)[-1]["texts"]
            assert shown == [reveal_controls(text) for text in expected]
            marked = page.run("document.querySelectorAll('mark').length")
            assert marked > 0
            colour = "getComputedStyle(document.querySelector('mark')).backgroundColor"
            before = page.run(colour)
            page.run("document.getElementById('diff').click()")
            assert page.run(colour) != before
            assert page.run("document.documentElement.scrollWidth") <= 1280
            for count in range(2, 7):
                type_question(page, QUESTION)
                page.until(f"document.querySelectorAll('article').length === {count}")
                page.until("document.body.dataset.busy === 'false'")
            last = "[...document.querySelectorAll('.answer')].pop().getBoundingClientRect().bottom"
            field = "document.querySelector('.dock').getBoundingClientRect().top"
            assert page.run(last) <= page.run(field)  # what came last is not hidden
            own = f"http://{server.hosts[0]}/"
            assert page.requests == [f"{own}view", *[f"{own}ask"] * 6]
            assert page.console == []

    def test_text_is_shown_as_text_and_stop_stops(
        self, server: PageServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = web_page.describe_answer

        def say_nasty(number: int, answer: Any) -> dict[str, Any]:
            answer.text = NASTY + answer.text
            return real(number, answer)

        monkeypatch.setattr(web_page, "describe_answer", say_nasty)
        with Page(width=420) as page:
            page.open(server.url)
            page.until("document.getElementById('models').textContent !== ''")
            page.run("document.getElementById('max_new_tokens').value = '100000'")
            type_question(page, NASTY.replace("\x1b", ""))
            page.until("document.querySelectorAll('.answer p')[0]?.textContent.length > 60")
            assert page.run("document.querySelectorAll('img').length") == 0
            assert reveal_controls(NASTY) in page.run(
                "document.querySelectorAll('.answer p')[0].textContent"
            )
            page.run("document.getElementById('go').click()")
            page.until("document.body.dataset.busy === 'false'")
            assert page.run("document.querySelector('.answer .state').textContent") == "stopped"
            assert page.run("document.documentElement.scrollWidth") <= 420
            assert page.console == []


def type_question(page: Page, question: str) -> None:
    """Type into the field and press Enter."""
    page.run("document.getElementById('question').focus()")
    page.send("Input.insertText", text=question)
    page.key("Enter", "\r")
