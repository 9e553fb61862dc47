"""From a question or messages to one string with its answers marked: prompt text or chat template.

A chat template decides everything about its text: special tokens, white space, what of an answer
it writes. Where an answer stands in it is found by rendering the conversation once more with a mark
for the answer. Knows no tokens.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.config.models import TemplateConfig
from undial_cli.data.answers import Message, is_answer_message
from undial_cli.data.rendering import TemplateError, render_rows_within_limits
from undial_cli.data.spans import BLANK_LINE, Span
from undial_cli.errors import RowError, UserError, bad_value, first_line, suggest_nearest

# Stands for an answer: letters that no template trims, splits or parses.
ANSWER_MARK = "\ue000undial\ue001"
# Today, for templates that ask: the day that Llama 3's own template falls back on.
TEMPLATE_DAY = "2024-07-26"
DATE_FORMS = ("%d %b %Y", "%d %B %Y", "%Y-%m-%d")


@dataclass(frozen=True)
class AnswerSpan:
    """Where an answer stands in a rendering, and where its first character stood in its source.

    `shift` is None where the template wrote the answer with other white space than its source.
    """

    start: int
    end: int
    shift: int | None = 0


@dataclass(frozen=True)
class Rendering:
    """A row as one string, ready to be tokenised.

    `answers`: in their order, at least one; `chat`: written by a chat template, which writes its
    special tokens itself; `closed`: whether an end token belongs after an answer (a text that is
    only continued has none).
    """

    text: str
    answers: tuple[AnswerSpan, ...]
    chat: bool = False
    closed: bool = True

    @property
    def prompt(self) -> str:
        """The text before the last answer."""
        return self.text[: self.answers[-1].start]

    @property
    def answer(self) -> str:
        """The last answer."""
        return self.text[self.answers[-1].start : self.answers[-1].end]


def begin_answer_after(rendering: Rendering, given: str) -> Rendering:
    """The same text, of whose last answer a first part belongs to the prompt.

    Raises:
        RowError: the answer does not begin with it, as a template may trim it.
    """
    *others, last = rendering.answers
    if not rendering.answer.startswith(given):
        raise RowError(f"the chat template changes the beginning of the answer, '{given}'")
    rest = AnswerSpan(last.start + len(given), last.end, last.shift)
    return Rendering(rendering.text, (*others, rest), rendering.chat, rendering.closed)


class TemplateRefusal(RowError):
    """A conversation that a chat template raises for, with the template's own words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"the chat template refuses it ({reason}): leave out or change that role, or give "
            "columns 'prompt' and 'completion'"
        )


def render_plain(prompt: str, answer: str, closed: bool = True) -> Rendering:
    """A prompt and its answer without chat format."""
    spot = AnswerSpan(len(prompt), len(prompt) + len(answer))
    return Rendering(prompt + answer, (spot,), closed=closed)


def render_question(
    tokenizer: PreTrainedTokenizerBase, config: TemplateConfig, question: str, answer: str
) -> Rendering:
    if not config.chat:
        return render_plain(config.prompt.replace("{question}", question), answer)
    messages = make_conversation(config, question, answer)
    try:
        return render_messages(tokenizer, config, messages)
    except TemplateRefusal as error:
        if not config.system_prompt:
            raise
        # Raises too if it is not the system message.
        render_messages(tokenizer, config, messages[1:])
        raise UserError(
            f"model.template.system_prompt={config.system_prompt}: this chat template takes none "
            f"({error.reason}); set model.template.system_prompt=null"
        ) from error


def make_conversation(config: TemplateConfig, question: str, answer: str) -> list[Message]:
    """A question and its answer as messages, after the system prompt where one is set."""
    system = [{"role": "system", "content": config.system_prompt}] if config.system_prompt else []
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*system, *turns]


def render_messages(
    tokenizer: PreTrainedTokenizerBase,
    config: TemplateConfig,
    messages: list[Message],
    turns: str = "all",
) -> Rendering:
    """A conversation through the tokenizer's chat template.

    Args:
        turns: which of the assistant's are answers, `all` or `last`.

    Raises:
        RowError: the template refuses the messages, or does not write an answer as it is.
        UserError: there is no chat template, or `model.template` does not fit it.
    """
    (rendering,) = render_conversations(tokenizer, config, [messages], turns)
    if isinstance(rendering, RowError):
        raise rendering
    return rendering


