"""Whether the rows of a set can be asked as its kind says, and which cannot.

Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from undial_cli import ui
from undial_cli.config.datasets import DataConfig
from undial_cli.config.suites import MULTIPLE_CHOICE, EvalSetConfig
from undial_cli.data.columns import cell_error, is_text_cell
from undial_cli.data.rows import Row, find_row_kind
from undial_cli.errors import UserError, suggest_nearest
from undial_cli.evaluation import choices

# In the prompt of a set: the question, and other columns.
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def choose_row_kind(row: Row, kind: str, data: DataConfig) -> str:
    """How a row is asked: as its set says, or by its columns."""
    if kind != "auto":
        return kind
    return "document" if find_row_kind(row, data) in ("text", "ids") else "question"


def list_prompt_columns(options: EvalSetConfig) -> list[str]:
    """The columns besides the question's that a set's `prompt` holds."""
    names = PLACEHOLDER.findall(options.prompt or "")
    made = ("question", "choices") if options.kind == MULTIPLE_CHOICE else ("question",)
    return [name for name in dict.fromkeys(names) if name not in made]


def check_set_rows(
    rows: Sequence[Row], options: EvalSetConfig, data: DataConfig, source: str, kind: str = ""
) -> None:
    """Raise UserError for the first row that cannot be asked as its set's kind.

    Args:
        kind: in place of the set's, but of a choice.
    """
    set_kind = options.kind if options.kind == MULTIPLE_CHOICE else kind or options.kind
    for number, row in enumerate(rows, 1):
        kind, row_kind = choose_row_kind(row, set_kind, data), find_row_kind(row, data)
        needed = [data.question_key, data.answer_key, *list_prompt_columns(options)]
        if kind == MULTIPLE_CHOICE:
            needed += choices.list_choice_columns(options)
        check_wrapped_kind(options, kind, source)
        wrapped = options.prompt is not None or options.answer_prefix is not None
        if kind == "document":
            fits, needed = row_kind == "ids" or row.get(data.text_key) is not None, [data.text_key]
        elif kind == "question" and not wrapped:
            fits = row_kind not in ("text", "ids", "")
        else:
            fits = all(row.get(column) is not None for column in needed)
        if not fits:
            columns = [column for column, value in row.items() if value is not None]
            missing = next((column for column in needed if column not in columns), needed[0])
            raise UserError(
                f"{source}: row {number} has no column '{missing}', which a set of kind={kind} "
                f"needs; its columns are {', '.join(columns)}{suggest_nearest(missing, columns)}"
            )
        if kind == MULTIPLE_CHOICE:
            choices.read_choice_question(row, number, options, data, source)
        elif kind != "document":
            check_listed_answers(row, number, kind, data, source)


def check_listed_answers(row: Row, number: int, kind: str, data: DataConfig, source: str) -> None:
    """Raise UserError for an answer that is no text, nor of a question a list of texts."""
    answer = row.get(data.answer_key)
    listed = kind == "question" and isinstance(answer, list) and len(answer) > 0
    if isinstance(answer, list | dict) and not (listed and all(map(is_text_cell, answer))):
        needed = "text, or a list of texts" if kind == "question" else "text"
        raise cell_error(source, data.answer_key, answer, number, needed)


def check_wrapped_kind(options: EvalSetConfig, kind: str, source: str) -> None:
    """Raise UserError for text around a question where none is asked so."""
    allowed = {
        "prompt": ("question", "continuation", MULTIPLE_CHOICE),
        "answer_prefix": ("question", MULTIPLE_CHOICE),
    }
    for name, kinds in allowed.items():
        if getattr(options, name) is not None and kind not in kinds:
            raise UserError(
                f"{source}: {name} is of sets of kind={' or '.join(kinds)}, and this one is of "
                f"kind={kind}"
            )
    if kind == MULTIPLE_CHOICE and options.prompt is None and options.answer_prefix is not None:
        raise UserError(f"{source}: answer_prefix needs a prompt in a set of kind={kind}")
    lettered = kind == MULTIPLE_CHOICE and options.lettered and options.prompt is not None
    if lettered and "{choices}" not in (options.prompt or ""):
        raise UserError(
            f"{source}: prompt holds no {{choices}}, of whose letters the answer is one; or set "
            "lettered=false"
        )


def report_refused_rows(set_name: str, refused: dict[int, str], rows: int) -> None:
    """Say which rows are left out and why; raise UserError if all are."""
    if not refused:
        return
    number, reason = next(iter(refused.items()))
    if len(refused) == rows:
        raise UserError(
            f"eval.sets.{set_name}: none of its {rows} rows can be asked; row {number}: {reason}"
        )
    numbers = ", ".join(map(str, list(refused)[:8])) + (", ..." if len(refused) > 8 else "")
    ui.say(
        f"eval.sets.{set_name}: {len(refused)} of {rows} rows are left out ({numbers}); row "
        f"{number}: {reason}",
        "yellow",
    )
