"""Answers on the screen: side by side as they come on a terminal, in blocks elsewhere.

What models say is shown as text (ui.py) and stands in no log. Knows how answers look, not how they
come about.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from rich.box import ROUNDED
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from undial_cli import ui
from undial_cli.asking.engine import ANSWERING, WHOLE, AskingEngine, ModelAnswer
from undial_cli.asking.parting import mark_partings
from undial_cli.asking.prompts import Turn
from undial_cli.config.asking import AskingConfig
from undial_cli.system.signals import get_held_signal

# Columns that are narrower break every line after a few words: models stand below one another.
NARROWEST_COLUMN = 26
PARTING_STYLE = "bold yellow"
# Pictures a second: a CPU makes fewer tokens.
REFRESH_RATE = 12


def show_answers(
    engine: AskingEngine, question: str, config: AskingConfig, turns: Sequence[Turn] = ()
) -> list[ModelAnswer]:
    """Have all models answer, and show it; a signal that is held back ends the answers."""
    console = ui.make_console()
    if not console.is_terminal:
        answers = collect_answers(engine, question, config, turns)
        print_blocks(answers)
        return answers
    with Live(
        console=console, refresh_per_second=REFRESH_RATE, transient=True,
        vertical_overflow="ellipsis",
    ) as screen:  # fmt: skip

        def show(answers: list[ModelAnswer]) -> None:
            screen.update(arrange_answers(answers, console.width, marked=False))

        answers = collect_answers(engine, question, config, turns, show)
    # Whole, where what was shown while it came may have been cut at the window's edge.
    console.print(arrange_answers(answers, console.width, config.diff))
    return answers


def collect_answers(
    engine: AskingEngine,
    question: str,
    config: AskingConfig,
    turns: Sequence[Turn] = (),
    show: Callable[[list[ModelAnswer]], None] = lambda answers: None,
) -> list[ModelAnswer]:
    """All models' answers, each as far as it is once a signal is held back.

    Args:
        show: called with them after every token.
    """
    answers: list[ModelAnswer] = []
    with contextlib.closing(engine.answer_question(question, config, turns)) as stream:
        for answers in stream:
            show(answers)
            if get_held_signal():
                break
    return answers


def arrange_answers(answers: Sequence[ModelAnswer], width: int, marked: bool) -> RenderableType:
    """The answers as columns of a table, or where the window is narrow one below the other.

    Args:
        width: of the window, in characters.
        marked: whether to colour where they part.
    """
    texts = write_answers(answers, marked)
    if width < NARROWEST_COLUMN * len(answers):
        parts: list[RenderableType] = []
        for answer, text in zip(answers, texts, strict=True):
            parts += [head_answer(answer), text, Text("")]
        return Group(*parts)
    table = Table(box=ROUNDED, expand=True, border_style="dim", padding=(0, 1))
    for answer in answers:
        table.add_column(head_answer(answer), ratio=1, overflow="fold")
    table.add_row(*texts)
    return table


def write_answers(answers: Sequence[ModelAnswer], marked: bool) -> list[Text]:
    """The texts; the words by which they part in a colour."""
    # Escapes take room: they are made before lines are broken.
    texts = [ui.reveal_controls(answer.text) for answer in answers]
    if not marked:
        return list(map(Text, texts))
    pieces = mark_partings(texts)
    return [
        Text.assemble(*((text, PARTING_STYLE if parts else "") for text, parts in part))
        for part in pieces
    ]


def head_answer(answer: ModelAnswer) -> Text:
    """A model's name and what it is about."""
    return Text.assemble((answer.model.title, "bold cyan"), ("  " + describe_state(answer), "dim"))


def describe_state(answer: ModelAnswer) -> str:
    """How far an answer is, in a few words."""
    count = len(answer.ids)
    size = f"{count} token{'' if count == 1 else 's'}, {answer.seconds:.1f} s"
    if answer.state == WHOLE:
        return size
    if answer.state == ANSWERING:
        return "…"
    return f"{size}, {answer.state}" if answer.ids else answer.state


def print_blocks(answers: Sequence[ModelAnswer]) -> None:
    """A block for each model, for a file or another program."""
    for answer in answers:
        ui.say(f"[{answer.model.title}] {describe_state(answer)}", log=False)
        ui.say(f"{answer.text}\n", log=False)
