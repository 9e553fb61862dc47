"""The process that writes conversations as their chat template says: `python render_process.py`.

A chat template is a program of somebody else's. It runs in jinja's sandbox, in a process without
environment that may take so much memory and, for a row, so much of the processor's time: then
the system ends it, also where nobody waits for it any more. A request is a line of JSON with the
conversations of many rows, an answer another with what became of each. Imports jinja alone: it is
to start at once.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import signal
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Scope
from jinja2.sandbox import ImmutableSandboxedEnvironment

# Seconds of the processor's time for a row (ordinary ones take a thousandth of one), bytes of the
# process, and characters of one text.
SECONDS, MEMORY, LONGEST_TEXT = 20, 2**30, 2**24
MEMORY_ERROR = f"it takes more than {MEMORY >> 20:,} MB of memory"
# A reasoning is given by all its names, as transformers does.
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")


class LongTextError(Exception):
    """A template writes without end."""


class GenerationBlock(Extension):
    """`{% generation %}`: transformers notes what stands in it; here it is text as any other."""

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return Scope(body).set_lineno(line)


class PlainDict:
    """`dict(...)` of a template, and nothing else of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)


class PlainNamespace(jinja2.utils.Namespace):
    """`namespace(...)` of a template; no name begins with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` may be the name of a value
        self, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            check_namespace_name(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        check_namespace_name(name)
        super().__setitem__(name, value)


def check_namespace_name(name: str) -> None:
    if str(name).startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace takes no name such as {name!r}")


def raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def write_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """`tojson` without the escapes of HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@lru_cache(maxsize=64)
def compile_template(template: str, day: str) -> jinja2.Template:
    """A template whose today is `day`, as in 2024-07-26."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = write_json
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": datetime.datetime.fromisoformat(day).strftime,
        "dict": PlainDict(),
        "namespace": PlainNamespace,
    }
    return environment.from_string(template)


def name_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose reasoning has all its names."""
    given = (message.get(name) for name in REASONING_FIELDS)
    reasoning = next((value for value in given if value is not None), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def render_conversation(
    template: jinja2.Template, conversation: list[dict[str, Any]], variables: dict[str, Any]
) -> str:
    """The text of a conversation."""
    messages = [
        name_reasoning({k: v for k, v in message.items() if v is not None})
        for message in conversation
    ]
    pieces, size = [], 0
    for piece in template.generate(messages=messages, **variables):
        size += len(piece)
        if size > LONGEST_TEXT:
            raise LongTextError(f"it writes more than {LONGEST_TEXT:,} characters")
        pieces.append(piece)
    return "".join(pieces)


def answer_row(request: dict[str, Any], row: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """What becomes of a row: `texts`, or `error` and whether it is a `limit` that was met."""
    try:
        # Not the clock's time: a process that was suspended with its run goes on with it.
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        template = compile_template(request["template"], request["day"])
        return {"texts": [render_conversation(template, c, request["variables"]) for c in row]}
    except MemoryError:
        return {"error": MEMORY_ERROR, "limit": True}
    except RecursionError:
        return {"error": "it is nested too deep", "limit": True}
    except (LongTextError, OverflowError) as error:
        return {"error": str(error), "limit": True}
    except Exception as error:  # raise_exception, a role or a field that it does not know
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return {"error": lines[0], "limit": False}


def answer_request(line: str) -> str:
    """What becomes of each row of a request, as JSON; nothing after a limit, which ends it."""
    try:
        request, answers = json.loads(line), list[dict[str, Any]]()
        for row in request["rows"]:
            answers.append(answer_row(request, row))
            if answers[-1].get("limit"):
                break
        return json.dumps(answers)
    except MemoryError:  # of what was asked, or of all that was written
        return json.dumps([{"error": MEMORY_ERROR, "limit": True}])


def limit_memory() -> None:
    """Bound what the process may take, where the system does so."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        for kind, size in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CORE, 0)):
            resource.setrlimit(kind, (size, size))


def answer_requests(read: Callable[[], str], write: Callable[[str], object]) -> None:
    """Answer until nobody asks."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    while line := read():
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        answer = answer_request(line)
        signal.setitimer(signal.ITIMER_PROF, 0)
        write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    limit_memory()
    answer_requests(sys.stdin.readline, sys.stdout.write)