def render_conversations(
    tokenizer: PreTrainedTokenizerBase,
    config: TemplateConfig,
    conversations: list[list[Message]],
    turns: str = "all",
) -> list[Rendering | RowError]:
    """`render_messages` of many at once: each as a rendering, or why it is none."""
    if not config.chat:
        remedy = "set model.template.chat=true"
        if not tokenizer.chat_template:
            remedy = "this tokenizer has none: give columns 'prompt' and 'completion'"
        raise UserError(
            f"model.template.chat=false: column 'messages' needs a chat template; {remedy}"
        )
    if not tokenizer.chat_template:
        raise UserError(
            "model.template.chat=true: this tokenizer has no chat template; "
            "set model.template.chat=false and model.template.prompt='...{question}...'"
        )
    numbers, marked = [], []
    for messages in conversations:
        answers = [n for n, message in enumerate(messages) if is_answer_message(message)]
        numbers.append(answers[-1:] if turns == "last" else answers)
        marked.append([messages, *(mark_answer(messages, n) for n in numbers[-1])])
    renderings: list[Rendering | RowError] = []
    written = apply_template(tokenizer, config, marked)
    writes_calls = "tool_calls" in tokenizer.get_chat_template()
    for messages, answers, texts in zip(conversations, numbers, written, strict=True):
        try:
            if not writes_calls and any(message.get("tool_calls") for message in messages):
                raise RowError("the chat template writes no tool calls")
            if isinstance(texts, RowError):
                raise texts
            spots = [
                locate_answer(texts[0], text, messages[n]["content"])
                for n, text in zip(answers, texts[1:], strict=True)
            ]
            renderings.append(Rendering(texts[0], tuple(spots), chat=True))
        except RowError as error:
            renderings.append(error)
    return renderings


def mark_answer(messages: list[Message], number: int) -> list[Message]:
    """A conversation with ANSWER_MARK in place of an answer."""
    answer = {**messages[number], "content": ANSWER_MARK}
    return [*messages[:number], answer, *messages[number + 1 :]]


def apply_template(
    tokenizer: PreTrainedTokenizerBase,
    config: TemplateConfig,
    rows: list[list[list[Message]]],
) -> list[list[str] | TemplateRefusal]:
    """The texts of each row's conversations, as `tokenizer.apply_chat_template` has them."""
    given = collect_template_arguments(tokenizer, config)
    template = tokenizer.get_chat_template(None, given.get("tools"))
    variables = {"tools": None, "documents": None, "add_generation_prompt": False}
    variables = variables | tokenizer.special_tokens_map | given
    day = choose_template_day(config)
    written = render_rows_within_limits(template, rows, variables, day)
    return [
        TemplateRefusal(first_line(texts)) if isinstance(texts, TemplateError) else texts
        for texts in written
    ]


def choose_template_day(config: TemplateConfig) -> str:
    """What a template takes for today, as in 2024-07-26: a run is the same on any day."""
    for form in DATE_FORMS:
        with contextlib.suppress(ValueError):
            return datetime.strptime(config.date_string or "", form).date().isoformat()
    return TEMPLATE_DAY


def locate_answer(text: str, marked: str, content: str) -> AnswerSpan:
    """Where a message's content stands in a rendering.

    Args:
        marked: the same rendering with ANSWER_MARK as that content.

    Raises:
        RowError: the template left the content out or changed more than its white space.
    """
    before, _, after = marked.partition(ANSWER_MARK)
    end = len(text) - len(after)
    bare = content.strip()
    if text.startswith(before):
        start = len(before)
    elif text[:end].endswith(bare):  # it wrote a think block for the mark, and read one in here
        start = end - len(bare)
    else:  # it dropped the beginning (a think block) of the one and not of the other
        pairs = enumerate(zip(text, before, strict=False))
        start = next((i for i, (a, b) in pairs if a != b), len(text))
    body = text[start:end]
    # White space may differ and a think block may be missing; what is left must be the answer's
    # end, for a loss on other words would train what nobody wrote.
    whole, left = ("".join(part.split()) for part in (content, body))
    if not text.endswith(after) or start > end or not whole.endswith(left) or (whole and not left):
        raise RowError(
            "the chat template changes or leaves out the answer; for questions set "
            "model.template.chat=false and model.template.prompt"
        )
    shift = content.rfind(body)
    return AnswerSpan(start, end, shift if shift >= 0 else None)


