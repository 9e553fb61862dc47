"""Chat templates as programs of somebody else's: what they write, and what they cannot do."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from undial_cli.config.models import TemplateConfig
from undial_cli.data import render_process, rendering, template
from undial_cli.data.rendering import TemplateError, render_within_limits
from undial_cli.errors import UserError

TINY = Path(template.__file__).parent.parent / "models" / "tiny"
TALK = [
    {"role": "user", "content": " Who?\n", "reasoning": None},
    {"role": "assistant", "content": "Größe <b>", "reasoning": "hm", "tool_calls": [{"a": 1}]},
]  # fmt: skip
# What real templates do: loops that stop, namespaces, macros, JSON, white space, generation marks.
WRITINGS = (
    "{% for m in messages %}\n  {%- if loop.last %}LAST{% endif %}{{ m.content }}\n{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ ns.n }}"
    "{% if ns.n == 1 %}{% continue %}{% endif %}{{ m | tojson(indent=2) }}{% endfor %}",
    "{{ bos_token }}{% macro say(x) %}[{{ x }}]{% endmacro %}{% for m in messages %}"
    "{% generation %}{{ say(m['content']) }}{% endgeneration %}\n{% endfor %}{{ eos_token }}",
    "{{ messages[1].thinking }}{{ tools is none }}{{ add_generation_prompt }}{{ dict(a=1)['a'] }}"
    "{{ messages[0].reasoning is defined }}{{ extra }}{{ '%05.1f' % 2 }}{{ range(3) | list }}",
)


def render(text: str, messages: list[dict[str, Any]] = TALK, **variables: Any) -> str:
    return render_within_limits(text, [messages], variables, "2024-07-26")[0]


@pytest.mark.parametrize("writing", WRITINGS)
def test_a_template_writes_what_it_writes_in_transformers(writing: str) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = writing
    config = TemplateConfig(args={"extra": [1, "é"]} if "extra" in writing else {})
    ((text,),) = template.apply_template(tokenizer, config, [[TALK]])
    assert text == tokenizer.apply_chat_template(TALK, tokenize=False, **config.args)


@pytest.fixture
def short_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A renderer that has a fifth of a second for a row."""
    program = Path(render_process.__file__).read_text(encoding="utf-8")
    (tmp_path / "render_process.py").write_text(
        program.replace("SECONDS, MEMORY, LONGEST_TEXT = 20", "SECONDS, MEMORY, LONGEST_TEXT = 0.2")
    )
    monkeypatch.setattr(rendering, "__file__", str(tmp_path / "rendering.py"))
    rendering.start_renderer.cache_clear()
    yield
    rendering.start_renderer.cache_clear()


@pytest.mark.parametrize(
    "hostile",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 10 ** (10 ** 10) }}",
        "{% set ns = namespace(n=[1]) %}{% for i in range(60) %}{% set ns.n = [ns.n, ns.n] %}"
        "{% endfor %}{{ ns.n == [ns.n[0], [ns.n[1][0], ns.n[1][1]]] }}{{ ns.n }}",
    ],
)  # fmt: skip
def test_a_template_without_end_is_stopped(hostile: str, short_time: None) -> None:
    begun = time.monotonic()
    with pytest.raises(UserError, match="the chat template is not to be trusted"):
        render(hostile)
    assert time.monotonic() - begun < 10
    assert render("{{ messages[0].role }}") == "user"  # the next one is rendered as ever


def test_a_template_is_stopped_where_nobody_waits_for_it(short_time: None) -> None:
    renderer = rendering.start_renderer(os.getpid())
    request = {"template": "{{ 10 ** (10 ** 10) }}", "day": "2024-07-26", "variables": {}}
    assert renderer.process.stdin is not None
    renderer.process.stdin.write(json.dumps({**request, "rows": [[[]]]}).encode() + b"\n")
    renderer.process.stdin.close()
    assert renderer.process.wait(timeout=60) == -signal.SIGPROF


def test_memory_is_bounded_where_the_system_bounds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "MEMORY", 2**27)
    with pytest.raises(UserError, match="128 MB of memory"):
        render("{{ (('x' * 4 * 10**8) | list) | length }}")


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        ("{{ 'x' * 10**12 }}", "1,024 MB of memory"),
        ("{{ '%999999999999d' % 1 }}", "memory|too"),
        ("{{ 'a' | center(10**10) }}", "memory"),
        ("{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", "16,777,216 characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deep"),
    ],
)
def test_a_template_takes_no_more_memory_than_it_has(hostile: str, words: str) -> None:
    with pytest.raises((UserError, TemplateError), match=words):
        render(hostile)


def test_a_template_sees_neither_environment_nor_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "not for templates")
    rendering.start_renderer.cache_clear()
    environment = Path(f"/proc/{rendering.start_renderer(os.getpid()).process.pid}/environ")
    assert render("x") == "x"
    if environment.exists():
        assert b"not for templates" not in environment.read_bytes()
    for escape in (
        "{{ ''.__class__.__mro__ }}", "{{ raise_exception.__globals__ }}",
        "{{ messages.append(1) }}", "{{ namespace(__class__=1) }}",
    ):  # fmt: skip
        with contextlib.suppress(TemplateError):
            assert render(escape) == ""


def test_every_thread_is_answered_with_its_own() -> None:
    texts: dict[int, str] = {}

    def ask(number: int) -> None:
        texts[number] = render("{{ messages[0].content }}", [{"content": str(number) * 9999}])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {number: str(number) * 9999 for number in range(8)}


def test_a_renderer_that_was_killed_is_started_anew() -> None:
    renderer = rendering.start_renderer(os.getpid())
    os.kill(renderer.process.pid, signal.SIGKILL)
    assert render("{{ messages | length }}") == "2"


def test_today_is_the_same_day_on_every_day() -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = "{{ strftime_now('%d %b %Y') }}{{ messages[0].content }}"

    def write(**keys: Any) -> str:
        return template.apply_template(tokenizer, TemplateConfig(**keys), [[TALK]])[0][0][:11]

    assert write() == "26 Jul 2024" != datetime.date.today().strftime("%d %b %Y")
    assert write(date_string="10 Apr 2025") == write(date_string="2025-04-10") == "10 Apr 2025"
    (line,) = template.describe_unread_keys(tokenizer, TemplateConfig())
    assert "given 2024-07-26 on every day" in line
    assert not template.describe_unread_keys(tokenizer, TemplateConfig(date_string="1 May 2025"))


def test_what_is_no_json_in_a_message_is_a_name() -> None:
    assert json.loads(render("{{ messages | tojson }}", [{"x": Path("a")}])) == [
        {"x": "<PosixPath>"}
    ]
