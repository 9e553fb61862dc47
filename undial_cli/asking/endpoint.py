"""The server of `undial serve`: models behind the OpenAI protocol, and who may ask them.

Who is to be answered: with a key, who gives it; without one it listens on the loopback address
alone, and answers nobody who calls this machine by another name, and no web page. Nothing that is
asked or answered is written anywhere. Holds no conversation: a request has all its messages.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import itertools
import json
import select
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote, urlsplit

from undial_cli import ui
from undial_cli.asking.choices import count_stop_letters, stream_choices, write_prompts
from undial_cli.asking.engine import AskingEngine
from undial_cli.asking.http_server import AnswerHandler, AnswerServer
from undial_cli.asking.models import AskedModel
from undial_cli.asking.protocol import (
    ROUTES,
    AnswerRequest,
    Choice,
    ReplyWriter,
    RequestError,
    describe_error,
    read_request,
)
from undial_cli.config.asking import ServingConfig
from undial_cli.errors import UserError, bad_value, first_line
from undial_cli.system.faults import explain_fault

# Seconds between two looks at whether one that waits for its turn is still there.
LOOK_SECONDS = 0.5


class EndpointServer(AnswerServer):
    """The models by the names that requests give them, and the key, where there is one."""

    def __init__(
        self, engine: AskingEngine, names: Sequence[str], config: ServingConfig, secret: str | None
    ) -> None:
        self.engine, self.config, self.secret = engine, config, secret
        self.models = dict(zip(names, engine.models, strict=True))
        self.began, self.draws = int(time.time()), itertools.count()
        if ":" in config.host:
            self.address_family = socket.AF_INET6
        super().__init__(config.host, config.port, EndpointHandler)

    @property
    def url(self) -> str:
        """The address that tools are given."""
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.server_address[1]}/v1"

    def find_model(self, name: str) -> AskedModel:
        """The model of that name; raises RequestError where there is none."""
        if name not in self.models:
            reason = str(bad_value("model", name, self.models))
            raise RequestError(reason, HTTPStatus.NOT_FOUND, "model_not_found", "model")
        return self.models[name]

    def describe_model(self, name: str) -> dict[str, Any]:
        self.find_model(name)
        return {"id": name, "object": "model", "created": self.began, "owned_by": "undial"}


class EndpointHandler(AnswerHandler):
    """One request: which models there are, or answers, whole or streamed."""

    @property
    def endpoint(self) -> EndpointServer:
        """What serves this request."""
        assert isinstance(self.server, EndpointServer)
        return self.server

    @property
    def route(self) -> str:
        """The path that is asked for."""
        return urlsplit(self.path).path.rstrip("/")

    def do_GET(self) -> None:
        try:
            self.check_caller()
            if self.route == "/v1/models":
                models = [self.endpoint.describe_model(name) for name in self.endpoint.models]
                self.send_json({"object": "list", "data": models})
            elif self.route.startswith("/v1/models/"):
                name = unquote(self.route.removeprefix("/v1/models/"))
                self.send_json(self.endpoint.describe_model(name))
            else:
                raise self.make_route_error()
        except UserError as error:
            self.refuse(error)

    def do_POST(self) -> None:
        try:
            body = self.read_json()  # first: a reply beside what was not read may be lost
            self.check_caller()
            if self.route not in ROUTES:
                raise self.make_route_error()
            request = read_request(body, ROUTES[self.route], self.endpoint.config)
            self.endpoint.find_model(request.model)
        except UserError as error:
            return self.refuse(error)
        with self.take_turn() as has_turn:
            if has_turn:
                self.answer_request(request)

    def check_caller(self) -> None:
        """Raise RequestError for somebody who is not to be answered."""
        secret, headers = self.endpoint.secret, self.headers
        if secret is not None:
            given = headers.get("Authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {secret}".encode()):
                reason = "no key, or a wrong one; it is given as Authorization: Bearer KEY"
                raise RequestError(reason, HTTPStatus.UNAUTHORIZED, "invalid_api_key")
            return
        host, origin = headers.get("Host"), headers.get("Origin")
        if host is not None and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            reason = "without a key this is reached as localhost or 127.0.0.1 only"
            raise RequestError(reason, HTTPStatus.FORBIDDEN)
        if origin is not None:
            raise RequestError("without a key no web page may ask", HTTPStatus.FORBIDDEN)

    def make_route_error(self) -> RequestError:
        routes = ["/v1/models", *ROUTES]
        return RequestError(str(bad_value("path", self.route, routes)), HTTPStatus.NOT_FOUND)

    @contextlib.contextmanager
    def take_turn(self) -> Iterator[bool]:
        """While open, this request is the one that is answered; False where its caller left."""
        while not self.endpoint.begin_answer(LOOK_SECONDS):
            if self.is_left():
                yield False
                return
        try:
            yield True
        except OSError:  # the caller left
            self.close_connection = True
        finally:
            self.endpoint.busy.release()

    def is_left(self) -> bool:
        """Whether nobody waits for the reply any more."""
        with contextlib.suppress(OSError):
            readable, _, _ = select.select([self.connection], [], [], 0)
            is_open = not readable or bool(self.connection.recv(1, socket.MSG_PEEK))
            return self.endpoint.closing.is_set() or not is_open
        return True

    def answer_request(self, request: AnswerRequest) -> None:
        """The reply; OSError once nobody reads it."""
        is_begun = False
        try:
            endpoint = self.endpoint
            model = endpoint.find_model(request.model)
            prompts = write_prompts(endpoint.engine, model, request)
            read = sum(len(prompt.ids) for prompt in prompts)
            writer = ReplyWriter(request, uuid.uuid4().hex)
            choices = self.watch_choices(
                stream_choices(endpoint.engine, model, request, prompts, endpoint.draws)
            )
            if request.is_streamed:
                self.start(HTTPStatus.OK, "text/event-stream; charset=utf-8")
                is_begun = True
                self.stream_reply(request, writer, choices, read)
            else:
                whole = {choice.index: choice for choice in choices}
                self.send_json(writer.write_whole(list(whole.values()), read))
        except OSError:
            raise
        except Exception as error:  # said to the caller, who waits for an end
            fault = explain_fault(error) or error
            if is_begun:
                self.write_event(describe_error(fault)[1])
            else:
                self.refuse(fault)

    def watch_choices(self, choices: Iterator[Choice]) -> Iterator[Choice]:
        """The same; OSError where the caller leaves, who would notice it of a whole reply last."""
        for choice in choices:
            if self.is_left():
                raise ConnectionAbortedError
            yield choice

    def stream_reply(
        self, request: AnswerRequest, writer: ReplyWriter, choices: Iterator[Choice], read: int
    ) -> None:
        """What is new of each answer, as it comes."""
        begun: dict[int, Choice] = {}
        sent: dict[int, str] = {}
        for choice in choices:
            index = choice.index
            if index not in begun and request.is_chat:
                self.write_event(writer.write_part(index, "", first=True))
            begun[index] = choice
            before = sent.get(index, "")
            text = choice.text
            if choice.finish is None:
                text = text[: len(text) - count_stop_letters(text, request.stops)]
            if text.startswith(before) and text != before:
                self.write_event(writer.write_part(index, text[len(before) :]))
                sent[index] = text
            if choice.finish is not None:
                self.write_event(writer.write_part(index, "", choice.finish))
        if request.reports_usage:
            self.write_event(writer.write_usage(list(begun.values()), read))
        self.wfile.write(b"data: [DONE]\n\n")

    def write_event(self, content: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(content, allow_nan=False).encode() + b"\n\n")
        self.wfile.flush()

    def send_json(self, content: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_whole(json.dumps(content, allow_nan=False).encode(), "application/json", status)

    def refuse(self, error: Exception) -> None:
        """A reply that says what is wrong."""
        status, content = describe_error(error)
        self.send_json(content, status)


def is_loopback(host: str) -> bool:
    """Whether an address or a name stands for this machine, and for it alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve_endpoint(
    engine: AskingEngine, names: Sequence[str], config: ServingConfig, secret: str | None
) -> None:
    """Load the first model, and serve until Ctrl-C.

    Raises:
        UserError: it cannot listen there, or the model cannot be loaded.
    """
    try:
        server = EndpointServer(engine, names, config, secret)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(
            f"host={config.host} port={config.port}: cannot be listened at ({reason}); allowed is "
            "an address of this machine, and a port that is free, or 0 for any"
        ) from error
    try:
        with engine.use_model(engine.models[0]):
            pass
    except BaseException:
        server.server_close()
        raise
    key = "no key" if secret is None else f"the key of {config.key_file or config.key_variable}"
    ui.say(f"listening: base URL {server.url}, model {' or '.join(names)}, {key}", log=False)
    ui.say("Ctrl-C ends it", "dim")
    server.serve_until_interrupted()
    ui.say("the endpoint is closed", "dim")
