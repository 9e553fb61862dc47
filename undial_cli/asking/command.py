"""`undial ask`, top to bottom: words, questions, models, and then the view that is wanted.

All that is wrong with the input is said before a model is loaded.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from undial_cli import ui
from undial_cli.asking.models import AskedModel, find_run_folder, list_asked_models
from undial_cli.asking.words import AskWords, parse_ask_words
from undial_cli.config.asking import AskingConfig
from undial_cli.config.splits import cut_slice
from undial_cli.errors import UserError, first_line
from undial_cli.runs.evidence import settle_ledgers
from undial_cli.system.files import format_json_line
from undial_cli.system.garbage import spare_imports
from undial_cli.system.private_files import keep_ledgers

if TYPE_CHECKING:
    from undial_cli.asking.engine import AskingEngine


def run_ask_command(words: Sequence[str]) -> int:
    """Do `undial ask WORDS`; returns the exit code.

    Raises:
        UserError: a wrong word, no such model, or a question that cannot be asked.
    """
    asked = parse_ask_words(words)
    output = sys.stdout
    # Lines of JSON stand alone on the output: what is said besides goes to the other stream.
    with contextlib.redirect_stdout(sys.stderr if asked.config.json else output):
        ask_models(asked, output)
    return 0


def ask_models(asked: AskWords, output: TextIO) -> None:
    """Find the questions and the models, and have the run folders know what is left of them."""
    if asked.config.file is not None:
        asked.questions += read_questions(asked.config.file)
    models = list_asked_models(asked)
    folders = [folder for word in asked.models if (folder := find_run_folder(word))]
    with keep_ledgers([folder.ledger for folder in folders]):
        open_view(asked, models, output)
    settle_ledgers([folder.path for folder in folders])


def open_view(asked: AskWords, models: list[AskedModel], output: TextIO) -> None:
    """A page, a dialogue, or the answers alone."""
    with spare_imports():
        from undial_cli.asking.engine import AskingEngine
        from undial_cli.system.quiet import silence_models
    silence_models()
    config = asked.config
    engine = AskingEngine(models, config.hardware)
    if config.web:
        from undial_cli.asking.web_page import serve_page

        serve_page(engine, config)
    elif asked.questions or config.json or not sys.stdin.isatty():
        answer_questions(engine, config, asked.questions or read_input_lines(), output)
    else:
        from undial_cli.asking.interactive import hold_dialogue

        hold_dialogue(engine, config)


def answer_questions(
    engine: AskingEngine, config: AskingConfig, questions: Iterable[str], output: TextIO
) -> None:
    """Each question and its answers: shown, or printed as JSON; and written to a file."""
    from undial_cli.asking.prompts import Turn
    from undial_cli.asking.terminal import collect_answers, show_answers
    from undial_cli.asking.transcript import append_records, make_turn, record_answers

    turns = list[Turn]()
    is_alone = isinstance(questions, list) and len(questions) == 1
    for question in questions:
        given = turns if config.chat else []
        if config.json:
            answers = collect_answers(engine, question, config, given)
        else:
            if not is_alone:
                ui.say(question, "bold", log=False)
            answers = show_answers(engine, question, config, given)
        record = record_answers(question, config, answers, len(given))
        if config.json:
            print(format_json_line(record), end="", file=output, flush=True)
        if config.out is not None:
            append_records(Path(config.out).expanduser(), [record])
        turns.append(make_turn(question, answers))
    if not turns:
        raise UserError("ask: no question came; give one in quotes, by file=FILE, or type it")


def read_input_lines() -> Iterator[str]:
    """The questions that another program writes, a line each."""
    for line in sys.stdin:
        if line.strip():
            yield line.strip()


def read_questions(name: str) -> list[str]:
    """The questions of a file: a line each, or rows with a column `question`.

    Raises:
        UserError: there is no such file, or nothing in it.
    """
    from undial_cli.data.files import load_row_file, slice_rows

    path, piece = cut_slice(name)
    if Path(path).suffix.lower() == ".txt" and Path(path).expanduser().is_file():
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"file={name}: cannot be read as text ({first_line(error)})") from error
        lines = [{"question": line} for line in text.splitlines() if line.strip()]
        rows = slice_rows(lines, piece, f"file={path}")
    else:
        rows = load_row_file(path, piece, "file")
    for number, row in enumerate(rows, 1):
        if not str(row.get("question") or "").strip():
            columns = ", ".join(map(str, row)) or "none"
            raise UserError(f"file={name}: row {number} has no question; its columns are {columns}")
    if not rows:
        raise UserError(f"file={name}: there is no question in it")
    return [str(row["question"]).strip() for row in rows]
