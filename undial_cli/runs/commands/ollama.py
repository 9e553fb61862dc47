"""The Modelfile by which Ollama takes a GGUF file: its chat template in Go's form, stops, context.

The form is read off what the chat template writes for a few messages, and held against it. Where
Go's form cannot say the same there is none: Ollama then reads the template that the file holds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from undial_cli.config.models import TemplateConfig
from undial_cli.data.template import TemplateRefusal, apply_template

# Contents of messages: no template changes such words.
SYSTEM, QUESTION, ANSWER, NEXT = "SYSTEMTEXT", "QUESTIONTEXT", "ANSWERTEXT", "NEXTTEXT"
# Tokens that Ollama makes room for unless it is asked for more: a cache of a long context is large.
LONGEST_CONTEXT = 8192


@dataclass(frozen=True)
class ChatForm:
    """What a chat template writes before and after the text of each role.

    `system` is None where it takes none; `default`: the system text that it writes of its own.
    """

    question: tuple[str, str]
    answer: tuple[str, str]
    system: tuple[str, str] | None = None
    default: str = ""

    def render_template(self) -> str:
        """The form as Ollama's template of one turn."""
        text = ""
        if self.system is not None:
            text = "{{ if .System }}" + "{{ .System }}".join(self.system) + "{{ end }}"
        text += "{{ if .Prompt }}" + "{{ .Prompt }}".join(self.question) + "{{ end }}"
        return text + "{{ .Response }}".join(self.answer)

    def list_stops(self, end: str | None) -> list[str]:
        """Texts that end an answer: the end token, what follows an answer, the next question."""
        texts = (end or "", self.answer[1].strip(), self.question[0].strip())
        return list(dict.fromkeys(filter(None, texts)))


def read_chat_form(tokenizer: Any, config: TemplateConfig, begins: bool) -> ChatForm | None:
    """The form in which a run asked its model; None where Go's templates have none like it.

    Args:
        begins: the tokenizer itself puts the beginning token before a text.
    """
    if not config.chat:
        before, _, after = config.prompt.partition("{question}")
        return ChatForm((before, ""), (after, ""))
    if not isinstance(tokenizer.chat_template, str):
        return None
    roles = {SYSTEM: "system", ANSWER: "assistant"}
    conversations = [(QUESTION, ANSWER), (QUESTION, ANSWER, NEXT), (SYSTEM, QUESTION, ANSWER, NEXT)]
    rows = [[[{"role": roles.get(t, "user"), "content": t} for t in c]] for c in conversations]
    answered, going_on, led = (
        "" if isinstance(texts, TemplateRefusal) else texts[0]
        for texts in apply_template(tokenizer, config, rows)
    )
    # The file's tokenizer puts it there, once, whether the template writes it or not.
    start = tokenizer.bos_token if begins and going_on.startswith(tokenizer.bos_token) else ""
    form = cut_chat_form(answered, going_on, led, start, tokenizer.get_added_vocab())
    if form is None or any(mark in form.render_template() for mark in ('"""', "{{ {", "{{{")):
        return None
    return dataclasses.replace(form, default=config.system_prompt or form.default)


def cut_chat_form(
    answered: str, going_on: str, led: str, start: str, tokens: Collection[str]
) -> ChatForm | None:
    """A form by what stands between the contents of three conversations.

    Args:
        answered, going_on, led: question and answer; a question more; after a system message, ""
            where the template takes none.
        start: of a text, which is no part of the form.
        tokens: none of them is cut.
    """
    end = answered.partition(ANSWER)[2]
    head, _, rest = going_on.partition(QUESTION)
    opening, _, rest = rest.partition(ANSWER)
    between = rest.partition(NEXT)[0]
    # A template may write more after the last answer than after one that is followed by a question.
    closing = find_common_start(end, between, tokens)
    asking = between.removeprefix(closing)
    if not asking or not head.endswith(asking) or (start and asking.startswith(start)):
        return None
    asked = closing if opening.startswith(closing) else ""  # as most templates end a question
    question, answer = (asking, asked), (opening.removeprefix(asked).rstrip(" "), closing)
    written = head.removesuffix(asking).removeprefix(start)
    if not led:
        return None if written else ChatForm(question, answer)
    before, _, rest = led.partition(SYSTEM)
    after, _, others = rest.partition(QUESTION)
    if not after.endswith(asking) or others != going_on.partition(QUESTION)[2]:
        return None
    system = (before.removeprefix(start), after.removesuffix(asking))
    if not written:
        return ChatForm(question, answer, system)
    default = written.removeprefix(system[0]).removesuffix(system[1])
    if system[0] + default + system[1] != written:
        return None
    return ChatForm(question, answer, system, default)


def find_common_start(one: str, other: str, tokens: Collection[str]) -> str:
    """The longest text that both begin with and that ends within no token of these."""
    pairs = enumerate(zip(one, other, strict=False))
    length = next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
    for text in (one, other):
        for token in tokens:
            begin = text.rfind(token, 0, length + len(token) - 1)
            if 0 <= begin < length < begin + len(token):
                length = begin
    return one[:length]


def write_modelfile(model: str, form: ChatForm | None, end: str | None, context: int) -> str:
    """The text of a Modelfile.

    Args:
        model: the GGUF file beside it.
        end: the end token.
        context: the longest that the model computes, in tokens.
    """
    lines = [f"FROM ./{model}"]
    if form is not None:
        lines.append(f'TEMPLATE """{form.render_template()}"""')
        if form.default:
            lines.append(f'SYSTEM """{form.default}"""')
    stops = form.list_stops(end) if form is not None else [end] if end else []
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    lines.append(f"PARAMETER num_ctx {min(context, LONGEST_CONTEXT)}")
    return "\n".join(lines) + "\n"
