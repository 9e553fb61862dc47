"""`undial ask RUN web=true`: the three-way view as a page for a browser on this machine.

Bound to the loopback address alone; answers only who has the token of the address it printed, asks
by that address (no other name leads here) and from this page. The page asks nobody else for
anything, and a Content-Security-Policy forbids it to. Holds no state: the page has the turns.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from undial_cli import ui
from undial_cli.asking.engine import ANSWERING, LOADING, AskingEngine, ModelAnswer
from undial_cli.asking.http_server import PATIENCE, AnswerHandler, AnswerServer
from undial_cli.asking.parting import mark_partings
from undial_cli.asking.prompts import Turn
from undial_cli.asking.terminal import describe_state
from undial_cli.asking.transcript import record_answers
from undial_cli.config.asking import ASK_FIELDS, ASKING_KEYS, AskingConfig, set_typed_value
from undial_cli.errors import UserError, WorldError, bad_value, mask_secrets
from undial_cli.reporting.page import reveal_text
from undial_cli.system.faults import explain_fault
from undial_cli.system.files import format_json_line

ADDRESS = "127.0.0.1"
PAGE_FILE = Path(__file__).with_name("page.html")
TOKEN_HEADER = "X-Undial-Token"
INLINE_PARTS = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


class PageServer(AnswerServer):
    """The page's server: its models and its token."""

    def __init__(self, engine: AskingEngine, config: AskingConfig) -> None:
        super().__init__(ADDRESS, config.port, PageHandler)
        self.engine, self.config = engine, config
        self.token = secrets.token_urlsafe(24)
        self.html = PAGE_FILE.read_bytes()

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a request may call this machine: a name that leads here by DNS is none of these."""
        return tuple(f"{name}:{self.server_address[1]}" for name in (ADDRESS, "localhost"))

    @property
    def url(self) -> str:
        """What is typed into the browser."""
        return f"http://{self.hosts[0]}/?token={self.token}"

    def describe_view(self) -> dict[str, Any]:
        """What the page shows before the first question."""
        models = [
            {"title": model.title, "role": model.role, "path": model.path}
            for model in self.engine.models
        ]
        settings = {key: getattr(self.config, key) for key in ASKING_KEYS}
        help_lines = {key: ASK_FIELDS[key].metadata["help"] for key in ASKING_KEYS}
        return {"models": models, "settings": settings, "help": help_lines}


class PageHandler(AnswerHandler):
    """One request: the page, what it shows first, or a question whose answers are streamed."""

    @property
    def page(self) -> PageServer:
        """What serves this request."""
        assert isinstance(self.server, PageServer)
        return self.server

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if not self.is_trusted():
            return
        if path == "/":
            self.send_whole(self.page.html, "text/html; charset=utf-8")
        elif path == "/view":
            self.send_json(self.page.describe_view())
        else:
            self.refuse(HTTPStatus.NOT_FOUND, "no such page")

    def do_POST(self) -> None:
        if not self.is_trusted():
            return
        if urlsplit(self.path).path != "/ask":
            return self.refuse(HTTPStatus.NOT_FOUND, "no such page")
        try:
            question, config, turns = self.read_question()
        except UserError as error:
            return self.refuse(HTTPStatus.BAD_REQUEST, str(error))
        if not self.page.begin_answer(PATIENCE):
            return self.refuse(HTTPStatus.CONFLICT, "another page is being answered; stop it first")
        try:
            self.stream_answers(question, config, turns)
        except OSError:  # the page left, or its reader pressed stop
            self.close_connection = True
        finally:
            self.page.busy.release()

    def is_trusted(self) -> bool:
        """Whether a request comes from the page that was opened; any other is answered here."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        given = self.headers.get(TOKEN_HEADER) or "".join(
            parse_qs(urlsplit(self.path).query).get("token", [])
        )
        if host not in self.page.hosts:
            reason = "this page is reached by the address that undial printed"
        elif origin is not None and origin not in {f"http://{h}" for h in self.page.hosts}:
            reason = "another page may not ask here"
        elif not hmac.compare_digest(given.encode(), self.page.token.encode()):
            reason = "no token, or one of another start; open the address that undial printed"
        else:
            return True
        self.refuse(HTTPStatus.FORBIDDEN, reason)
        return False

    def read_question(self) -> tuple[str, AskingConfig, list[Turn]]:
        """What the page asks.

        Raises:
            UserError: it is no question, or a setting is not allowed.
        """
        body = self.read_json()
        body = body if isinstance(body, dict) else {}
        question = body.get("question")
        if not isinstance(question, str) or not question.strip():
            raise UserError("question: there is none; type one")
        config = copy.copy(self.page.config)
        config.system = None  # as its field says, which may have been emptied
        settings = body.get("settings")
        for key, value in settings.items() if isinstance(settings, dict) else ():
            if key not in ASKING_KEYS:
                raise bad_value("key", key, ASKING_KEYS)
            if value is not None:
                set_typed_value(config, key, str(value))
        turns = body.get("turns") if config.chat else []
        return question, config, read_turns(turns, len(self.page.engine.models))

    def stream_answers(self, question: str, config: AskingConfig, turns: list[Turn]) -> None:
        """Answers as lines of JSON: what changed after each token, then where they part."""
        self.start(HTTPStatus.OK, "application/x-ndjson")
        shown: list[Any] = [None] * len(self.page.engine.models)
        stream = self.page.engine.answer_question(question, config, turns)
        answers: list[ModelAnswer] = []
        try:
            for answers in stream:
                for number, answer in enumerate(answers):
                    line = describe_answer(number, answer)
                    if line != shown[number]:
                        shown[number] = line
                        self.write_line(line)
                if self.page.closing.is_set():
                    return
            record = record_answers(question, config, answers, len(turns))
            parts = mark_partings([answer.text for answer in answers])
            self.write_line(
                {
                    "partings": reveal_text(parts),
                    "question": question,
                    "texts": [answer.text for answer in answers],
                    "line": format_json_line(record),
                }
            )
        except (UserError, WorldError) as error:
            self.write_line({"error": mask_secrets(str(error))})
        except OSError:
            raise
        except Exception as error:  # said on the page, which waits for an end
            fault = explain_fault(error) or f"{type(error).__name__}: {error}"
            self.write_line({"error": mask_secrets(str(fault))})
        finally:
            stream.close()

    def write_line(self, content: dict[str, Any]) -> None:
        """A line of the stream; OSError once nobody reads it."""
        text = json.dumps(content, allow_nan=False)
        self.wfile.write(text.encode() + b"\n")
        self.wfile.flush()

    def send_json(self, content: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_whole(json.dumps(reveal_text(content)).encode(), "application/json", status)

    def refuse(self, status: HTTPStatus, reason: str) -> None:
        """An answer that is no page."""
        self.send_json({"error": mask_secrets(reason)}, status)

    def list_headers(self) -> dict[str, str]:
        return {
            **super().list_headers(),
            "Content-Security-Policy": write_page_policy(self.page.html),
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
        }


def write_page_policy(html: bytes) -> str:
    """What the page may do: run its one script, have its one style, ask its own server."""
    allowed = {"style": "", "script": ""}
    for kind, content in INLINE_PARTS.findall(html.decode()):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        allowed[kind] += f" 'sha256-{digest}'"
    return (
        f"default-src 'none'; script-src{allowed['script']}; style-src{allowed['style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def describe_answer(number: int, answer: ModelAnswer) -> dict[str, Any]:
    """An answer so far, for the page to show as text."""
    is_live = answer.state in (LOADING, ANSWERING)
    shown = {"text": answer.text, "state": describe_state(answer)}
    return {"number": number, "live": is_live, **reveal_text(shown)}


def read_turns(content: Any, models: int) -> list[Turn]:
    """The turns that the page holds; raises UserError for what is none."""
    turns = []
    for entry in content if isinstance(content, list) else []:
        question, texts = map(entry.get, ("question", "texts")) if isinstance(entry, dict) else "  "
        if not (isinstance(question, str) and isinstance(texts, list) and len(texts) == models):
            raise UserError("turns: expected objects of a question and a text for each model")
        turns.append(Turn(question, tuple(map(str, texts))))
    return turns


def serve_page(engine: AskingEngine, config: AskingConfig) -> None:
    """Serve until Ctrl-C.

    Raises:
        UserError: the port is taken.
    """
    try:
        server = PageServer(engine, config)
    except OSError as error:
        raise UserError(
            f"port={config.port}: cannot be used ({error.strerror}); allowed is a port that is "
            "free, or 0 for any"
        ) from error
    titles: Sequence[str] = [model.title for model in engine.models]
    ui.say(f"{', '.join(titles)}: open {server.url}", log=False)
    ui.say("the page is for this machine alone; Ctrl-C ends it", "dim")
    server.serve_until_interrupted()
    ui.say("the page is closed", "dim")
