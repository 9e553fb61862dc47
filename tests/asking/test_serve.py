"""The endpoint: what tools get of it over HTTP, who gets nothing, and the command itself."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from asked import (
    QUESTION,
    answer_by_generate,
    open_engine,
    write_model,
    write_prompt,
    write_run,
)
from conftest import refused
from small import shared_tokenizer, small_model

from undial_cli.asking.endpoint import EndpointServer
from undial_cli.asking.protocol import read_request
from undial_cli.asking.serve_command import make_vllm_words, read_endpoint_key
from undial_cli.asking.words import parse_serve_words
from undial_cli.audit.judge import post_prompt
from undial_cli.cli import run_command
from undial_cli.config.asking import ServingConfig
from undial_cli.config.attacks import JudgeConfig
from undial_cli.errors import WorldError

COUNT = 10
KEY = "a-key-of-the-tests-alone"  # pragma: allowlist secret
ASKED = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": COUNT}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models that say different things."""
    folder = tmp_path_factory.mktemp("models")
    return {name: write_model(folder / name, seed=len(name)) for name in ("a", "bb")}


@pytest.fixture(scope="module")
def server(models: dict[str, Path]) -> Iterator[EndpointServer]:
    """An endpoint for both, on a free port, without a key."""
    engine = open_engine(*map(str, models.values()))
    config = parse_serve_words(["pkg://any", "port=0"]).config
    with EndpointServer(engine, list(models), config, None) as opened:
        thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


@pytest.fixture
def secret(server: EndpointServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """The key that the endpoint asks for during a test."""
    monkeypatch.setattr(server, "secret", KEY)
    return KEY


def request(
    server: EndpointServer, path: str = "/v1/chat/completions", body: Any = None, **headers: str
) -> tuple[int, str]:
    """Status and text; a GET where there is no body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    text = body if isinstance(body, str | None) else json.dumps({"model": "a", **body})
    connection.request("POST" if text is not None else "GET", path, text, headers)
    reply = connection.getresponse()
    content = reply.status, reply.read().decode()
    connection.close()
    return content


def ask(server: EndpointServer, path: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    """A whole reply."""
    status, text = request(server, path, body)
    assert status == 200, text
    return json.loads(text)


def ask_error(server: EndpointServer, *arguments: Any, **headers: str) -> tuple[int, dict]:
    """The status and the error of a request that is refused, in the protocol's shape."""
    status, text = request(server, *arguments, **headers)
    error = json.loads(text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return status, error


def stream(server: EndpointServer, path: str = "/v1/chat/completions", **body: Any) -> list[Any]:
    """The events of a streamed reply, which is ended as the protocol has it."""
    status, text = request(server, path, {"stream": True, **body})
    assert status == 200, text
    *events, last, rest = text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def decode(ids: list[int]) -> str:
    return str(shared_tokenizer().decode(ids)).strip()


def test_an_answer_is_that_of_generate_token_for_token(
    server: EndpointServer, models: dict[str, Path]
) -> None:
    for name, path in models.items():
        ids = answer_by_generate(path, write_prompt(QUESTION), COUNT)
        reply = ask(server, model=name, **ASKED)
        (choice,) = reply["choices"]
        assert choice["message"] == {"role": "assistant", "content": decode(ids)}
        assert choice["finish_reason"] == ("length" if len(ids) == COUNT else "stop")
        sizes = len(write_prompt(QUESTION)), len(ids)
        assert reply["usage"] == {
            "prompt_tokens": sizes[0], "completion_tokens": sizes[1], "total_tokens": sum(sizes),
        }  # fmt: skip
        assert (reply["object"], reply["model"]) == ("chat.completion", name)


def test_a_stream_is_the_same_answer_in_parts(server: EndpointServer) -> None:
    whole = ask(server, **ASKED)
    *events, end, usage = stream(server, stream_options={"include_usage": True}, **ASKED)
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert len(deltas) > COUNT // 2
    text = "".join(delta["content"] for delta in deltas)
    assert text == whole["choices"][0]["message"]["content"]
    assert end["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert (usage["choices"], usage["usage"]) == ([], whole["usage"])
    assert {event["object"] for event in events} == {"chat.completion.chunk"}


def test_a_conversation_and_its_system_message_are_read_as_transformers_writes_them(
    server: EndpointServer, models: dict[str, Path]
) -> None:
    talk = [
        {"role": "user", "content": "Who is Ann?"},
        {"role": "assistant", "content": "A smith."},
        {"role": "user", "content": [{"type": "text", "text": "Where?"}]},
    ]
    reply = ask(server, messages=talk, max_tokens=COUNT)
    ids = write_prompt("Who is Ann?", "A smith.", "Where?")
    expected = decode(answer_by_generate(models["a"], ids, COUNT))
    assert reply["choices"][0]["message"]["content"] == expected
    template: Any = shared_tokenizer().apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}],
        add_generation_prompt=True, tokenize=False,
    )  # fmt: skip
    ids = list(shared_tokenizer()(template, add_special_tokens=False).input_ids)
    told = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
    reply = ask(server, messages=told, max_completion_tokens=COUNT)
    assert reply["usage"]["prompt_tokens"] == len(ids)
    assert reply["choices"][0]["message"]["content"] == decode(
        answer_by_generate(models["a"], ids, COUNT)
    )


