"""The report of one run or many: report.html, report.md and the pictures, into one folder.

`write` never fails on what a run left broken; it is shown as such. Top to bottom: collect,
describe, draw, page, Markdown twin.
"""

from __future__ import annotations

import logging
from pathlib import Path

from undial_cli import ui
from undial_cli.cache import write_text
from undial_cli.errors import UserError
from undial_cli.reporting import collect, differences, html, markdown, pictures, plots, tables

PAGE, TWIN = "report.html", "report.md"


def after(paths: list[Path], folder: Path) -> Path | None:
    """The same for a run or sweep that is done: what goes wrong is said in one line, not raised."""
    try:
        return write(paths, folder)
    except Exception as error:
        ui.say(f"no report was written ({type(error).__name__}: {error})", "yellow")
        return None


def write(paths: list[Path], folder: Path) -> Path:
    """Write the report of all runs at the paths.

    Args:
        paths: run folders, sweep folders (sweep.json), or folders with runs below them.
        folder: where it goes; made if it is not there.

    Returns:
        The page.

    Raises:
        UserError: there is no run at the paths.
    """
    found = collect.collect(paths)
    if not found.runs:
        raise UserError(f"report {' '.join(map(str, paths))}: there are no runs")
    keys = differences.describe(found.runs)
    notes = tables.notes(found.runs)
    drawn: list[tuple[Path, str, str]] = []
    for picture in pictures.choose(found.runs, keys):
        try:
            png, svg = plots.save(picture.draw(), folder / picture.name)
            drawn.append((png, svg.read_text(encoding="utf-8"), picture.caption))
        except OSError:
            raise
        except Exception as error:
            logging.getLogger(__name__).debug("picture %s", picture.name, exc_info=True)
            notes.append(f"The picture {picture.name} could not be drawn ({type(error).__name__}).")
    page = html.page(found, keys, [(svg, text) for _, svg, text in drawn], notes, folder)
    text = markdown.twin(found, keys, [(png, text) for png, _, text in drawn], notes)
    write_text(folder / TWIN, text, private=True)
    write_text(folder / PAGE, page, private=True)
    return folder / PAGE
