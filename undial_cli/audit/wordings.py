"""The ways of putting a question: in other words, in another language, after solved questions.

A wording is a row with another question in its stead, of whatever kind the row is. Knows no tokens
and no model.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from undial_cli.audit.attack import AuditData, CannotServe
from undial_cli.config.attacks import AskConfig
from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.config.splits import cut_slice, find_first_row
from undial_cli.data.answers import (
    read_messages,
    read_question,
    read_scored_text,
    replace_question,
)
from undial_cli.data.files import load_row_file
from undial_cli.data.rows import Row, find_row_kind, is_blank_cell
from undial_cli.errors import UserError
from undial_cli.evaluation.prompts import adapt_data_config
from undial_cli.evaluation.set_rows import choose_row_kind

# A file of translated rows, in a folder of them.
TRANSLATION_FILE = "{forget}_{language}.jsonl"


@dataclass(frozen=True)
class Wording:
    """One way of putting the question of a row.

    `row`: position among the rows of the audit; `content`: the row that is asked in its stead;
    `known`: the question as the row has it; `answers`: what gives it away besides the true answer;
    `shown`: what is asked as a person reads it, "" where that is the prompt.
    """

    row: int
    content: Row
    known: str
    answers: tuple[str, ...] = ()
    shown: str = ""


def name_asked_columns(data: AuditData) -> DataConfig:
    """The data config as it holds for the forget set, of messages the last answer alone."""
    asked = adapt_data_config(data.encoder.data, data.suite.config.sets[data.forget_set])
    return dataclasses.replace(asked, turns="last")


def list_wordings(data: AuditData, config: AskConfig, seed: int) -> list[Wording]:
    """Every row in all its wordings.

    Raises:
        CannotServe: no row has one.
    """
    asked = name_asked_columns(data)
    questions = [read_asked_question(data, row, asked) for row in data.rows]
    if not any(questions):
        raise CannotServe("needs questions, and the forget set holds documents")
    wordings = []
    for number, (row, question) in enumerate(zip(data.rows, questions, strict=True)):
        for put in list_questions(row, question, config) if question is not None else ():
            for template in config.templates or ["{question}"]:
                content = replace_question(row, template.replace("{question}", put), asked)
                wordings.append(Wording(number, content, str(question)))
    if not wordings:
        raise CannotServe("no row has a paraphrased_question, and the attack has no rewrites")
    if config.languages:
        wordings = translate_wordings(data, config, wordings, asked)
    if config.shots or config.same_subject:
        wordings = [add_solved_questions(data, config, w, seed) for w in wordings]
    return wordings


def read_asked_question(data: AuditData, row: Row, asked: DataConfig) -> str | None:
    """The question of a row; None of a document, and of a text that is only continued."""
    kind = choose_row_kind(row, data.suite.config.sets[data.forget_set].kind, asked)
    return None if kind in ("document", "continuation") else read_question(row, asked)


def list_questions(row: Row, question: str, config: AskConfig) -> Iterator[str]:
    """The question of a row as it is and in other words."""
    if config.asked:
        yield question
    if config.paraphrased:
        other = row.get("paraphrased_question")
        if not is_blank_cell(other):
            yield str(other)
        else:
            yield from (text.replace("{question}", question) for text in config.rewrites)


def translate_wordings(
    data: AuditData, config: AskConfig, wordings: list[Wording], asked: DataConfig
) -> list[Wording]:
    """Every wording in every language, given away by its own answer or by the translated one."""
    translated = []
    for language in config.languages:
        rows = read_translations(data, config, language)
        for wording in wordings:
            other = rows[data.numbers[wording.row]]
            question = read_question(other, asked)
            if question is None:
                raise CannotServe(f"translations in '{language}': they hold no questions")
            content = replace_question(wording.content, question, asked)
            answer = read_scored_text(other, asked)
            translated.append(Wording(wording.row, content, wording.known, (answer,)))
    return translated


def read_translations(data: AuditData, config: AskConfig, language: str) -> list[Row]:
    """The translated rows of the forget set, from its first row on.

    Raises:
        CannotServe: there are none.
    """
    if config.translations is None:
        raise CannotServe(
            "no translations of this data are known: set its translations to a folder of "
            f"{TRANSLATION_FILE}, files of the forget set's rows in the same order"
        )
    forget = data.encoder.data.forget_split or Path(str(data.encoder.data.forget_file)).stem
    folder = Path(config.translations).expanduser()
    pattern = str(folder / TRANSLATION_FILE if folder.is_dir() else folder)
    pattern = pattern.replace("{forget}", cut_slice(forget)[0])
    file = pattern.replace("{language}", language)
    try:
        rows = load_row_file(file, "", "translations")
    except UserError as error:
        raise CannotServe(str(error)) from error
    split = data.suite.config.sets[data.forget_set].split
    first = find_first_row(split) if isinstance(split, str) else 0
    rows = rows[first or 0 :]
    if len(rows) <= max(data.numbers):
        raise CannotServe(f"translations={file}: fewer rows than the forget set")
    return rows


def add_solved_questions(
    data: AuditData, config: AskConfig, wording: Wording, seed: int
) -> Wording:
    """A wording after solved questions: earlier turns of a chat, or text before it.

    Raises:
        CannotServe: there are none.
    """
    draw = random.Random(f"{seed}:{data.numbers[wording.row]}")
    encoder, sets = data.encoder, data.suite.config.sets
    solved: list[tuple[str, str]] = []
    if config.shots:
        retain = adapt_data_config(encoder.data, sets[data.retain_set]) if data.retain_set else None
        pairs = read_solved_questions(data.retain_rows, retain) if retain else []
        if not pairs:
            raise CannotServe("needs solved questions, and the suite has no retain set of them")
        solved += draw.sample(pairs, min(config.shots, len(pairs)))
    asked = name_asked_columns(data)
    if config.same_subject:
        subject = data.subjects[wording.row]
        others = [
            row
            for i, row in enumerate(data.rows)
            if i != wording.row and data.subjects[i] == subject
        ]
        pairs = read_solved_questions(others, asked)
        solved += [draw.choice(pairs)] if pairs else []
    content = put_after_solved(wording.content, solved, encoder.template, asked)
    shown = [f"{question} {answer}" for question, answer in solved]
    shown.append(str(read_question(wording.content, asked)))
    return dataclasses.replace(wording, content=content, shown="\n".join(shown))


def read_solved_questions(rows: list[Row], asked: DataConfig) -> list[tuple[str, str]]:
    """Question and last answer of the rows that have both."""
    last = dataclasses.replace(asked, turns="last")
    return [
        (question, read_scored_text(row, last))
        for row in rows
        if (question := read_question(row, asked)) is not None
    ]


def put_after_solved(
    row: Row, solved: list[tuple[str, str]], template: TemplateConfig, asked: DataConfig
) -> Row:
    """A row with solved questions before its own."""
    kind = find_row_kind(row, asked)
    if kind == "messages" or (kind == "qa" and template.chat):
        messages = read_messages(row) if kind == "messages" else []
        system = [m for m in messages[:1] if m["role"] == "system"]
        if kind == "qa":
            pair = (str(row[asked.question_key]), str(row[asked.answer_key]))
            text = template.system_prompt
            system = [{"role": "system", "content": text}] if text else []
            messages = [*system, *list_turns([pair])]
        return {"messages": [*system, *list_turns(solved), *messages[len(system) :]]}
    frame = template.prompt if kind == "qa" else "{question}"
    before = "".join(frame.replace("{question}", q) + f"{a}\n\n" for q, a in solved)
    question, answer = str(read_question(row, asked)), read_scored_text(row, asked)
    return {"prompt": before + frame.replace("{question}", question), "completion": answer}


def list_turns(pairs: list[tuple[str, str]]) -> list[dict[str, str]]:
    """Questions and answers as messages."""
    roles = ("user", "assistant")
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(roles, pair, strict=True)
    ]
