"""`undial report PATH... [output=FOLDER]`: the report of runs that are there already.

Reads its own words; knows nothing of what a report holds.
"""

from __future__ import annotations

from pathlib import Path

from undial_cli import ui
from undial_cli.errors import UserError, bad_value

KEYS = ("output",)
DEFAULT = Path("outputs") / "report"


def run(words: list[str]) -> int:
    """Write the report that the words ask for; returns the exit code.

    Raises:
        UserError: a wrong key, no such path, or no run there; nothing is written.
    """
    from undial_cli.reporting import collect, report

    paths, output = read(words)
    for path in paths:
        if not path.is_dir():
            raise UserError(
                f"report {path}: no such folder; allowed is a run folder, a sweep folder, or a "
                "folder with runs below it"
            )
        if not collect.collect([path]).runs:
            raise UserError(f"report {path}: there are no runs (no run.yaml or sweep.json below)")
    page = report.write(paths, output)
    ui.say(f"report: {page}")
    return 0


def read(words: list[str]) -> tuple[list[Path], Path]:
    """The paths and the output folder that the words name.

    Raises:
        UserError: a word is neither, or there is no path.
    """
    paths: list[Path] = []
    output = ""
    for word in words:
        key, given, value = word.partition("=")
        if word.startswith("-"):
            raise UserError(f"{word}: report takes no flags, only paths and output=FOLDER")
        if given and not Path(word).expanduser().exists():
            if key not in KEYS:
                raise bad_value("key", key, KEYS)
            if not value:
                raise UserError("output=: expected a folder after it")
            output = value
        else:
            paths.append(whole(word))
    if not paths:
        raise UserError("report: expected at least one run folder, as in undial report outputs")
    default = paths[0] / "report" if len(paths) == 1 else DEFAULT
    target = Path(output).expanduser() if output else default
    if target.is_file():
        raise UserError(f"output={output}: it is a file; allowed is a folder")
    return paths, target


def whole(word: str) -> Path:
    """A path as given; a run.yaml or sweep.json stands for its folder."""
    path = Path(word).expanduser()
    return path.parent if path.name in ("run.yaml", "sweep.json") and path.is_file() else path
