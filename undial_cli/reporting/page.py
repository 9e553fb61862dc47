"""The report as an HTML page and as Markdown, from one view of its runs and the templates.

The page asks the network for nothing: styles, script and pictures stand inside, and a
Content-Security-Policy forbids all else. Text of models and data is shown as text, whatever it
says: a template escapes all that is put into it, but what its filters made. Knows no files of runs.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from undial_cli.reporting import audit_sheets, cells, sheet
from undial_cli.reporting.collect import RunCollection
from undial_cli.reporting.samples import pack_samples
from undial_cli.reporting.sheet import escape_markdown
from undial_cli.reporting.text import format_figure, format_run_time, format_setting_value
from undial_cli.ui import reveal_controls

TEMPLATES = Path(__file__).parent / "templates"
PAGE, TEXT = "report.html", "report.md"


def fill_template(template: str, view: dict[str, Any]) -> str:
    """A template of reporting/templates with a view in it; all text of the view is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    is_page = template.startswith("page")
    escape = reveal_text if is_page else escape_markdown

    def finalize(value: Any) -> Any:
        return value if isinstance(value, Markup) else escape(str(value))

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=is_page,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # NaN is no JSON: a browser would refuse the whole table of samples
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False}
    environment.policies["json.dumps_function"] = dump_revealed
    environment.filters["markdown"] = lambda *words: Markup(sheet.format_markdown(*words))
    environment.filters["code"] = lambda text: Markup(sheet.quote_markdown_code(str(text)))
    environment.filters["fenced"] = lambda *words: Markup(sheet.fence_block(*words))
    environment.filters["path"] = lambda name: Markup(quote(name, safe="/@"))
    environment.filters["figure"] = format_figure
    return environment.get_template(template).render(view).rstrip() + "\n"


def reveal_text(value: Any) -> Any:
    """A value with the texts in it as they may be shown."""
    if isinstance(value, str):
        return reveal_controls(value)
    if isinstance(value, dict):
        return {name: reveal_text(part) for name, part in value.items()}
    return list(map(reveal_text, value)) if isinstance(value, list | tuple) else value


def dump_revealed(value: Any, **arguments: Any) -> str:
    """JSON for a page's script, which shows the texts in it."""
    return json.dumps(reveal_text(value), **arguments)


def render_report(
    collection: RunCollection,
    keys: Sequence[str],
    pictures: Sequence[tuple[str, str, str]],
    notes: Sequence[str],
    folder: Path,
) -> dict[str, str]:
    """The page and its Markdown, by the names of their files.

    Args:
        pictures: (name of the PNG, SVG, caption) of each.
        folder: where they will stand; run folders are named relative to it.
    """
    from markupsafe import Markup
    from omegaconf import OmegaConf

    runs = collection.runs
    alone = runs[0] if len(runs) == 1 else None
    nothing = sheet.make_text_sheet([], [])
    packed = pack_samples(runs)
    figures = cells.make_run_sheet(alone) if alone else cells.make_comparison_sheet(runs, keys)
    settings = []
    for run in (run for run in runs if run.nested):
        content = OmegaConf.to_yaml(OmegaConf.create(run.nested))
        settings.append((run.label, os.path.relpath(run.folder, folder), content))
    view = {
        **load_page_parts(),
        "title": collection.title,
        "facts": list_report_facts(collection),
        "single": alone is not None,
        "unfinished": cells.make_unfinished_sheet(runs),
        "headlines": cells.choose_headlines(alone) if alone else [],
        "figures": figures,
        "precisions": cells.make_precision_sheet(alone) if alone else nothing,
        "audits": audit_sheets.make_audits_sheet(runs),
        # an XML declaration stands before each drawing
        "pictures": [(png, Markup(svg[svg.index("<svg") :]), text) for png, svg, text in pictures],
        "examples": cells.make_examples_sheet(alone) if alone else nothing,
        "has_samples": bool(packed["runs"]),
        "has_text": bool(packed["columns"]),
        "different": cells.make_settings_sheet(runs),
        "settings": settings,
        "environments": cells.make_environment_sheets(runs),
        "notes": notes,
        "data": packed,
    }
    return {
        PAGE: fill_template("page.html.jinja", view),
        TEXT: fill_template("report.md.jinja", view),
    }


def load_page_parts() -> dict[str, Any]:
    """Style and script of every page, and the digest of the one script that its policy runs."""
    from markupsafe import Markup

    css = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"css": Markup(css), "script": Markup(script), "script_hash": f"sha256-{digest}"}


def list_report_facts(collection: RunCollection) -> list[str]:
    """What stands below the title."""
    runs = collection.runs
    if len(runs) > 1:
        counts = Counter(run.status for run in runs)
        words = " ".join(collection.words)
        lines = [f"{len(runs)} runs", *(f"{n} {status}" for status, n in counts.items())]
        return [*lines, words] if words else lines
    (run,) = runs
    time = [format_run_time(run.seconds)] if run.seconds is not None else []
    titles = {"eval.name": "suite", "adapter.name": "adapter", "seed": "seed"}
    known = [key for key in titles if key in run.settings]
    settings = [f"{titles[key]} {format_setting_value(run.settings[key])}" for key in known]
    return [run.status, *time, *settings, run.folder.name]
