"""The report of one run or many: report.html, report.md and the pictures, into one folder.

`write` never fails on what a run left broken; it is shown as such. Top to bottom: collect,
describe, draw, page, Markdown.
"""

from __future__ import annotations

import logging
from pathlib import Path

from undial_cli import ui
from undial_cli.cache import write_text
from undial_cli.errors import UserError
from undial_cli.reporting import cells, differences, page, pictures, style, text
from undial_cli.reporting.collect import collect

PAGE, TEXT = "report.html", "report.md"


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
    collection = collect(paths)
    if not collection.runs:
        raise UserError(f"report {' '.join(map(str, paths))}: there are no runs")
    keys = differences.describe(collection.runs)
    notes = cells.notes(collection.runs)
    drawn: list[tuple[Path, str, str]] = []
    for picture in pictures.choose(collection.runs, keys):
        try:
            png, svg = style.save(picture.draw(), folder / picture.name)
            drawn.append((png, svg.read_text(encoding="utf-8"), picture.caption))
        except OSError:
            raise
        except Exception as error:
            logging.getLogger(__name__).debug("picture %s", picture.name, exc_info=True)
            notes.append(f"The picture {picture.name} could not be drawn ({type(error).__name__}).")
    drawings = [(svg, caption) for _, svg, caption in drawn]
    html = page.render(collection, keys, drawings, notes, folder)
    markdown = text.report(collection, keys, [(png, caption) for png, _, caption in drawn], notes)
    write_text(folder / TEXT, markdown, private=True)
    write_text(folder / PAGE, html, private=True)
    return folder / PAGE
