"""From the rows of a set to items: what is asked, what is scored, what is expected.

A set's `kind` says how: a question in the model's own format, a question after solved examples
(MUSE knowmem), a text to be continued (MUSE verbmem), a document, or a question with choices
(choices.py). Knows no model.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from undial_cli.config.datasets import DataConfig
from undial_cli.config.suites import MULTIPLE_CHOICE, EvalSetConfig
from undial_cli.data import template
from undial_cli.data.answers import replace_answer
from undial_cli.data.encode import Encoder
from undial_cli.data.example import Example
from undial_cli.data.rows import Row
from undial_cli.data.template import Rendering
from undial_cli.errors import RowError
from undial_cli.evaluation import choices
from undial_cli.evaluation.set_rows import (
    PLACEHOLDER,
    check_set_rows,
    choose_row_kind,
    list_prompt_columns,
    report_refused_rows,
)

# Where an answer to a few-shot prompt ends (MUSE's evaluation code).
FEW_SHOT_STOPS = ("\n\n", "\nQuestion", "Question:")


@dataclass
class PromptItem:
    """One question (or piece of a document) of one set, ready for the engines.

    A row gives one, but each turn of a conversation and each piece of a document is one of its own.
    `reference`: what a generation is compared with; `others`: other answers that it may be, where
    a row lists several; `scored`: the text whose tokens are scored, the
    answer or all of a document; `prompt_ids`: [] where nothing is generated; `answers`: examples to
    score by kind (`answer`, `paraphrase`, `perturbed`; of a choice, `before` and `after`: those
    that stand before and after the right one); `document`: token ids of a document;
    `notes`: what was done to the row that its figures do not show (an answer cut at
    data.max_length), each a short phrase that is the same for all rows of its kind.
    """

    set_name: str
    index: int
    prompt: str
    reference: str
    prompt_ids: list[int]
    answers: dict[str, list[Example]] = field(default_factory=dict)
    document: list[int] = field(default_factory=list)
    stops: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    scored: str = ""
    others: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        whole = self.prompt + self.reference if self.document else self.reference
        self.scored = self.scored or whole

    def followed_by(self, text: str) -> str:
        """The prompt with a text after it; the parts of a document hold the blank between them."""
        return self.prompt + text if self.document else f"{self.prompt} {text}"

    def sequences(self) -> list[list[int]]:
        """All token ids that a model is given of it."""
        scored = [example.input_ids for kind in self.answers.values() for example in kind]
        return [self.prompt_ids, self.document, *scored]


def adapt_data_config(data: DataConfig, options: EvalSetConfig) -> DataConfig:
    """The data config as it holds for one set."""
    return dataclasses.replace(
        data,
        question_key=options.question_key or data.question_key,
        answer_key=options.answer_key or data.answer_key,
        text_key=options.text_key or data.text_key,
        max_length=options.max_tokens or data.max_length,
    )


def make_prompt_items(
    encoder: Encoder,
    set_name: str,
    options: EvalSetConfig,
    rows: list[Row],
    shots: list[Row],
    needs: set[str],
    max_new_tokens: int,
) -> list[PromptItem]:
    """Encode a set.

    Args:
        shots: rows of the solved examples, for `few_shot`.
        needs: what the set's metrics need; alternative answers are encoded, and references cut to
            what can be generated, only for those.
        max_new_tokens: generated per answer, where the set does not say.

    Raises:
        UserError: a row lacks a column, or none can be encoded.
    """
    data = adapt_data_config(encoder.data, options)
    longest = (options.max_new_tokens or max_new_tokens) if "generation" in needs else None
    options = dataclasses.replace(options, max_new_tokens=longest)
    source = f"eval.sets.{set_name}"
    check_set_rows(rows, options, data, source)
    check_set_rows(shots, options, data, f"{source}.shots", "few_shot")
    solved = write_solved_examples(shots, options, data, f"{source}.shots")
    encoder = dataclasses.replace(encoder, data=data)
    maker = PromptMaker(encoder, set_name, options, "alternatives" in needs, solved)
    items, refused = [], dict[int, str]()
    for index, row in enumerate(rows):
        try:
            items += maker.make_items(index, row)
        except RowError as error:
            refused[index + 1] = str(error)
    report_refused_rows(set_name, refused, len(rows))
    return items


def write_solved_examples(
    shots: list[Row], options: EvalSetConfig, data: DataConfig, source: str
) -> str:
    """Solved examples as one text: as MUSE's evaluation code writes them, or of a choice."""
    if options.kind == MULTIPLE_CHOICE:
        asked = [
            choices.read_choice_question(shot, number, options, data, source)
            for number, shot in enumerate(shots, 1)
        ]
        return choices.write_solved_choices(asked, options.lettered)
    return "".join(
        f"Question: {shot[data.question_key]}\nAnswer: {shot[data.answer_key]}\n\n"
        for shot in shots
    )


