"""The OpenAI protocol: what a request may say; how answers, parts of one and errors are written.

What a request does not set is as on the command line of `undial serve`. A setting that would change
an answer and cannot be had is refused, never passed over. Knows no server and no model.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from undial_cli.asking.prompts import LongPrompt
from undial_cli.config.asking import SERVE_FIELDS, ServingConfig
from undial_cli.config.fields import check_field_value
from undial_cli.data.answers import Message
from undial_cli.errors import UserError, WorldError, bad_value, mask_secrets, suggest_nearest

# Whether a path asks for the next message of a chat, or for what goes on from a text.
ROUTES = {"/v1/chat/completions": True, "/v1/completions": False}
# What the protocol calls our keys; of two the later one holds.
SETTING_KEYS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
}
READ_KEYS = ("model", "messages", "prompt", "stop", "n", "stream", "stream_options")
# What changes no answer.
UNREAD_KEYS = (
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
    "parallel_tool_calls",
)  # fmt: skip
# What would change one, with the values that do not.
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "logit_bias": ({},),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "best_of": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MOST_CHOICES, MOST_STOPS = 128, 16


class RequestError(UserError):
    """What is wrong with a request, with the status and the code that the protocol has for it."""

    def __init__(
        self, reason: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST, code: str | None = None,
        param: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(reason)
        self.status, self.code, self.param = status, code, param


@dataclass(frozen=True)
class AnswerRequest:
    """A request that can be answered.

    `messages`: of a chat; `prompts`: else texts or token ids, each to go on from; `count`: answers
    to each; `is_seeded`: the request says what fixes its draws; `reports_usage`: in a stream.
    """

    model: str
    messages: list[Message]
    prompts: list[str | list[int]]
    config: ServingConfig
    stops: tuple[str, ...]
    count: int
    is_chat: bool
    is_seeded: bool
    is_streamed: bool
    reports_usage: bool


@dataclass
class Choice:
    """An answer so far; `finish`: how it ended, "stop" or "length", once it has."""

    index: int
    text: str = ""
    finish: str | None = None
    tokens: int = 0


def read_request(body: Any, is_chat: bool, defaults: ServingConfig) -> AnswerRequest:
    """What a request asks for.

    Raises:
        UserError: it is none, or asks for what cannot be had.
    """
    if not isinstance(body, dict):
        raise UserError("the request is no JSON object")
    given = {key: value for key, value in body.items() if value is not None}
    check_request_keys(given)
    config = copy.copy(defaults)
    for key, name in SETTING_KEYS.items():
        if key in given:
            field = SERVE_FIELDS[name]
            kinds = (int,) if field.type == "int" else (int, float)
            check_kind(key, given[key], kinds, "an integer" if kinds == (int,) else "a number")
            check_field_value(key, given[key], field)
            setattr(config, name, given[key])
    count = given.get("n", 1)
    check_kind("n", count, (int,), "an integer")
    if not 1 <= count <= MOST_CHOICES:
        raise bad_value("n", count, f"an integer from 1 to {MOST_CHOICES}")
    options = given.get("stream_options", {})
    for key, value, kind in (
        ("model", given.get("model"), str),
        ("stream", given.get("stream", False), bool),
        ("stream_options", options, dict),
    ):
        check_kind(
            key, value, (kind,), {str: "a name", bool: "true or false"}.get(kind, "an object")
        )
    return AnswerRequest(
        model=given["model"],
        messages=read_chat_messages(given.get("messages")) if is_chat else [],
        prompts=[] if is_chat else read_prompts(given.get("prompt")),
        config=config,
        stops=read_stops(given.get("stop", [])),
        count=count,
        is_chat=is_chat,
        is_seeded="seed" in given,
        is_streamed=given.get("stream", False),
        reports_usage=bool(options.get("include_usage")),
    )


def check_request_keys(given: dict[str, Any]) -> None:
    """Raise UserError for a key that nobody knows, or a wish that cannot be met."""
    known = [*SETTING_KEYS, *READ_KEYS, *UNREAD_KEYS, *NEUTRAL_VALUES]
    for key, value in given.items():
        if key not in known:
            raise RequestError(
                f"{key}: no such key of a request{suggest_nearest(key, known)}", param=key
            )
        if key in NEUTRAL_VALUES and value not in NEUTRAL_VALUES[key]:
            raise RequestError(f"{key}={value}: not to be had here; leave it out", param=key)


def check_kind(key: str, value: Any, kinds: tuple[type, ...], phrase: str) -> None:
    """Raise UserError for a value of another type; true and false are no numbers."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise bad_value(key, value, phrase)


