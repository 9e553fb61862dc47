"""From a row to token ids and labels: prompt format, boundary, end token.

Prompt and answer are tokenised as one string, so that the tokens at the boundary are those the
model was trained on; a token that straddles it counts as answer. Spans to focus on (data/focus.py)
become token positions by the tokenizer's offsets. Knows no tensors.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.data.load import Row, row_kind
from undial_cli.errors import UserError
from undial_cli.schema import DataConfig, TemplateConfig

IGNORE = -100
# Of `data.joined`.
BLANK_LINE = "\n\n"
# (start, end) in characters.
Span = tuple[int, int]


@dataclass(frozen=True)
class Example:
    """One sequence: `labels[i]` is `input_ids[i]` where it is a target, else -100 (unshifted).

    `answer_end` is the position after the last answer token, before the end token. `focus` are the
    positions of the targets that lie in a span to focus on. `cut`: targets beyond
    `data.max_length`, which the sequence no longer holds.
    """

    input_ids: list[int]
    labels: list[int]
    answer_end: int
    focus: tuple[int, ...] = ()
    cut: int = 0

    @property
    def num_targets(self) -> int:
        """Target tokens that a causal model can predict (the first position has no predictor)."""
        return sum(label != IGNORE for label in self.labels[1:])


@dataclass(frozen=True)
class Encoder:
    """Encodes rows for one model and data set."""

    tokenizer: PreTrainedTokenizerBase
    template: TemplateConfig
    data: DataConfig

    def encode(self, rows: list[Row], spans: list[list[Span]] | None = None) -> list[Example]:
        """All training examples of `rows`; documents give several each.

        Args:
            spans: what to focus on in the `scored_text` of each row.

        Raises:
            UserError: a row cannot be encoded, or there are spans for token ids.
        """
        if spans is None:
            spans = [[] for _ in rows]
        else:
            spans = [
                clipped(found, scored_text(row, self.data))
                for row, found in zip(rows, spans, strict=True)
            ]
        if self.data.joined and rows and row_kind(rows[0], self.data) == "text":
            texts = [str(row[self.data.text_key]) for row in rows]
            rows, spans = [{self.data.text_key: BLANK_LINE.join(texts)}], [joined(texts, spans)]
        examples = []
        for row, found in zip(rows, spans, strict=True):
            if row_kind(row, self.data) in ("text", "ids"):
                examples += self.documents(row, found)
                continue
            prompt, answer, suffix = self.parts(row)
            text = scored_text(row, self.data) if found else answer
            cut = 0 if answer == text else len(text) - len(text.lstrip())
            found = clipped([(start - cut, end - cut) for start, end in found], answer)
            examples.append(self.answer(prompt, answer, suffix, found))
        return examples

    def parts(self, row: Row) -> tuple[str, str, str]:
        """A row as (prompt text, answer text, text after the answer)."""
        kind = row_kind(row, self.data)
        if kind == "qa":
            return self.question(str(row[self.data.question_key]), str(row[self.data.answer_key]))
        if kind == "completion":
            return str(row["prompt"]), str(row["completion"]), ""
        *messages, last = checked_messages(row)
        return self.chat(messages, last["content"])

    def question(self, question: str, answer: str) -> tuple[str, str, str]:
        """A question and an answer in the model's own prompt format."""
        if not self.template.chat:
            return self.template.prompt.replace("{question}", question), answer, ""
        system = self.template.system_prompt
        messages = [{"role": "system", "content": system}] if system else []
        return self.chat([*messages, {"role": "user", "content": question}], answer)

    def chat(self, messages: list[dict[str, str]], answer: str) -> tuple[str, str, str]:
        """Messages and an answer through the tokenizer's chat template."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise UserError(
                "model.template.chat=true: this tokenizer has no chat template; "
                "set model.template.chat=false and model.template.prompt='...{question}...'"
            )
        extra: dict[str, Any] = {}
        if self.template.date_string:
            extra["date_string"] = self.template.date_string
        render = self.tokenizer.apply_chat_template
        prompt = str(render(messages, tokenize=False, add_generation_prompt=True, **extra))
        whole = str(
            render([*messages, {"role": "assistant", "content": answer}], tokenize=False, **extra)
        )
        rest = whole.removeprefix(prompt)
        gap = rest[: len(rest) - len(rest.lstrip())]
        if gap and not answer.startswith(gap):
            prompt, rest = prompt + gap, rest.removeprefix(gap)
        body = answer if rest.startswith(answer) else answer.strip()
        if not whole.startswith(prompt) or not rest.startswith(body):
            raise UserError(
                "model.template.chat=true: this chat template changes the prompt or the answer "
                "when it renders them; set model.template.chat=false and model.template.prompt"
            )
        return prompt, body, rest[len(body) :]

    def tokenise(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and character offsets; special tokens are added where the text lacks them."""
        bos = self.tokenizer.bos_token
        has_bos = bool(bos) and text.startswith(str(bos))
        encoded = self.tokenizer(
            text, add_special_tokens=not has_bos, return_offsets_mapping=True, verbose=False
        )
        return list(encoded["input_ids"]), [tuple(o) for o in encoded["offset_mapping"]]  # type: ignore[misc]

    def answer(
        self, prompt: str, answer: str, suffix: str, spans: list[Span] | None = None
    ) -> Example:
        """One example; scored are the answer and the first end token after it, nothing later.

        Args:
            spans: what to focus on in `answer`.
        """
        text = prompt + answer + suffix
        ids, offsets = self.tokenise(text)
        start, end = len(prompt), len(prompt) + len(answer)
        targets = [b > start for _, b in offsets]
        answer_end = max(
            (i + 1 for i, (a, b) in enumerate(offsets) if a < end and b > a), default=0
        )
        special = set(self.tokenizer.all_special_ids)
        last = next((i for i in range(answer_end, len(ids)) if ids[i] in special), answer_end)
        ids, targets = ids[: last + 1], [*targets[:answer_end], *[False] * (last - answer_end)]
        if len(ids) == last:
            ids = [*ids, self.end_token()]
        targets.append(True)
        labels = [i if t else IGNORE for i, t in zip(ids, targets, strict=True)]
        size = min(self.data.max_length, len(ids))
        focus = overlapping(text, offsets[:size], [(start + a, start + b) for a, b in spans or []])
        cut = sum(label != IGNORE for label in labels[size:])
        return Example(ids[:size], labels[:size], min(answer_end, size), tuple(focus), cut)

    def end_token(self) -> int:
        """The id that ends an answer where the template writes none."""
        if self.tokenizer.eos_token_id is None:
            raise UserError("this tokenizer has no end token: set one in its tokenizer_config.json")
        return int(self.tokenizer.eos_token_id)  # type: ignore[arg-type]

    def prompt_ids(self, prompt: str, example: Example) -> list[int]:
        """The tokens of an example before its first target: what generation starts from."""
        first = next((i for i, label in enumerate(example.labels) if label != IGNORE), None)
        return example.input_ids[:first] if first else self.tokenise(prompt)[0]

    def documents(self, row: Row, spans: list[Span] | None = None) -> list[Example]:
        """A text cut into pieces of `max_length` tokens; every token is a target.

        Each piece starts with the begin token where the tokenizer adds one. A row of token ids is
        taken as it is.

        Args:
            spans: what to focus on in the text.
        """
        inside: list[int] = []
        if row_kind(row, self.data) == "ids":
            ids, begin = self.known(row["input_ids"]), []
        else:
            text = str(row[self.data.text_key])
            ids, offsets = self.tokenise(text)
            bos = self.tokenizer.bos_token_id
            begin = ids[:1] if bos is not None and ids[:1] == [bos] else []
            inside = overlapping(text, offsets[len(begin) :], spans or [])
        ids, size = ids[len(begin) :], self.data.max_length - len(begin)
        focus: dict[int, list[int]] = {}
        for i in inside:
            focus.setdefault(i // size, []).append(i % size + len(begin))
        pieces = [begin + ids[i : i + size] for i in range(0, len(ids), size)]
        return [
            Example(piece, list(piece), len(piece), tuple(focus.get(i, ())))
            for i, piece in enumerate(pieces)
            if len(piece) > 1
        ]

    def known(self, ids: list[int]) -> list[int]:
        """Token ids that are given; refused if they cannot be this tokenizer's."""
        size = len(self.tokenizer)
        for i in ids:
            if not 0 <= int(i) < size:
                raise UserError(f"token id {i}: this tokenizer knows 0 to {size - 1}")
        return [int(i) for i in ids]

    def text(self, ids: list[int]) -> str:
        """Token ids as text, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))


def checked_messages(row: Row) -> list[dict[str, Any]]:
    """The messages of a row, of which the last is the answer."""
    messages = row["messages"]
    whole = isinstance(messages, list) and all(
        isinstance(m, dict) and {"role", "content"} <= set(m) for m in messages
    )
    if (
        not whole
        or len(messages) < 2
        or messages[-1]["role"] != "assistant"
        or not isinstance(messages[-1]["content"], str)
    ):
        raise UserError(
            "column 'messages': expected a list of {role, content}, the last from 'assistant'"
        )
    return messages


def scored_text(row: Row, config: DataConfig) -> str:
    """The text of a row that spans count in: its answer, completion or last message, or all of it.

    Raises:
        UserError: the row holds token ids, which have no text, or messages without an answer.
    """
    kind = row_kind(row, config)
    if kind == "messages":
        return str(checked_messages(row)[-1]["content"])
    if kind == "ids":
        raise UserError(
            "method.focus: rows of token ids (column 'input_ids') have no text to focus on; use "
            "data with text, or method=undial"
        )
    column = {"qa": config.answer_key, "completion": "completion", "text": config.text_key}
    return str(row[column[kind]])


def clipped(spans: list[Span], text: str) -> list[Span]:
    """Spans cut to what lies in the text."""
    cut = [(max(start, 0), min(end, len(text))) for start, end in spans]
    return [(start, end) for start, end in cut if start < end]


def joined(texts: list[str], spans: list[list[Span]]) -> list[Span]:
    """The spans of texts in these texts joined by a blank line."""
    found, shift = [], 0
    for text, own in zip(texts, spans, strict=True):
        found += [(start + shift, end + shift) for start, end in own]
        shift += len(text) + len(BLANK_LINE)
    return found


def merged(spans: list[Span]) -> list[Span]:
    """The same characters as spans that are sorted and do not overlap."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def overlapping(text: str, offsets: list[tuple[int, int]], spans: list[Span]) -> list[int]:
    """The tokens that share a character with a span; white space at a token's edges is none."""
    if not spans:
        return []
    spans = merged(spans)
    starts, found = [start for start, _ in spans], []
    for i, (a, b) in enumerate(offsets):
        own = text[a:b]
        a, b = a + len(own) - len(own.lstrip()), b - len(own) + len(own.rstrip())
        last = bisect_right(starts, b - 1) - 1
        if a < b and last >= 0 and spans[last][1] > a:
            found.append(i)
    return found