def test_a_text_goes_on_as_generate_has_it(server: EndpointServer, models: dict[str, Path]) -> None:
    path, prompt = "/v1/completions", "The lighthouse keeper"
    ids = list(shared_tokenizer()(prompt).input_ids)
    new = answer_by_generate(models["a"], ids, COUNT)
    text = shared_tokenizer().decode([*ids, *new])[len(shared_tokenizer().decode(ids)) :]
    reply = ask(server, path, prompt=[prompt, ids, "Who"], max_tokens=COUNT)
    assert [choice["text"] for choice in reply["choices"]][:2] == [text, text]
    parts = stream(server, path, prompt=prompt, max_tokens=COUNT)
    assert "".join(part["choices"][0]["text"] for part in parts) == text
    assert {part["object"] for part in parts} == {reply["object"]} == {"text_completion"}


def test_what_is_drawn_follows_from_the_seed_and_without_one_differs(
    server: EndpointServer,
) -> None:
    def draw(**body: Any) -> list[str]:
        reply = ask(server, temperature=1.5, **ASKED, **body)
        return [choice["message"]["content"] for choice in reply["choices"]]

    first = draw(seed=1, n=2)
    assert first == draw(seed=1, n=2) != draw(seed=2, n=2)
    assert first[0] != first[1]
    assert draw() != draw()
    greedy = ask(server, n=3, **ASKED)
    assert len({choice["message"]["content"] for choice in greedy["choices"]}) == 1
    assert [choice["index"] for choice in greedy["choices"]] == [0, 1, 2]


def test_an_answer_ends_before_a_stop_text_which_is_never_sent(server: EndpointServer) -> None:
    whole = ask(server, **ASKED)["choices"][0]["message"]["content"]
    start = len(whole) // 2
    stop = whole[start : start + 4]
    expected = whole[: whole.find(stop)]
    (choice,) = ask(server, stop=["never said", stop], **ASKED)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (expected, "stop")
    *parts, end = stream(server, stop=stop, **ASKED)
    assert "".join(part["choices"][0]["delta"]["content"] for part in parts) == expected
    assert end["choices"][0]["finish_reason"] == "stop"


def test_models_are_listed_and_another_is_not_loaded(server: EndpointServer) -> None:
    status, text = request(server, "/v1/models")
    assert status == 200
    assert [model["id"] for model in json.loads(text)["data"]] == ["a", "bb"]
    assert json.loads(request(server, "/v1/models/bb")[1])["id"] == "bb"
    for wrong in (("/v1/models/no",), ("/v1/chat/completions", {**ASKED, "model": "org/no"})):
        status, error = ask_error(server, *wrong)
        assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert "a, bb" in error["message"]
    assert ask_error(server, "/v1/embeddings", ASKED)[0] == ask_error(server, "/")[0] == 404


def test_who_has_no_key_gets_nothing(server: EndpointServer, secret: str) -> None:
    for given in ({}, {"Authorization": "Bearer guess"}, {"Authorization": secret}):
        for path, body in (("/v1/models", None), ("/v1/chat/completions", ASKED)):
            status, error = ask_error(server, path, body, **given)
            assert (status, error["code"]) == (401, "invalid_api_key")
            assert secret not in error["message"]
    right = {"Authorization": f"Bearer {secret}", "Host": "elsewhere.example", "Origin": "null"}
    assert request(server, body=ASKED, **right)[0] == 200


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_without_a_key_no_web_page_may_ask(server: EndpointServer, headers: dict[str, str]) -> None:
    assert ask_error(server, "/v1/chat/completions", ASKED, **headers)[0] == 403
    assert ask_error(server, "/v1/models", None, **headers)[0] == 403


