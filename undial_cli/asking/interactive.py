"""`undial ask RUN` at a terminal: a line is a question, one that begins with a colon a command.

Ctrl-C ends an answer, or drops the line; Ctrl-D and :quit leave. Knows no model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from undial_cli import ui
from undial_cli.asking.engine import AskingEngine, ModelAnswer
from undial_cli.asking.prompts import Turn
from undial_cli.asking.terminal import arrange_answers, show_answers
from undial_cli.asking.transcript import append_records, make_turn, record_answers
from undial_cli.asking.words import check_new_file
from undial_cli.config.asking import ASK_FIELDS, ASKING_KEYS, AskingConfig, set_typed_value
from undial_cli.errors import UserError, WorldError, bad_value
from undial_cli.reporting.sheet import make_screen_table, make_text_sheet
from undial_cli.system.files import locate_in_cache, make_private_folder
from undial_cli.system.private_files import PRIVATE, note_private, open_private_umask
from undial_cli.system.signals import absorb_interrupts

PROMPT = "ask> "
# Lines that are remembered.
LONGEST_HISTORY = 1000
COMMANDS = {
    "help": "this list",
    "again": "the last question once more, as set now",
    "models": "who answers, and where they lie",
    "new": "forget the questions before, with chat=true",
    "save FILE": "all questions and answers so far into a new file, an object a line",
    "quit": "leave, as Ctrl-D does; Ctrl-C ends an answer",
}
# What is typed for a key more shortly.
SHORT_KEYS = {"tokens": "max_new_tokens"}


class Dialogue:
    """Questions of one person at a terminal, their answers, and how the next one is asked."""

    def __init__(self, engine: AskingEngine, config: AskingConfig) -> None:
        self.engine, self.config = engine, config
        self.turns: list[Turn] = []
        self.records: list[dict[str, Any]] = []
        self.last: tuple[str, list[ModelAnswer]] | None = None

    def take_line(self, line: str) -> bool:
        """Do what a line says; False to leave.

        Raises:
            UserError: it is no command, or a value is not allowed.
        """
        if not line.startswith(":") or line.startswith("::"):
            if line.strip():
                self.ask(line.removeprefix(":") if line.startswith("::") else line)
            return True
        name, _, value = line[1:].strip().partition(" ")
        return self.obey(name, value.strip())

    def obey(self, name: str, value: str) -> bool:
        """Carry out a command; False to leave."""
        key = SHORT_KEYS.get(name, name)
        if name in ("quit", "q", "exit"):
            return False
        if name == "help":
            show_commands(self.config)
        elif name == "models":
            rows = [[m.title, m.role, m.path] for m in self.engine.models]
            sheet = make_text_sheet(["model", "role", "path"], rows)
            ui.say(make_screen_table(sheet), log=False)
        elif name == "new":
            self.turns.clear()
            ui.say("the next question stands alone", "dim")
        elif name == "again":
            if self.last is None:
                raise UserError(":again: nothing was asked yet")
            self.ask(self.last[0])
        elif name == "save":
            self.save(value)
        elif key in ASKING_KEYS:
            self.set_key(key, value)
        else:
            words = [command.partition(" ")[0] for command in COMMANDS]
            raise bad_value("command", name, [*words, *ASKING_KEYS, *SHORT_KEYS])
        return True

    def set_key(self, key: str, value: str) -> None:
        """Change a key, and show it; a switch without a value is turned over."""
        if not value and ASK_FIELDS[key].type == "bool":
            value = str(not getattr(self.config, key)).lower()
        if value:
            set_typed_value(self.config, key, value)
        ui.say(f"{key}={spell_value(getattr(self.config, key))}", "dim", log=False)
        if key == "diff" and self.last is not None:
            console = ui.make_console()
            console.print(arrange_answers(self.last[1], console.width, self.config.diff))

    def ask(self, question: str) -> None:
        """Have a question answered, and remember it."""
        turns = self.turns if self.config.chat else []
        answers = show_answers(self.engine, question, self.config, turns)
        self.records.append(record_answers(question, self.config, answers, len(turns)))
        if self.config.out is not None:
            append_records(Path(self.config.out).expanduser(), self.records[-1:])
        self.last = (question, answers)
        self.turns.append(make_turn(question, answers))

    def save(self, name: str) -> None:
        """Write all records to a new file."""
        if not name:
            raise UserError(":save: expected a file after it")
        file = check_new_file(":save", name)
        append_records(file, self.records)
        ui.say(f"{len(self.records)} questions and their answers: {file}", "dim")


def hold_dialogue(engine: AskingEngine, config: AskingConfig) -> None:
    """Take lines until the user leaves."""
    dialogue = Dialogue(engine, config)
    titles = ", ".join(model.title for model in engine.models)
    ui.say(f"{titles} answer side by side; :help lists commands, Ctrl-D leaves", "dim")
    with keep_history(config.history):
        while True:
            line = None
            with absorb_interrupts():  # Ctrl-C: another line
                try:
                    line = input(PROMPT)
                except EOFError:
                    line = ":quit"
            if line in (None, ":quit"):
                print()
            goes_on = True
            with absorb_interrupts(held=True):
                try:
                    goes_on = dialogue.take_line(line or "")
                except (UserError, WorldError) as error:
                    ui.print_error(str(error))
            if not goes_on:
                return


def show_commands(config: AskingConfig) -> None:
    """The commands, and the keys with their values now."""
    rows = [[f":{name}", text] for name, text in COMMANDS.items()]
    for key in ASKING_KEYS:
        value = spell_value(getattr(config, key))
        rows.append([f":{key} VALUE", f"{ASK_FIELDS[key].metadata['help']} (now {value})"])
    ui.say(make_screen_table(make_text_sheet(["command", "what it does"], rows)), log=False)


def spell_value(value: Any) -> str:
    """A key's value as one types it."""
    if value is None:
        return "as the run has it"
    return str(value).lower() if isinstance(value, bool) else str(value) or "none"


@contextlib.contextmanager
def keep_history(on: bool) -> Iterator[None]:
    """Let lines be edited and called back; those of earlier times too, where it is `on`."""
    try:
        import readline
    except ImportError:  # Python may be built without it
        yield
        return
    readline.set_history_length(LONGEST_HISTORY)
    if not on:
        yield
        return
    file = make_private_folder(locate_in_cache("ask")) / "history.txt"
    note_private(file)
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError), open_private_umask():
            readline.write_history_file(file)
            file.chmod(PRIVATE)
