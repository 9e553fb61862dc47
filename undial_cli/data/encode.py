"""From a row to token ids and labels: boundary, end token, truncation.

Prompt and answer are tokenised as one string, so that the tokens at the boundary are those the
model was trained on; a token that straddles it counts as answer. Spans to focus on (data/focus.py)
become token positions by the tokenizer's offsets. How a row becomes a string is data/template.py's,
which tokens are an answer's data/labels.py's. Knows no tensors.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.config.datasets import DataConfig
from undial_cli.config.identity import digest_json
from undial_cli.config.models import TemplateConfig
from undial_cli.data import template
from undial_cli.data.answers import (
    Message,
    is_answer_message,
    read_answer_texts,
    read_messages,
    read_scored_text,
)
from undial_cli.data.example import Example, count_targets
from undial_cli.data.labels import find_answer_positions, find_closing, list_end_tokens
from undial_cli.data.rows import Row, find_row_kind
from undial_cli.data.spans import BLANK_LINE, Span, clip_spans, find_span_tokens, join_spans
from undial_cli.data.template import Rendering, move_spans_to_rendering
from undial_cli.data.tokens import Tokens, fingerprint_tokenizer, tokenise_texts
from undial_cli.errors import RowError, UserError
from undial_cli.losses.positions import IGNORE

# Keys of the data config that say where rows come from and which of them count: not how a row is
# encoded, as any other key may.
SOURCE_KEYS = (
    "name", "path", "forget_split", "retain_split", "retain_of", "holdout_of", "train_split",
    "reference_split", "where", "forget_file", "retain_file", "train_file", "retrain_auc", "limit",
    "anchor", "subject_key", "alternative_key", "alternatives_file", "refusals", "requests",
)  # fmt: skip


@dataclass(frozen=True)
class Encoder:
    """Encodes rows for one model and data set."""

    tokenizer: PreTrainedTokenizerBase
    template: TemplateConfig
    data: DataConfig

    def encode(self, rows: list[Row], spans: list[list[Span]] | None = None) -> list[Example]:
        """All training examples of `rows`; documents give several each.

        Args:
            spans: what to focus on in the text of each row that is scored.

        Raises:
            RowError: a row cannot be encoded.
            UserError: none can, or there are spans for token ids.
        """
        if self.data.joined and rows and find_row_kind(rows[0], self.data) == "text":
            texts = [str(row[self.data.text_key]) for row in rows]
            joined = join_spans(texts, self.clip_focus(rows, spans))
            rows, spans = [{self.data.text_key: BLANK_LINE.join(texts)}], [joined]
        examples = []
        for encoded in self.encode_each(rows, spans):
            if isinstance(encoded, UserError):
                raise encoded
            examples += encoded
        return examples

    def clip_focus(self, rows: list[Row], spans: list[list[Span]] | None) -> list[list[Span]]:
        """Spans of each row, within its text that is scored."""
        if spans is None:
            return [[] for _ in rows]
        pairs = zip(rows, spans, strict=True)
        return [clip_spans(part, read_scored_text(row, self.data)) for row, part in pairs]

    def encode_each(
        self, rows: list[Row], spans: list[list[Span]] | None = None
    ) -> list[list[Example] | UserError]:
        """The examples of each row, or what is wrong with it.

        Templates and tokenizers are given all rows at once: one by one takes several times as long.

        Raises:
            UserError: the chat template is not to be trusted or not there, or there are spans for
                token ids.
        """
        spans = self.clip_focus(rows, spans)
        renderings = self.render_each(rows)
        texts = [self.read_text(*pair) for pair in zip(rows, renderings, strict=True)]
        tokens = tokenise_texts(self.tokenizer, texts)
        encoded: list[list[Example] | UserError] = []
        for row, rendering, row_tokens, row_spans in zip(
            rows, renderings, tokens, spans, strict=True
        ):
            if isinstance(rendering, UserError):
                encoded.append(rendering)
                continue
            try:
                if rendering is None:
                    encoded.append(self.cut_document(row, row_tokens, row_spans))
                else:
                    answers = read_answer_texts(row, self.data) if row_spans else []
                    focus = row_spans and move_spans_to_rendering(rendering, answers, row_spans)
                    encoded.append([self.label_answers(rendering, row_tokens, focus)])
            except UserError as error:
                encoded.append(error)
        return encoded

    def render_each(self, rows: list[Row]) -> list[Rendering | UserError | None]:
        """Each row as `render` has it, or what that raises; None for a document."""
        kinds = [find_row_kind(row, self.data) for row in rows]
        written: dict[int, Rendering | RowError] = {}
        talks = {
            i: self.read_conversation(row, kind)
            for i, (row, kind) in enumerate(zip(rows, kinds, strict=True))
            if kind == "messages" or (kind == "qa" and self.template.chat)
        }
        if talks:
            renderings = template.render_conversations(
                self.tokenizer, self.template, list(talks.values()), self.data.turns
            )
            written = dict(zip(talks, renderings, strict=True))
        rendered: list[Rendering | UserError | None] = []
        for i, (row, kind) in enumerate(zip(rows, kinds, strict=True)):
            rendering = written.get(i)
            if kind in ("text", "ids"):
                rendered.append(None)
            elif isinstance(rendering, Rendering):
                rendered.append(rendering)
            else:  # by itself: what is wrong may be the system prompt
                try:
                    rendered.append(self.render(row))
                except UserError as error:
                    rendered.append(error)
        return rendered

    def read_conversation(self, row: Row, kind: str) -> list[Message]:
        """The messages that a row is written as by a chat template."""
        if kind == "messages":
            return read_messages(row)
        question, answer = row[self.data.question_key], row[self.data.answer_key]
        return template.make_conversation(self.template, str(question), str(answer))

    def read_text(self, row: Row, rendering: Rendering | UserError | None) -> tuple[str, bool]:
        """What of a row is tokenised, and whether with the tokenizer's special tokens."""
        if isinstance(rendering, Rendering):
            return rendering.text, not rendering.chat
        if rendering is None and find_row_kind(row, self.data) == "text":
            return str(row[self.data.text_key]), True
        return "", True

    def render(self, row: Row) -> Rendering:
        """A row with a prompt and an answer as one string; messages may have several answers."""
        kind = find_row_kind(row, self.data)
        if kind == "qa":
            return self.render_question(
                str(row[self.data.question_key]), str(row[self.data.answer_key])
            )
        if kind == "completion":
            return template.render_plain(str(row["prompt"]), str(row["completion"]))
        return template.render_messages(
            self.tokenizer, self.template, read_messages(row), self.data.turns
        )

    def render_asked(self, row: Row) -> list[Rendering]:
        """A row as it is asked: of messages each answer that counts, after all that precedes it."""
        if find_row_kind(row, self.data) != "messages":
            return [self.render(row)]
        messages = read_messages(row)
        ends = [n for n, message in enumerate(messages, 1) if n > 1 and is_answer_message(message)]
        return [
            template.render_messages(self.tokenizer, self.template, messages[:n], "last")
            for n in (ends[-1:] if self.data.turns == "last" else ends)
        ]

    def render_question(self, question: str, answer: str) -> Rendering:
        return template.render_question(self.tokenizer, self.template, question, answer)

    def tokenise(self, text: str, special: bool = True) -> Tokens:
        """The tokens of a text.

        Args:
            special: with the special tokens that the tokenizer puts around a text, unless the text
                begins with them already.
        """
        (tokens,) = tokenise_texts(self.tokenizer, [(text, special)])
        return tokens

    def tokenise_answers(self, rendering: Rendering, spans: Sequence[Span] = ()) -> Example:
        """One example; scored are the answers, each with the end token after it, nothing later.

        The end token of an answer is the one that the template writes after it or else, after the
        last one, the tokenizer's own.

        Args:
            spans: what to focus on in the rendering, within its answers.
        """
        tokens = self.tokenise(rendering.text, special=not rendering.chat)
        return self.label_answers(rendering, tokens, spans)

    def label_answers(
        self, rendering: Rendering, tokens: Tokens, spans: Sequence[Span] = ()
    ) -> Example:
        """`tokenise_answers` of a rendering whose tokens are known."""
        ids = tokens.ids
        labels, stop, closing, end = [IGNORE] * len(ids), 0, None, list[int]()
        for answer in rendering.answers:
            first, stop = find_answer_positions(tokens, answer, self.end_tokens)
            labels[first:stop] = ids[first:stop]
            closing = find_closing(tokens, rendering, answer, stop, self.end_tokens)
            if closing is not None:
                labels[closing] = ids[closing]
        if rendering.closed:
            end = [self.end_token() if closing is None else ids[closing]]
        # What a template writes after its last end token (a line break) never conditions a target.
        size = stop if closing is None else closing
        ids, labels = [*ids[:size], *end], [*labels[:size], *end]
        size = min(self.data.max_length, len(ids))
        focus = find_span_tokens(rendering.text, tokens.offsets[:size], spans) if spans else []
        cut = count_targets(labels[size:])
        return Example(ids[:size], labels[:size], min(stop, size), tuple(focus), cut, *end)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of all that the examples of a row depend on but the row."""
        data = dataclasses.asdict(self.data)
        for name in SOURCE_KEYS:
            del data[name]
        settings = [dataclasses.asdict(self.template), data]
        return digest_json([fingerprint_tokenizer(self.tokenizer), settings])

    @functools.cached_property
    def end_tokens(self) -> frozenset[int]:
        """What can end an answer."""
        return list_end_tokens(self.tokenizer)

    def end_token(self) -> int:
        """The id that ends an answer where the template writes none."""
        if self.tokenizer.eos_token_id is None:
            raise UserError("this tokenizer has no end token: set one in its tokenizer_config.json")
        return int(self.tokenizer.eos_token_id)  # type: ignore[arg-type]

    def cut_answer(self, rendering: Rendering, tokens: int) -> str:
        """The last answer of a rendering up to its first `tokens` tokens, whole characters only."""
        whole = self.tokenise(rendering.text, special=not rendering.chat)
        answer = rendering.answers[-1]
        first, stop = find_answer_positions(whole, answer, self.end_tokens)
        end = whole.get_span(first + tokens)[0] if first + tokens < stop else answer.end
        return rendering.text[answer.start : max(answer.start, end)]

    def encode_document(self, row: Row, spans: Sequence[Span] = ()) -> list[Example]:
        """A text cut into pieces of `max_length` tokens; every token is a target.

        Each piece starts with the begin token where the tokenizer adds one. A last token by itself
        has nothing that predicts it, and counts as cut. A row of token ids is taken as it is.

        Args:
            spans: what to focus on in the text.
        """
        return self.cut_document(row, self.tokenise(*self.read_text(row, None)), spans)

    def cut_document(self, row: Row, tokens: Tokens, spans: Sequence[Span] = ()) -> list[Example]:
        """`encode_document` of a row whose tokens are known; none are those of token ids."""
        focused: list[int] = []
        if find_row_kind(row, self.data) == "ids":
            ids, begin = self.check_ids(row["input_ids"]), []
        else:
            ids, bos = tokens.ids, self.tokenizer.bos_token_id
            begin = ids[:1] if bos is not None and ids[:1] == [bos] else []
            if spans:
                text = str(row[self.data.text_key])
                focused = find_span_tokens(text, tokens.offsets[len(begin) :], spans)
        ids, size = ids[len(begin) :], self.data.max_length - len(begin)
        focus: dict[int, list[int]] = {}
        for i in focused:
            focus.setdefault(i // size, []).append(i % size + len(begin))
        pieces = [begin + ids[i : i + size] for i in range(0, len(ids), size)]
        lost = len(pieces.pop()) if len(pieces) > 1 and len(pieces[-1]) == 1 else 0
        # Of a line that is a whole book, or a broken export, hours come that nobody asked for.
        most = self.data.max_pieces
        if most is not None and len(pieces) > most and not self.data.joined:
            raise UserError(
                f"data.max_pieces={most}: a document of {len(ids):,} tokens gives {len(pieces):,} "
                f"pieces of data.max_length={self.data.max_length}; set data.max_pieces="
                f"{len(pieces)} for all of them, or cut the document"
            )
        examples = [
            Example(piece, list(piece), len(piece), tuple(focus.get(i, ())))
            for i, piece in enumerate(pieces)
            if len(piece) > 1
        ]
        return [*examples[:-1], *(dataclasses.replace(e, cut=lost) for e in examples[-1:])]

    def check_ids(self, ids: list[int]) -> list[int]:
        """Token ids that are given; refused if they cannot be this tokenizer's."""
        size = len(self.tokenizer)
        for i in ids:
            if not 0 <= int(i) < size:
                raise UserError(f"token id {i}: this tokenizer knows 0 to {size - 1}")
        return [int(i) for i in ids]

    def decode(self, ids: list[int]) -> str:
        """Token ids as text, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))
