"""What was asked and answered, as objects of JSON lines: on the screen, in a file, from the page.

A file of them holds what models say of the data, and is private. Knows no model's insides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from undial_cli.asking.engine import ModelAnswer
from undial_cli.asking.prompts import Turn
from undial_cli.config.asking import ASKING_KEYS, AskingConfig
from undial_cli.system.faults import translate_faults
from undial_cli.system.files import format_json_line
from undial_cli.system.private_files import append_private_text, note_private


def record_answers(
    question: str, config: AskingConfig, answers: Sequence[ModelAnswer], turns: int = 0
) -> dict[str, Any]:
    """A question, how it was asked, and every model's answer.

    Args:
        turns: that the models were given before it.
    """
    settings = {key: getattr(config, key) for key in ASKING_KEYS if key not in ("diff", "chat")}
    return {
        "question": question,
        **settings,
        "turns": turns if config.chat else 0,
        "answers": [
            {
                "model": answer.model.title,
                "role": answer.model.role,
                "path": answer.model.path,
                "text": answer.text,
                "ids": answer.ids,
                "ended": answer.state,
                "seconds": round(answer.seconds, 3),
            }
            for answer in answers
        ],
    }


def make_turn(question: str, answers: Sequence[ModelAnswer]) -> Turn:
    """A question that was answered, for those that go on from it."""
    return Turn(question, tuple(answer.text for answer in answers))


def append_records(file: Path, records: Sequence[dict[str, Any]]) -> None:
    """Add records to a file that is the user's alone, each whole."""
    note_private(file)
    with translate_faults(file.parent):
        append_private_text(file, "".join(map(format_json_line, records)))
