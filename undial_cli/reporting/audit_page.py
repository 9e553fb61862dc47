"""The report of an audit: audit.html, audit.md, audit.csv and its pictures, into one folder.

Written from audit.json and answers.jsonl alone, and so at any time again. The page is private: it
holds what the models answered.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from undial_cli import ui
from undial_cli.reporting import audit_sheets, audit_words, page
from undial_cli.reporting.audit_leaks import (
    Leak,
    choose_example,
    count_asked_rows,
    find_leaks,
)
from undial_cli.reporting.audit_plots import choose_audit_plots
from undial_cli.reporting.audit_record import AUDITED_ROLES, AuditRecord, read_audit
from undial_cli.reporting.plot_choice import ReportPlot
from undial_cli.reporting.plot_style import save_figure
from undial_cli.reporting.sheet import format_csv, make_text_sheet
from undial_cli.reporting.text import capitalise_first
from undial_cli.system.files import write_whole_text

AUDIT_PAGE, AUDIT_TEXT, AUDIT_CSV = "audit.html", "audit.md", "audit.csv"
# Leaks of a page, and of its Markdown twin; all answers are in answers.jsonl.
MOST_LEAKS, MOST_LEAKS_OF_TEXT = 1000, 10
# Words of a verdict as classes of the page.
VERDICT_CLASSES = {"red": "bad", "green": "good"}


def write_audit_report(folder: Path, output: Path) -> Path | None:
    """Write the report of the audit in a folder; its page, or None where there is no audit."""
    record = read_audit(folder)
    if record is None:
        return None
    pictures = []
    for plot in choose_audit_plots(record):
        if picture := try_draw_picture(plot, output):
            pictures.append(picture)
        else:
            record.problems.append(f"The picture {plot.name} could not be drawn.")
    view = make_audit_view(record, pictures)
    # Private where it holds texts of the data.
    for name, template in ((AUDIT_PAGE, "page_audit.html.jinja"), (AUDIT_TEXT, "audit.md.jinja")):
        write_whole_text(output / name, page.fill_template(template, view), bool(record.answers))
    write_whole_text(output / AUDIT_CSV, format_csv(audit_sheets.list_csv_rows(record)))
    return output / AUDIT_PAGE


def try_write_audit_report(folder: Path, output: Path) -> Path | None:
    """The report of an audit that is done; what goes wrong is said in a line, not raised."""
    try:
        return write_audit_report(folder, output)
    except Exception as error:
        ui.say(f"no page of the audit was written ({type(error).__name__}: {error})", "yellow")
        return None


def try_draw_picture(plot: ReportPlot, folder: Path) -> tuple[str, str, str] | None:
    """Draw and store a picture: (name of the PNG, SVG, caption), or None where it cannot be."""
    try:
        png, svg = save_figure(plot.draw(), folder / plot.name)
        return png.name, svg.read_text(encoding="utf-8"), plot.caption
    except OSError:  # a full disk is no fault of one picture
        raise
    except Exception:
        logging.getLogger(__name__).debug("picture %s", plot.name, exc_info=True)
        return None


def make_audit_view(
    record: AuditRecord, pictures: Sequence[tuple[str, str, str]]
) -> dict[str, Any]:
    """What the page and its Markdown twin show."""
    content = record.content
    leaks = find_leaks(record)
    models = [
        (title, str(stated.get("path") or "") if isinstance(stated, dict) else "not known")
        for role, title in AUDITED_ROLES.items()
        for stated in [(content.get("models") or {}).get(role)]
    ]
    strongest = record.strongest()
    style = audit_words.VERDICT_STYLES.get(record.word, "")
    return {
        **page.load_page_parts(),
        "title": f"audit of {content.get('model', 'a model')} on {content.get('data', 'data')}",
        "facts": audit_words.list_audit_facts(record),
        "word": record.word,
        "verdict_class": VERDICT_CLASSES.get(style, "open"),
        "meaning": audit_words.VERDICT_MEANINGS.get(record.word, ""),
        "finding": capitalise_first(audit_words.state_strongest(strongest)) if strongest else "",
        "example": choose_example(leaks, record),
        "reason": audit_words.state_reason(record),
        "attacks": audit_sheets.make_attack_sheet(record),
        "scores": audit_sheets.make_attack_sheet(record, every_score=True),
        "works": audit_sheets.make_works_sheet(record),
        "missing": make_text_sheet(["attack", "why"], list(record.missing.items())),
        "pictures": [(png, Markup(svg[svg.index("<svg") :]), text) for png, svg, text in pictures],
        "leaks": leaks[:MOST_LEAKS],
        "leak_count": count_leaks(leaks),
        "left_out": max(0, len(leaks) - MOST_LEAKS),
        "leak_sheet": audit_sheets.make_leak_sheet(leaks[:MOST_LEAKS_OF_TEXT]),
        "asked_rows": count_asked_rows(record.answers),
        "has_text": bool(leaks),
        "margin": f"{record.margin:g}",
        "sentences": audit_words.list_statistics_sentences(record),
        "models": make_text_sheet(["model", "checkpoint"], models),
        "notes": audit_words.list_attack_notes(record),
    }


def count_leaks(leaks: Sequence[Leak]) -> tuple[int, int]:
    """How many answers leaked, and of how many rows."""
    return len(leaks), len({leak.row for leak in leaks})