def read_chat_messages(content: Any) -> list[Message]:
    """The messages of a chat, the last one the user's."""
    if not isinstance(content, list) or not content:
        raise UserError("messages: expected a list of objects with a role and a content")
    messages: list[Message] = []
    for number, entry in enumerate(content):
        name = f"messages[{number}]"
        entry = entry if isinstance(entry, dict) else {}
        if entry.get("role") not in ROLES:
            raise bad_value(f"{name}.role", entry.get("role"), ROLES)
        text = entry.get("content")
        if isinstance(text, list):
            text = join_parts(text)
        if not isinstance(text, str):
            raise UserError(f"{name}.content: expected a text, or a list of parts that are text")
        messages.append({"role": ROLES[entry["role"]], "content": text})
    if messages[-1]["role"] != "user":
        raise bad_value(
            f"messages[{len(messages) - 1}].role", messages[-1]["role"], "user: it asks"
        )
    return messages


def join_parts(parts: list[Any]) -> str | None:
    """The parts of a message as one text; None where one of them is none."""
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    are_texts = len(texts) == len(parts) and all(isinstance(text, str) for text in texts)
    return "\n".join(map(str, texts)) if are_texts else None


def read_prompts(content: Any) -> list[str | list[int]]:
    """Texts or token ids to go on from; one may stand without its list."""
    is_one = isinstance(content, str) or is_ids(content)
    prompts = [content] if is_one else content
    if not (
        isinstance(prompts, list)
        and prompts
        and all(isinstance(prompt, str) or is_ids(prompt) for prompt in prompts)
    ):
        raise UserError("prompt: expected a text or token ids, or a list of them")
    return prompts


def is_ids(content: Any) -> bool:
    """Whether something is token ids: a list of integers, at least one."""
    is_list = isinstance(content, list) and bool(content)
    return is_list and all(type(item) is int and item >= 0 for item in content)


def read_stops(content: Any) -> tuple[str, ...]:
    """Texts that end an answer, and are no part of it."""
    stops = [content] if isinstance(content, str) else content
    if not isinstance(stops, list) or len(stops) > MOST_STOPS:
        raise UserError(f"stop: expected a text, or a list of at most {MOST_STOPS}")
    if not all(isinstance(stop, str) and stop for stop in stops):
        raise UserError("stop: expected texts that are not empty")
    return tuple(stops)


class ReplyWriter:
    """The replies to one request: whole, or a part after each token."""

    def __init__(self, request: AnswerRequest, identity: str) -> None:
        self.request = request
        kind = "chat.completion" if request.is_chat else "text_completion"
        prefix = "chatcmpl" if request.is_chat else "cmpl"
        self.head = {
            "id": f"{prefix}-{identity}",
            "object": kind,
            "created": int(time.time()),
            "model": request.model,
        }
        # Whole and part have one name in the older of the two.
        self.part_head = self.head | ({"object": f"{kind}.chunk"} if request.is_chat else {})

    def write_whole(self, choices: list[Choice], prompt_tokens: int) -> dict[str, Any]:
        """All answers at once."""
        return {
            **self.head,
            "choices": [self.write_choice(choice) for choice in choices],
            "usage": count_usage(choices, prompt_tokens),
        }

    def write_choice(self, choice: Choice) -> dict[str, Any]:
        message = {"role": "assistant", "content": choice.text}
        answer = {"message": message} if self.request.is_chat else {"text": choice.text}
        ending = {"logprobs": None, "finish_reason": choice.finish}
        return {"index": choice.index, **answer, **ending}

    def write_part(
        self, index: int, text: str, finish: str | None = None, first: bool = False
    ) -> dict[str, Any]:
        """What is new of an answer; `first`: whose it is, before anything is."""
        delta = {"role": "assistant"} if first else {}
        delta |= {"content": text} if text or first else {}
        answer = {"delta": delta} if self.request.is_chat else {"text": text}
        ending = {"logprobs": None, "finish_reason": finish}
        return {**self.part_head, "choices": [{"index": index, **answer, **ending}]}

    def write_usage(self, choices: list[Choice], prompt_tokens: int) -> dict[str, Any]:
        """The last part of a stream that was asked for its usage."""
        return {**self.part_head, "choices": [], "usage": count_usage(choices, prompt_tokens)}


def count_usage(choices: list[Choice], prompt_tokens: int) -> dict[str, int]:
    """Tokens that were read and written."""
    written = sum(choice.tokens for choice in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
    }


def describe_error(error: Exception) -> tuple[HTTPStatus, dict[str, Any]]:
    """The status of an error, and what the protocol says of it."""
    if isinstance(error, LongPrompt):
        error = RequestError(str(error), code="context_length_exceeded", param="messages")
    elif isinstance(error, UserError) and not isinstance(error, RequestError):
        error = RequestError(str(error))
    if isinstance(error, RequestError):
        status, kind, code, param = (
            error.status, "invalid_request_error", error.code, error.param
        )  # fmt: skip
    else:
        status, kind, code, param = HTTPStatus.INTERNAL_SERVER_ERROR, "server_error", None, None
    reason = str(error) if isinstance(error, UserError | WorldError) else repr(error)
    return status, {
        "error": {"message": mask_secrets(reason), "type": kind, "param": param, "code": code}
    }