def collect_template_arguments(
    tokenizer: PreTrainedTokenizerBase, config: TemplateConfig
) -> dict[str, Any]:
    """What the template is given besides the messages; refused if it would not read it."""
    template = tokenizer.get_chat_template()
    # Not variables of the template but arguments of transformers; two of them it does pass on.
    ours = set(inspect.signature(tokenizer.apply_chat_template).parameters) - {"documents", "tools"}
    for name, value in config.args.items():
        if name in ours:
            raise bad_value(f"model.template.args.{name}", value, "a variable of the template")
        if not re.search(rf"\b{re.escape(name)}\b", template):
            near = suggest_nearest(name, set(re.findall(r"[A-Za-z_]{3,}", template)))
            raise UserError(
                f"model.template.args.{name}={value}: this chat template reads no such variable"
                f"{near or f'; ~model.template.args.{name} takes it away'}"
            )
    dated = {"date_string": config.date_string} if config.date_string else {}
    return dated | config.args


def describe_unread_keys(tokenizer: PreTrainedTokenizerBase, config: TemplateConfig) -> list[str]:
    """A line on each key of `model.template` that is set and changes nothing.

    No error, since a model's own YAML sets keys for both ways of asking it.
    """
    other, remedy = ("system_prompt", "date_string", "args"), "chat=true"
    if config.chat:
        other, remedy = ("prompt",), "chat=false"
    default = TemplateConfig()
    lines = [
        f"model.template.{name}={getattr(config, name)}: read only with model.template.{remedy}"
        for name in other
        if getattr(config, name) != getattr(default, name)
    ]
    template = config.chat and config.date_string and tokenizer.chat_template
    reads = tokenizer.get_chat_template() if template else ""
    if template and not any(word in reads for word in ("date_string", "strftime_now")):
        lines.append(
            f"model.template.date_string={config.date_string}: this chat template reads no date"
        )
    if config.chat and config.system_prompt and tokenizer.chat_template:
        talk = make_conversation(config, "question", "answer")
        (texts,) = apply_template(tokenizer, config, [[talk, talk[1:]]])
        if isinstance(texts, list) and texts[0] == texts[1]:
            lines.append(
                f"model.template.system_prompt={config.system_prompt}: this chat template leaves "
                "it out where an answer follows"
            )
    dated = config.date_string or "date_string" in config.args
    asks = config.chat and tokenizer.chat_template and not dated
    if asks and "strftime_now" in tokenizer.get_chat_template():
        lines.append(
            f"this chat template reads today's date, and is given {TEMPLATE_DAY} on every day; "
            "model.template.date_string names another"
        )
    return lines


def move_spans_to_rendering(
    rendering: Rendering, sources: list[str], spans: list[Span]
) -> list[Span]:
    """Spans of a row's answers as spans of its rendering.

    Args:
        sources: the answers as the row has them; the spans count in these, joined by a blank line.

    Raises:
        RowError: the template wrote an answer with other white space, so that nothing fits.
    """
    begin, moved = 0, []
    for answer, source in zip(rendering.answers, sources, strict=True):
        if spans and answer.shift is None:
            raise RowError("method.focus: the chat template writes the answer with other blanks")
        # From the joined sources to this one, and from there to the rendering.
        shift = answer.start - begin - (answer.shift or 0)
        first, last = answer.start, min(answer.end, begin + len(source) + shift)
        within = [(max(a + shift, first), min(b + shift, last)) for a, b in spans]
        moved += [(a, b) for a, b in within if a < b]
        begin += len(source) + len(BLANK_LINE)
    return moved