@dataclass(frozen=True)
class PromptMaker:
    """Makes the items of one set, row by row.

    `options`: of the set; its `max_new_tokens` is None where nothing is generated; `solved`: the
    solved examples as one text; `alternatives`: whether other answers are scored too.
    """

    encoder: Encoder
    set_name: str
    options: EvalSetConfig
    alternatives: bool
    solved: str

    def make_items(self, index: int, row: Row) -> list[PromptItem]:
        """The items of one row, by the kind of its set."""
        kind = choose_row_kind(row, self.options.kind, self.encoder.data)
        if kind == "document":
            return self.make_documents(index, row)
        if kind == "question":
            return self.make_questions(index, row)
        if kind == MULTIPLE_CHOICE:
            return [self.make_choice(index, row)]
        return [self.make_continuation(index, row, few_shot=kind == "few_shot")]

    def make_documents(self, index: int, row: Row) -> list[PromptItem]:
        """A document: its pieces, or with `max_tokens` its beginning alone."""
        encoder, options, items = self.encoder, self.options, []
        pieces = encoder.encode_document(row)
        cut = options.max_tokens is not None and (len(pieces) > 1 or any(p.cut for p in pieces))
        for piece in pieces[:1] if options.max_tokens else pieces:
            notes = [f"document cut at max_tokens={options.max_tokens}"] if cut else []
            ids, start, whole = (
                piece.input_ids,
                options.prompt_tokens,
                encoder.decode(piece.input_ids),
            )
            prompt, rest, prompt_ids = whole, "", list[int]()
            if len(ids) > start:
                prompt_ids, rest_ids = ids[:start], ids[start:][: options.max_new_tokens]
                if len(rest_ids) < len(ids) - start:
                    notes.append(f"reference cut at max_new_tokens={options.max_new_tokens}")
                # A character of several tokens may be cut in two.
                prompt = encoder.decode(prompt_ids).strip("\ufffd")
                rest = decode_added_text(encoder, prompt_ids, rest_ids).strip("\ufffd")
            elif options.max_new_tokens is not None:
                notes.append(f"document of at most prompt_tokens={start}, not continued")
            items.append(
                PromptItem(
                    self.set_name, index, prompt, rest, prompt_ids, {"answer": [piece]}, ids,
                    notes=tuple(notes), scored=whole,
                )
            )  # fmt: skip
        return items

    def make_questions(self, index: int, row: Row) -> list[PromptItem]:
        """A question in the model's own format, or each turn of a conversation.

        The last has the row's paraphrased and perturbed answers.
        """
        encoder, data, items = self.encoder, self.encoder.data, []
        first, *others = read_listed_answers(row, data) or [None]
        row = row if first is None else {**row, data.answer_key: first}
        for rendering in self.render_asked(row):
            item = self.make_answer(index, rendering)
            item.prompt = str(row.get(data.question_key) or rendering.prompt)
            item.stops = tuple(self.options.stop)
            items.append(item)
        last = items[-1]
        last.others = tuple(
            self.make_answer(index, self.render_asked({**row, data.answer_key: text})[-1]).reference
            for text in others
        )
        if not (self.alternatives and row.get("perturbed_answer")):
            return items
        perturbed = row["perturbed_answer"]
        texts = {
            "paraphrase": [row.get("paraphrased_answer") or last.scored],
            "perturbed": [perturbed] if isinstance(perturbed, str) else perturbed,
        }
        for kind, answers in texts.items():
            others = [
                self.render_asked(replace_answer(row, str(text), data))[-1] for text in answers
            ]
            last.answers[kind] = [encoder.tokenise_answers(other) for other in others]
            if any(example.cut for example in last.answers[kind]):
                last.notes += (f"{kind} answer cut at {self.length_limit}",)
        return items

    def render_asked(self, row: Row) -> list[Rendering]:
        """A row as it is asked, with the set's `prompt` around it and its `answer_prefix`."""
        encoder, data, given = self.encoder, self.encoder.data, self.options.answer_prefix
        if self.options.prompt is None and given is None:
            return encoder.render_asked(row)
        answer = str(row[data.answer_key])
        question = self.write_prompt(row)
        if given is None:
            return [encoder.render_question(question, answer)]
        rendering = encoder.render_question(question, f"{given} {answer}")
        return [template.begin_answer_after(rendering, given)]

    def write_prompt(self, row: Row) -> str:
        """The question of a row, with the set's `prompt` around it."""
        question = str(row[self.encoder.data.question_key])
        if self.options.prompt is None:
            return question
        cells = {name: str(row[name]).strip() for name in list_prompt_columns(self.options)}
        return fill_prompt(self.options.prompt, cells | {"question": question})

    def make_continuation(self, index: int, row: Row, few_shot: bool) -> PromptItem:
        """A prompt without chat format whose answer continues it: no end token is scored."""
        data = self.encoder.data
        shown, answer = str(row[data.question_key]), str(row[data.answer_key])
        few = f"{self.solved}Question: {shown}\nAnswer: "
        prompt = few if few_shot else self.write_prompt(row)
        item = self.make_answer(index, template.render_plain(prompt, answer, closed=False))
        stops = FEW_SHOT_STOPS if few_shot else ()
        item.prompt, item.stops = shown, (*stops, *self.options.stop)
        return item

    def make_choice(self, index: int, row: Row) -> PromptItem:
        """A question with its choices, all of which are scored."""
        encoder, options, notes = self.encoder, self.options, ()
        asked = choices.read_choice_question(row, index + 1, options, encoder.data, self.set_name)
        prompt = choices.write_instruction(row, options, encoder.data) + self.solved
        chat = options.prompt is not None and encoder.template.chat
        if options.prompt is None:
            prompt += choices.write_choice_prompt(asked, options.lettered)
        else:
            prompt = self.write_wrapped_choice(row, asked, prompt)
        answers = choices.list_choice_answers(asked, options.lettered)
        examples = choices.encode_choices(encoder, prompt, answers, chat)
        longest = options.max_tokens
        if longest is not None and any(len(e.input_ids) > longest for e in examples):
            examples = [choices.keep_last_tokens(example, longest) for example in examples]
            notes = (f"question cut to its last max_tokens={longest}",)
        scored = {
            "before": examples[: asked.right],
            "answer": examples[asked.right : asked.right + 1],
            "after": examples[asked.right + 1 :],
        }
        return PromptItem(
            self.set_name, index, asked.question, answers[asked.right].strip(),
            examples[asked.right].prompt_ids, scored, notes=notes, scored=answers[asked.right],
        )  # fmt: skip

    def write_wrapped_choice(self, row: Row, asked: choices.ChoiceQuestion, start: str) -> str:
        """A question with its choices in the set's `prompt`, in the model's format, up to the
        answer; `start`: what stands before the prompt."""
        encoder, options, given = self.encoder, self.options, self.options.answer_prefix or ""
        columns = list_prompt_columns(options)
        source = f"eval.sets.{self.set_name}"
        cells = choices.write_prompt_cells(row, columns, options, encoder.data, source)
        cells |= {
            "question": asked.question,
            "choices": choices.write_lettered_choices(asked),
        }
        prompt = start + fill_prompt(options.prompt or "", cells)
        rendering = encoder.render_question(prompt, f"{given} x".lstrip())
        return template.begin_answer_after(rendering, given).prompt

    def make_answer(self, index: int, rendering: Rendering) -> PromptItem:
        """An answer and what is generated for it, which is held against no more than it can be.

        What data.max_length cuts off is in no figure; the reference of a generation is also cut to
        the tokens that may be generated.
        """
        encoder, longest, notes = self.encoder, self.options.max_new_tokens, []
        example = encoder.tokenise_answers(rendering)
        reference = scored = rendering.answer
        if example.cut:
            reference = scored = encoder.cut_answer(rendering, example.answer_tokens)
            phrase = "answer cut at" if example.num_targets else "no answer token within"
            notes.append(f"{phrase} {self.length_limit}")
        if longest is not None and example.answer_tokens > longest:
            reference = encoder.cut_answer(rendering, longest)
            notes.append(f"reference cut at max_new_tokens={longest}")
        return PromptItem(
            self.set_name, index, rendering.prompt, reference, example.prompt_ids,
            {"answer": [example]}, notes=tuple(notes), scored=scored,
        )  # fmt: skip

    @property
    def length_limit(self) -> str:
        """The key that cuts a sequence, and its value."""
        key = "max_tokens" if self.options.max_tokens else "data.max_length"
        return f"{key}={self.encoder.data.max_length}"


