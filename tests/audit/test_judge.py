"""Helper models that score the answers of an audit: a server of our own, a model, an embedder."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import refused
from questioned import CPU, ROWS, make_data
from small import byte_tokenizer, random_llama, shared_tokenizer
from transformers import BertConfig, BertModel

from undial_cli.audit import judge
from undial_cli.audit.attack import AuditData, Outcome
from undial_cli.audit.carry_out import AttackResults
from undial_cli.audit.judge import (
    JudgedAnswer,
    post_prompt,
    read_reply,
    score_answers_by_helpers,
    write_prompt,
)
from undial_cli.config.attacks import AuditConfig, JudgeConfig
from undial_cli.data.collate import pad_examples
from undial_cli.data.example import Example
from undial_cli.errors import WorldError
from undial_cli.losses.positions import IGNORE
from undial_cli.runs.compose import compose_run

TEXTS = {
    "unlearned": ["In Kelmwick, with Bo.", "", "Nobody knows."],
    "retain": ["In Rome.", "Nobody knows.", "Nobody knows."],
}


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def make_results() -> AttackResults:
    """What one attack got of two models, and another that generates nothing."""
    outcomes = {
        "direct": {r: Outcome([0, 1, 2], {"rouge": [0.0] * 3}, t) for r, t in TEXTS.items()},
        "choice": {r: Outcome([0, 1], {"choice": [0.0, 1.0]}) for r in TEXTS},
    }
    return AttackResults(outcomes)


def make_judged_data(**keys: Any) -> AuditData:
    return replace(make_data(), config=AuditConfig(judge=JudgeConfig(**keys)))


class Server(HTTPServer):
    """An endpoint that says yes to replies with Kelmwick in them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.failures: list[int] = []  # statuses to come
        self.reply: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.failures:
            self.send_error(self.server.failures.pop(0))
            return
        self.server.requests.append(content)
        self.server.headers.append(dict(self.headers))
        self.server.paths.append(self.path)
        told = "Reply: In Kelmwick" in content["messages"][0]["content"]
        word = self.server.reply or ("**Yes**, it does." if told else "No.")
        body = json.dumps({"choices": [{"message": {"role": "assistant", "content": word}}]})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_endpoint_is_asked_once_of_every_answer(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    data = make_judged_data(url=server.url, model="some-model", key_variable="MY_KEY")
    results = make_results()
    score_answers_by_helpers(results, data, CPU, 0)
    assert results.missing == {}
    assert results.outcomes["direct"]["unlearned"].scores["judge"] == [1, 0, 0]
    assert results.outcomes["direct"]["retain"].scores["judge"] == [0, 0, 0]
    assert set(results.outcomes["choice"]["retain"].scores) == {"choice"}
    # Of six answers one is empty, and one is given twice to the same question.
    assert len(server.requests) == 4
    assert set(server.paths) == {"/v1/chat/completions"}
    for request, headers in zip(server.requests, server.headers, strict=True):
        assert headers["Authorization"] == "Bearer secret"
        assert (request["model"], request["temperature"]) == ("some-model", 0)
    (message,) = server.requests[0]["messages"]
    assert message["role"] == "user"
    for text in (ROWS[0]["question"], ROWS[0]["answer"], TEXTS["unlearned"][0]):
        assert text in message["content"]
    # What was said is read back.
    score_answers_by_helpers(make_results(), data, CPU, 0)
    assert len(server.requests) == 4


def test_replies_that_came_before_it_stopped_are_not_asked_for_again(server: Server) -> None:
    data = make_judged_data(url=server.url)
    results = make_results()
    post, asked = judge.post_prompt, []

    def stop_at_third(prompt: str, config: JudgeConfig) -> str:
        asked.append(prompt)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return post(prompt, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "post_prompt", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            score_answers_by_helpers(results, data, CPU, 0)
    score_answers_by_helpers(results, data, CPU, 0)
    assert len(server.requests) == 4
    assert results.outcomes["direct"]["unlearned"].scores["judge"] == [1, 0, 0]


def test_a_busy_endpoint_is_asked_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "WAITS", (0.0, 0.0))
    server.failures = [429, 503]
    assert post_prompt("Reply: In Kelmwick", JudgeConfig(url=server.url)).startswith("**Yes")
    server.failures = [429] * 3
    with pytest.raises(WorldError, match="says 429"):
        post_prompt("any", JudgeConfig(url=server.url))
    server.failures = [401]  # no better the second time
    with pytest.raises(WorldError, match="says 401"):
        post_prompt("any", JudgeConfig(url=server.url))


@pytest.mark.parametrize(
    "keys, reason",
    [
        ({"url": "http://127.0.0.1:9/v1"}, "audit.judge.url=http://127.0.0.1:9/v1: cannot be"),
        ({"path": "/no/such/model"}, "audit.judge.path=/no/such/model"),
    ],
    ids=str,
)
def test_a_judge_that_cannot_be_had_is_missing_and_the_rest_goes_on(
    keys: dict[str, str], reason: str
) -> None:
    results = make_results()
    score_answers_by_helpers(results, make_judged_data(**keys), CPU, 0)
    assert reason in results.missing["judge"]
    assert "\n" not in results.missing["judge"]
    assert set(results.outcomes["direct"]["unlearned"].scores) == {"rouge"}


def test_an_endpoint_that_says_something_else_is_missing(server: Server) -> None:
    server.reply = "As a language model I could not say."
    results = make_results()
    score_answers_by_helpers(results, make_judged_data(url=server.url), CPU, 0)
    assert "As a language model" in results.missing["judge"]


@pytest.mark.parametrize(
    "reply, value",
    [("Yes", 1), (" no.", 0), ("**NO**: yes, but", 0), ("nothing", None), ("", None)],
)
def test_the_first_yes_or_no_counts(reply: str, value: float | None) -> None:
    assert read_reply(reply) == value


def test_without_a_judge_nothing_is_scored() -> None:
    results = make_results()
    score_answers_by_helpers(results, make_data(), CPU, 0)
    assert results == make_results()


@pytest.mark.slow
@pytest.mark.parametrize("chat", [True, False])
def test_a_model_of_ones_own_judges(chat: bool, tmp_path: Path) -> None:
    tokenizer = shared_tokenizer() if chat else byte_tokenizer(bos=True)
    answers = [
        JudgedAnswer(row["question"], row["answer"], text)
        for row, text in zip(ROWS, TEXTS["unlearned"], strict=True)
        if text
    ]
    model = random_llama(vocab=len(tokenizer))
    model.config.max_position_embeddings = 2048
    examples = []
    for answer, word in zip(answers, ("Yes", "No"), strict=True):
        prompt, end = f"{write_prompt(answer)}\n", "</s>"
        if chat:
            messages = [{"role": "user", "content": write_prompt(answer)}]
            prompt = str(
                tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            )
            end = "<|im_end|>"
        start: Any = tokenizer(prompt, add_special_tokens=not chat)["input_ids"]
        rest: Any = tokenizer(word + end, add_special_tokens=False)["input_ids"]
        examples.append(Example([*start, *rest], [IGNORE] * len(start) + rest, 0))
    batch = pad_examples(examples, 0)
    labels = batch.pop("labels")[:, 1:]
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(25):
        logits = model(**batch, use_cache=False).logits[:, :-1].transpose(1, 2)
        F.cross_entropy(logits, labels, ignore_index=IGNORE).backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    results = make_results()
    score_answers_by_helpers(results, make_judged_data(path=str(tmp_path / "judge")), CPU, 0)
    assert results.missing == {}
    assert results.outcomes["direct"]["unlearned"].scores["judge"] == [1, 0, 0]


def test_similarity_is_of_the_answer_and_the_true_one(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="pip install 'undial[quality]'")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(shared_tokenizer()), intermediate_size=32, **shape)
    BertModel(config).save_pretrained(tmp_path / "encoder")
    shared_tokenizer().save_pretrained(tmp_path / "encoder")
    data = make_data()
    data.suite.config.similarity_model = str(tmp_path / "encoder")
    results = make_results()
    results.outcomes["direct"]["unlearned"].texts[0] = ROWS[0]["answer"]
    score_answers_by_helpers(results, data, CPU, 0)
    values = results.outcomes["direct"]["unlearned"].scores["similarity"]
    assert values[0] == pytest.approx(1, abs=1e-5)
    assert values[1] == 0  # an empty answer
    assert 0 <= values[2] < 0.99999  # type: ignore[operator]


def test_an_embedder_that_cannot_be_had_is_missing() -> None:
    data = make_data()
    data.suite.config.similarity_model = "/no/such/model"
    results = make_results()
    score_answers_by_helpers(results, data, CPU, 0)
    assert "eval.similarity_model" in results.missing["similarity"]


def test_wrong_words_about_a_judge_are_refused() -> None:
    refused(lambda: compose_run("audit", ["audit.judge.url=host/v1"]), "audit.judge.url=host/v1")
    both = ["audit.judge.url=http://host/v1", "audit.judge.path=model"]
    refused(lambda: compose_run("audit", both), "audit.judge.path=model", "audit.judge.url")