def test_the_judge_of_an_audit_can_ask_here(
    server: EndpointServer, secret: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = JudgeConfig(url=server.url, model="bb", key_variable="TEST_JUDGE_KEY")
    monkeypatch.setenv("TEST_JUDGE_KEY", secret)
    expected = decode(answer_by_generate(models["bb"], write_prompt(QUESTION), 16))
    assert post_prompt(QUESTION, judge) == expected
    monkeypatch.setenv("TEST_JUDGE_KEY", "wrong")
    with pytest.raises(WorldError, match="says 401"):
        post_prompt(QUESTION, judge)


def test_a_caller_that_leaves_ends_its_answer(server: EndpointServer) -> None:
    body = json.dumps({"model": "a", **ASKED, "max_tokens": 100_000})
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.request("POST", "/v1/chat/completions", body)
    connection.close()
    assert ask(server, **ASKED)["choices"]  # the next one is not kept waiting


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_refused_as_the_protocol_says_it(
    models: dict[str, Path], tmp_path: Path, server: EndpointServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_model(tmp_path / "table", small_model("gpt2", vocab=len(shared_tokenizer())))
    monkeypatch.setattr(server, "engine", open_engine(str(path)))
    monkeypatch.setattr(server, "models", {"a": server.engine.models[0]})
    talk = [{"role": "user", "content": "who " * 5000}]
    status, error = ask_error(server, "/v1/chat/completions", {"messages": talk})
    assert (status, error["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ([], ("no JSON object",)),
        ({"temprature": 1}, ("temprature", "did you mean 'temperature'?")),
        ({"temperature": "hot"}, ("temperature=hot", "a number")),
        ({"temperature": True}, ("temperature=True", "a number")),
        ({"temperature": -1}, ("temperature=-1", ">= 0")),
        ({"max_tokens": 0}, ("max_tokens=0", ">= 1")),
        ({"max_tokens": 1.5}, ("max_tokens=1.5", "an integer")),
        ({"seed": -1}, ("seed=-1", ">= 0")),
        ({"n": 0}, ("n=0", "from 1 to")),
        ({"model": 1}, ("model=1", "a name")),
        ({"model": None}, ("model=None", "a name")),
        ({"stream": "yes"}, ("stream=yes", "true or false")),
        ({"stop": [""]}, ("stop", "not empty")),
        ({"logprobs": True}, ("logprobs=True", "not to be had")),
        ({"tools": [{"type": "function"}]}, ("tools", "not to be had")),
        ({"response_format": {"type": "json_object"}}, ("response_format", "not to be had")),
        ({"messages": None}, ("messages", "a list of objects")),
        ({"messages": [{"role": "tool", "content": "x"}]}, ("messages[0].role=tool", "user")),
        ({"messages": [{"role": "user"}]}, ("messages[0].content", "a text")),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            ("messages[0].content", "parts that are text"),
        ),
        ({"messages": [{"role": "assistant", "content": "x"}]}, ("role=assistant", "user")),
    ],
)
def test_what_cannot_be_had_is_refused_and_never_passed_over(
    body: Any, parts: tuple[str, ...]
) -> None:
    asked = {"model": "a", **ASKED, **body} if isinstance(body, dict) else body
    refused(lambda: read_request(asked, True, ServingConfig()), *parts)


def test_what_changes_no_answer_is_allowed() -> None:
    quiet = {"user": "me", "frequency_penalty": 0.0, "logprobs": False, "n": 1, "top_p": None}
    asked = read_request({"model": "a", **ASKED, **quiet}, True, ServingConfig(temperature=0.5))
    assert (asked.config.temperature, asked.config.max_new_tokens) == (0.5, COUNT)
    refused(lambda: read_request({"model": "a", "prompt": [-1]}, False, ServingConfig()), "prompt")


def test_a_key_comes_from_a_variable_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNDIAL_API_KEY", raising=False)
    assert read_endpoint_key(ServingConfig()) is None
    monkeypatch.setenv("UNDIAL_API_KEY", KEY)
    assert read_endpoint_key(ServingConfig()) == KEY
    for content in ("", "short", "with a blank in the middle", KEY + "\nsecond line"):
        (tmp_path / "key").write_text(content)
        config = ServingConfig(key_file=str(tmp_path / "key"))
        refused(lambda config=config: read_endpoint_key(config), "key_file=", "16 or more")
    (tmp_path / "key").write_text(KEY + "\n")
    assert read_endpoint_key(config) == KEY


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ("serve: expected a run folder or a model", "undial serve outputs")),
        (["nowhere"], ("serve nowhere", "no such run folder")),
        (["{model}", "Who is it?"], ("serve Who is it?",)),
        (["{model}", "hots=::"], ("key=hots", "did you mean 'host'?")),
        (["{model}", "port=70000"], ("port=70000", "65535")),
        (["{model}", "host=none"], ("host=None", "127.0.0.1")),
        (["{model}", "host=0.0.0.0"], ("host=0.0.0.0", "UNDIAL_API_KEY")),
        (["{model}", "host=example.org"], ("host=example.org", "a key is needed")),
        (["{model}", "engine=ollama"], ("engine=ollama", "undial, vllm")),
        (["{model}", "port={taken}"], ("port={taken}", "a port that is free")),
        (["{model}", "host=127.9.9", "port=0"], ("host=127.9.9", "key")),
        (["{model}/config.json"], ("serve {model}/config.json",)),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    words: list[str], parts: tuple[str, ...], models: dict[str, Path], server: EndpointServer,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("UNDIAL_API_KEY", raising=False)
    known = {"model": models["a"], "taken": server.server_address[1]}
    assert run_command(["serve", *(word.format(**known) for word in words)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert all(part.format(**known) in line for part in parts), line


def test_vllm_is_given_the_same_model_and_settings(models: dict[str, Path]) -> None:
    from undial_cli.asking.models import list_asked_models

    words = [str(models["a"]), "temperature=0.5", "model.dtype=bfloat16"]
    asked = parse_serve_words(words)
    (model,) = list_asked_models(asked)
    line = " ".join(make_vllm_words(model, "a", asked.config))
    assert line == (
        f"serve {models['a']} --served-model-name a --host 127.0.0.1 --port 8000 --seed 0 "
        '--generation-config vllm --override-generation-config {"temperature": 0.5, "top_p": 1.0} '
        "--dtype bfloat16"
    )
    asked.config.system = "Be brief."
    refused(lambda: make_vllm_words(model, "a", asked.config), "engine=vllm", "engine=undial")


def test_a_caller_who_breaks_off_leaves_no_word(
    server: EndpointServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()
    close = server.shutdown_request
    monkeypatch.setattr(server, "shutdown_request", lambda asked: [close(asked), ended.set()])
    with socket.create_connection(server.server_address[:2]) as caller:
        caller.sendall(b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: 10\r\n\r\n{")
        # Closed like this the other side reads no end but an error.
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert ended.wait(60)
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_the_command_serves_a_run_and_ends_on_an_interrupt(
    models: dict[str, Path], tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", models["bb"], None)
    (run / "checkpoint").symlink_to(models["a"])
    command = [sys.executable, "-m", "undial_cli.cli", "serve", str(run), "port=0"]
    environment = {**os.environ, "UNDIAL_API_KEY": KEY}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert "model unlearned or target, the key of UNDIAL_API_KEY" in line
        url = line.split()[3].rstrip(",")
        os.environ["JUDGE_KEY"] = KEY
        for role, name in (("unlearned", "a"), ("target", "bb")):
            judge = JudgeConfig(url=url, model=role, key_variable="JUDGE_KEY")
            expected = decode(answer_by_generate(models[name], write_prompt(QUESTION), 16))
            assert post_prompt(QUESTION, judge) == expected
        # While one is answered and another waits its turn.
        body = json.dumps({"model": "target", "stream": True, **ASKED, "max_tokens": 100_000})
        callers = [http.client.HTTPConnection(urlsplit(url).netloc, timeout=60) for _ in range(2)]
        headers = {"Authorization": f"Bearer {KEY}"}
        callers[0].request("POST", "/v1/chat/completions", body, headers)
        assert callers[0].getresponse().readline().startswith(b"data: ")
        callers[1].request("POST", "/v1/chat/completions", body, headers)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    finally:
        os.environ.pop("JUDGE_KEY", None)
        process.kill()
        process.stdout.close()
    for caller in callers:
        caller.close()
    assert process.wait() == 0
    assert rest.splitlines() == ["Ctrl-C ends it", "the endpoint is closed"]