def fill_prompt(prompt: str, cells: dict[str, str]) -> str:
    """The `prompt` of a set with a text for each of its placeholders."""
    return PLACEHOLDER.sub(lambda match: cells[match[1]], prompt)


def read_listed_answers(row: Row, data: DataConfig) -> list[str]:
    """The answers of a row that lists several, each once; [] of any other."""
    cell = row.get(data.answer_key)
    return [str(text) for text in dict.fromkeys(cell)] if isinstance(cell, list) else []


def decode_added_text(encoder: Encoder, before: list[int], ids: list[int]) -> str:
    """The text that token ids add to those before them, the blank between them included.

    Some tokenizers drop a blank that a text begins with, so that it is not the text of `ids`.
    """
    start, whole = encoder.decode(before), encoder.decode([*before, *ids])
    return whole.removeprefix(start) if whole.startswith(start) else encoder.decode(ids)


def cut_at_stop_text(text: str, stops: tuple[str, ...]) -> str:
    """A generation up to the first text that ends it."""
    return text[: min([p for p in map(text.find, stops) if p >= 0], default=len(text))]


def collect_end_labels(items: list[PromptItem]) -> set[int]:
    """The ids that end an answer in the model's own format."""
    examples = [e for item in items for e in item.answers.get("answer", [])]
    return {e.end for e in examples if e.end is not None}
