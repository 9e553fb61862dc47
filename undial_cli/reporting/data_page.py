"""The page of `undial data`: figures, lengths, what looks wrong, rows token by token.

One private file that asks the network for nothing (reporting/page.py). Knows no run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from undial_cli.data.shown_rows import FOCUSED, LOST, READ, TRAINED
from undial_cli.reporting import page
from undial_cli.reporting.data_screen import LEGEND, describe_shown_row
from undial_cli.reporting.data_sheets import (
    DataView,
    SetView,
    count_lengths,
    list_check_rules,
    make_findings_sheet,
    make_sets_sheet,
)
from undial_cli.system.files import write_whole_text

# Pairs of rows of a kind that a page lists.
MOST_LISTED_PAIRS = 200
CLASSES = {READ: "r", TRAINED: "t", FOCUSED: "f", LOST: "x"}
# Of a drawing of lengths, in its units.
BAR_HEIGHT, LABEL_WIDTH, DRAWING_WIDTH = 22, 90, 600


def write_data_page(view: DataView, file: Path) -> None:
    """Write the page whole, for the user alone."""
    pairs, left_out = make_findings_sheet(view, MOST_LISTED_PAIRS)
    content: dict[str, Any] = {
        **page.load_page_parts(),
        "title": view.title,
        "facts": view.facts,
        "faults": view.faults,
        "sets": make_sets_sheet(view),
        "lengths": [draw_lengths(part, view.data.max_length) for part in view.sets],
        "pairs": pairs,
        "left_out": left_out,
        "rules": list_check_rules(view),
        "notes": view.notes,
        "legend": [(CLASSES[kind], words) for kind, words in LEGEND.items()],
        "shown": [
            (part.name, [(describe_shown_row(row, part.is_trained), row) for row in part.shown])
            for part in view.sets
        ],
        "classes": CLASSES,
        "has_text": True,
    }
    write_whole_text(file, page.fill_template("page_data.html.jinja", content), private=True)


def draw_lengths(part: SetView, max_length: int) -> dict[str, Any]:
    """Bars of the lengths of a set: where each lies in the drawing, and what it says."""
    bars = count_lengths(part, max_length)
    most = max((count for _, count in bars), default=1)
    room = DRAWING_WIDTH - 2 * LABEL_WIDTH
    return {
        "name": part.name,
        "height": BAR_HEIGHT * len(bars),
        "bars": [
            {"label": label, "count": count, "y": BAR_HEIGHT * i, "width": room * count / most}
            for i, (label, count) in enumerate(bars)
        ],
    }
