"""`undial copy GROUP/NAME FOLDER`: a shipped config file into a folder of the user's, to be edited.

Writes one new file and says which command uses it; overwrites nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from undial_cli import ui
from undial_cli.errors import UserError, WorldError, bad_value
from undial_cli.runs.commands.file_kinds import FILE_KINDS, FileKind, spell_usage
from undial_cli.runs.hydra_configs import find_config_folder

COPY_EXAMPLE = "as in undial copy method/undial my/configs"


def run_copy_command(words: Sequence[str]) -> int:
    """Do `undial copy WORDS`; returns the exit code.

    Raises:
        UserError: a wrong word, no such config, or a file of that name is there.
        WorldError: the folder cannot be written to.
    """
    paths, name = parse_copy_words(words)
    source, kind = find_shipped_config(paths[0])
    folder = Path(paths[1])
    target = folder.expanduser() / kind.name / f"{name or source.stem}.yaml"
    copy_config(source, target)
    ui.say(f"copied configs/{kind.name}/{source.name} to {target}; it is used by")
    ui.say(f"  undial {spell_config_usage(kind, target.stem, str(folder))}", "bold")
    ui.say(f"undial validate {target} says what is wrong with it", "dim")
    return 0


def parse_copy_words(words: Sequence[str]) -> tuple[list[str], str | None]:
    """The config and the folder, and a new name where one is given."""
    paths: list[str] = []
    name: str | None = None
    for word in words:
        key, given, value = word.partition("=")
        if key == "name" and given:
            if not value.replace("-", "_").isidentifier():
                raise bad_value("name", value, "one word of letters, digits, - and _")
            name = value
        elif word.startswith("-"):
            raise bad_value("flag", key, ["name=NAME"])
        else:
            paths.append(word)
    if len(paths) != 2:
        raise UserError(
            f"copy: expected GROUP/NAME and a folder, {COPY_EXAMPLE}; got {len(paths)} words"
        )
    return paths, name


def find_shipped_config(word: str) -> tuple[Path, FileKind]:
    """The shipped file that `method/undial`, or `method=undial`, names, and its kind.

    Raises:
        UserError: there is none; the nearest is named.
    """
    group, _, name = word.replace("=", "/").removesuffix(".yaml").strip("/").rpartition("/")
    group = group.removeprefix("configs/")
    if group not in FILE_KINDS:
        if not group:
            raise UserError(f"copy {word}: expected GROUP/NAME, {COPY_EXAMPLE}; the groups are "
                            f"{', '.join(FILE_KINDS)}")  # fmt: skip
        raise bad_value("group", group, FILE_KINDS)
    files = {file.stem: file for file in (find_config_folder() / group).glob("*.yaml")}
    if name not in files:
        raise bad_value(group, name, files)
    return files[name], FILE_KINDS[group]


def copy_config(source: Path, target: Path) -> None:
    """Write a copy whose file is new."""
    content = source.read_bytes()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as file:  # fails where it is there, links that lead nowhere too
            file.write(content)
    except FileExistsError as error:
        raise UserError(f"{error.filename}: is there already and stays as it is; say name=NAME "
                        "for a copy of another name") from error  # fmt: skip
    except NotADirectoryError as error:
        raise UserError(f"{error.filename}: not a folder") from error
    except OSError as error:
        raise WorldError(f"{target}: cannot be written ({error.strerror})") from error


def spell_config_usage(kind: FileKind, name: str, folder: str) -> str:
    """The words that use a file in a folder of the user's, from the command on."""
    command, words = spell_usage(kind, name).split(maxsplit=1)
    return f"{command} --config-dir {folder} {words}"
