"""`undial validate FILE...`: what is wrong with config files, a line each fault.

Each file's keys and values first, then the whole as a command would compose it. No model and no
data is loaded. Stands here since tables are checked as well.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from undial_cli import ui
from undial_cli.config.attacks import BUDGETS
from undial_cli.config.tuning import TuneConfig
from undial_cli.errors import UserError, bad_value
from undial_cli.runs.attacks import build_attack, read_attack_file
from undial_cli.runs.commands.file_faults import (
    Fault,
    ReadFile,
    find_fault_line,
    list_faults,
    read_config_file,
)
from undial_cli.runs.commands.file_kinds import (
    FILE_KINDS,
    RUN_KIND,
    FileKind,
    find_kind_folder,
    find_kind_of_folder,
    recognise_file_kind,
    spell_usage,
)
from undial_cli.runs.compose import compose_command_keys, compose_run
from undial_cli.runs.hydra_configs import list_folders
from undial_cli.runs.run_yaml import parse_run_yaml
from undial_cli.tables.load import load_table

OPTION_NAME = re.compile(r"[\w-]+")


def run_validate_command(words: Sequence[str]) -> int:
    """Do `undial validate WORDS`; returns the exit code: 2 where a file has a fault.

    Raises:
        UserError: a word is wrong, or there is no such file.
    """
    files, stated = parse_validate_words(words)
    return max(validate_file(file, stated) for file in files)


def parse_validate_words(words: Sequence[str]) -> tuple[list[Path], FileKind | None]:
    """The files, and their kind where it is said."""
    files: list[Path] = []
    kind: FileKind | None = None
    for word in words:
        name, given, value = word.partition("=")
        path = Path(word).expanduser()
        if name == "kind" and given:
            if value not in FILE_KINDS:
                raise bad_value("kind", value, FILE_KINDS)
            kind = FILE_KINDS[value]
        elif word.startswith("-"):
            raise bad_value("flag", word, ["kind=NAME"])
        elif path.is_dir():
            inside = sorted(path.rglob("*.yaml"))
            if not inside:
                raise UserError(f"validate {word}: no file in it ends in .yaml")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"validate {word}: no such file")
    if not files:
        raise UserError("validate: expected a file, as my/configs/method/mine.yaml")
    return files, kind


def validate_file(file: Path, stated: FileKind | None) -> int:
    """Say what is wrong with a file and what it was taken for; 2 where anything is."""
    read = read_config_file(file)
    if isinstance(read, Fault):
        return report_faults(file, "", [read])
    try:
        if stated is not None:
            kind, reason = stated, "as kind= says"
        elif (of_folder := find_kind_of_folder(file)) is not None:
            kind, reason = of_folder, f"as it lies in a folder {of_folder.name}"
        else:
            kind, reason = recognise_file_kind(read.content, read.text)
            reason = f"as {reason}"
    except UserError as error:
        return report_faults(file, "", [Fault(0, str(error))])
    faults = list_faults(kind, file.stem, read) or check_whole_file(file, kind, read)
    return report_faults(file, f"{kind.words}, {reason}", faults, spell_command(file, kind))


def report_faults(file: Path, taken: str, faults: list[Fault], command: str = "") -> int:
    """Say the faults, a line each, or the command that uses the file; 2 where there are any."""
    for fault in faults:
        ui.print_error(f"{file}:{fault.line or ''}{': ' if fault.line else ' '}{fault.text}")
    count = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}" if faults else "nothing is wrong"
    ui.say(f"{file}{f': {taken}' if taken else ''}: {count}")
    if command and not faults:
        ui.say(f"  {command}", "dim")
    return 2 if faults else 0


def spell_command(file: Path, kind: FileKind) -> str:
    """The command that uses a file, where it lies as Hydra looks for it."""
    if kind.name == RUN_KIND:
        return f"undial {kind.schema().command or 'unlearn'} --from {file}"
    if find_kind_folder(file, kind) is None:
        return f"to be used, it lies in FOLDER/{kind.name}/: --config-dir FOLDER"
    folder = file.parents[kind.name.count("/") + 1]
    command, words = spell_usage(kind, file.stem).split(maxsplit=1)
    return f"undial {command} --config-dir {folder} {words}"


def check_whole_file(file: Path, kind: FileKind, read: ReadFile) -> list[Fault]:
    """What composing a file says that its single keys do not; one fault at most."""
    try:
        if kind.name == RUN_KIND:
            parse_run_yaml(read.text, where=str(file))
            return []
        if file.suffix != ".yaml" or not OPTION_NAME.fullmatch(file.stem):
            return [Fault(0, f"{file.name}: a config file is called NAME.yaml, NAME one word")]
        folder = find_kind_folder(file, kind)
        if folder is not None:
            compose_file(folder, file, kind)
            return []
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch, kind.name, file.name)
            copy.parent.mkdir(parents=True)
            shutil.copyfile(file, copy)
            compose_file(Path(scratch), copy, kind)
    except UserError as error:
        package = kind.package.format(name=file.stem)
        return [Fault(find_fault_line(str(error), file, package), str(error))]
    return []


def compose_file(folder: Path, file: Path, kind: FileKind) -> None:
    """Compose a file as the command that uses it would; raises UserError where that fails."""
    name, extra = file.stem, str(folder)
    if kind.name == "table":
        load_table([f"table={name}"], extra)
    elif kind.name == "tune":
        compose_command_keys(TuneConfig, "tune", [f"tune={name}"], extra)
    elif kind.name == "attack":
        content = read_attack_file(name, file)
        for budget in BUDGETS[1:]:
            build_attack(name, content, {}, budget)
    else:
        command, *words = spell_usage(kind, name).split()
        if all(is_option(word, folder) for word in words):
            # What data a suite belongs to is for the command line that chooses both.
            words += ["eval.data=[]"] if kind.name == "eval" else []
            compose_run(command, words, extra)


def is_option(word: str, folder: Path) -> bool:
    """Whether a word chooses an option that there is: a recipe may be of one that is to come."""
    group, _, name = word.partition("=")
    return any((base / group / f"{name}.yaml").is_file() for base in list_folders(str(folder)))
