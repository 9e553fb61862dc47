"""The report of one run or many: report.html, report.md and the pictures, into one folder.

Of one run that was audited, audit.html and its Markdown stand beside them.

`undial report PATH... [output=FOLDER]` writes that of runs that are there already. What a run left
broken is shown as such. Top to bottom: collect, label, draw, page, Markdown.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from undial_cli import ui
from undial_cli.errors import UserError, bad_value
from undial_cli.reporting import page
from undial_cli.reporting.audit_page import write_audit_report
from undial_cli.reporting.collect import AUDIT_FOLDER, collect_runs
from undial_cli.reporting.labels import label_runs
from undial_cli.reporting.notes import list_run_notes
from undial_cli.reporting.plot_choice import choose_plots
from undial_cli.reporting.plot_style import save_figure
from undial_cli.system.faults import translate_faults
from undial_cli.system.files import write_whole_text
from undial_cli.system.private_files import LEDGER_FILE, keep_ledgers

# How report.md shows a picture beside it.
PICTURE_LINK = re.compile(r"^!\[.*\]\((\w+\.png)\)$", re.MULTILINE)
DEFAULT_REPORT_FOLDER = Path("outputs") / "report"


def run_report_command(words: list[str]) -> int:
    """Do `undial report WORDS`; returns the exit code.

    Raises:
        UserError: a wrong key, no such path, or no run there; nothing is written.
    """
    paths, output = parse_report_words(words)
    for path in paths:
        if not path.is_dir():
            raise UserError(
                f"report {path}: no such folder; allowed is a run folder, a sweep folder, or a "
                "folder with runs below it"
            )
        if not collect_runs([path]).runs:
            raise UserError(f"report {path}: there are no runs (no run.yaml or sweep.json below)")
    with translate_faults(output):
        ui.say(f"report: {write_report(paths, output)}")
    return 0


def parse_report_words(words: list[str]) -> tuple[list[Path], Path]:
    """The paths and the output folder that the words name."""
    paths: list[Path] = []
    output = ""
    for word in words:
        key, given, value = word.partition("=")
        path = Path(word).expanduser()
        if word.startswith("-"):
            raise UserError(f"{word}: report takes no flags, only paths and output=FOLDER")
        if given and not path.exists():
            if key != "output":
                raise bad_value("key", key, ["output"])
            if not value:
                raise UserError("output=: expected a folder after it")
            output = value
        else:
            is_file = path.name in ("run.yaml", "sweep.json") and path.is_file()
            paths.append(path.parent if is_file else path)
    if not paths:
        raise UserError("report: expected at least one run folder, as in undial report outputs")
    default = paths[0] / "report" if len(paths) == 1 else DEFAULT_REPORT_FOLDER
    target = Path(output).expanduser() if output else default
    if target.is_file():
        raise UserError(f"output={output}: it is a file; allowed is a folder")
    return paths, target


def try_write_report(paths: list[Path], folder: Path) -> Path | None:
    """The report of runs that are done; what goes wrong is said in a line, not raised."""
    try:
        return write_report(paths, folder)
    except Exception as error:
        ui.say(f"no report was written ({type(error).__name__}: {error})", "yellow")
        return None


def write_report(paths: list[Path], folder: Path) -> Path:
    """Write the report of all runs at the paths (run or sweep folders, or above); its page.

    A page that holds texts of the data is private, and stands in the ledger of each run.
    """
    collection = collect_runs(paths)
    if not collection.runs:
        raise UserError(f"report {' '.join(map(str, paths))}: there are no runs")
    keys = label_runs(collection.runs)
    notes = list_run_notes(collection.runs)
    pictures: list[tuple[str, str, str]] = []
    for plot in choose_plots(collection.runs, keys):
        try:
            png, svg = save_figure(plot.draw(), folder / plot.name)
            pictures.append((png.name, svg.read_text(encoding="utf-8"), plot.caption))
        except OSError:  # a full disk is no fault of one picture
            raise
        except Exception as error:
            logging.getLogger(__name__).debug("picture %s", plot.name, exc_info=True)
            notes.append(f"The picture {plot.name} could not be drawn ({type(error).__name__}).")
    with_text = [run.folder / LEDGER_FILE for run in collection.runs if run.samples]
    pages = page.render_report(collection, keys, pictures, notes, folder)
    remove_old_pictures(folder, {png for png, _, _ in pictures})
    with keep_ledgers(with_text):
        for name, text in pages.items():
            write_whole_text(folder / name, text, private=bool(with_text))
    if len(collection.runs) == 1:
        (run,) = collection.runs
        with keep_ledgers([run.folder / LEDGER_FILE]):
            write_audit_report(run.folder / AUDIT_FOLDER, folder)
    return folder / page.PAGE


def remove_old_pictures(folder: Path, wanted: set[str]) -> None:
    """Remove the pictures that the last report in a folder shows and the new one does not."""
    try:
        text = (folder / page.TEXT).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return
    for name in set(PICTURE_LINK.findall(text)) - wanted:
        for suffix in (".png", ".svg"):
            (folder / name).with_suffix(suffix).unlink(missing_ok=True)
