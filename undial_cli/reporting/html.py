"""The report as one HTML page that asks the network for nothing and shows all text as text.

Fills assets/report/page.html.jinja (autoescaped) with the rows of tables.py. Knows no files of
runs. Styles, script and pictures stand inside; a Content-Security-Policy forbids all else.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from undial_cli.reporting import names, precision, samples, tables
from undial_cli.reporting.collect import Collection, RunRecord
from undial_cli.reporting.ink import COLOURS, FAINT, INK, PAPER, darker

ASSETS = Path(__file__).parent.parent / "assets" / "report"
STATUSES = ("done", "failed", "refused", "running", "planned")
# What in a figure takes the page's colours, so that it is readable on a dark page too.
INKS = {
    INK: "var(--ink)",
    PAPER: "var(--paper)",
    FAINT: "var(--faint)",
    **{darker(c): f"var(--label-{n})" for n, c in enumerate(COLOURS)},
    **{c: f"var(--series-{n})" for n, c in enumerate(COLOURS)},
}


def safe_json(content: Any) -> str:
    """JSON that can stand in a script element: no character that ends it or begins a tag."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def inline(svg: str, number: int, label: str) -> str:
    """A figure's SVG as an element of the page: ids of its own, the page's colours, a label.

    Args:
        label: what it shows; read aloud instead of it.
    """
    from markupsafe import escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)  # it would be the page's
    body = re.sub(r'\bid="', f'id="p{number}-', body)
    body = re.sub(r'href="#', f'href="#p{number}-', body)
    body = re.sub(r"url\(#", f"url(#p{number}-", body)
    for colour, name in INKS.items():
        body = re.sub(colour, name, body, flags=re.IGNORECASE)
    head = f'<svg role="img" aria-label="{escape(label)}"'
    return head + re.sub(r'^<svg|(?<= )(width|height)="[\d.]+pt"', "", body, count=3)


def without_surrogates(text: str) -> str:
    """Text that can be written as UTF-8: half characters replaced."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


@functools.cache
def asset(name: str) -> str:
    """A file of assets/report."""
    return (ASSETS / name).read_text(encoding="utf-8")


def page(
    collection: Collection,
    keys: Sequence[str],
    pictures: Sequence[tuple[str, str]],
    notes: Sequence[str],
    folder: Path,
) -> str:
    """The whole page.

    Args:
        keys: what tells the runs apart.
        pictures: (SVG, caption) of each.
        notes: what a reader must know.
        folder: where the page will stand; run folders are named relative to it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    runs = collection.runs
    single = len(runs) == 1
    script = asset("page.js")
    packed = samples.pack(runs)
    view: dict[str, Any] = {
        "title": collection.title,
        "facts": facts(collection),
        "sections": [(s, s.capitalize()) for s in SECTIONS],
        "single": single,
        "known_statuses": STATUSES,
        "unfinished": tables.unfinished(runs),
        "headlines": tables.headlines(runs[0]) if single else [],
        "pictures": [
            {"svg": Markup(inline(svg, number, caption)), "caption": caption}
            for number, (svg, caption) in enumerate(pictures)
        ],
        "has_samples": bool(packed["runs"]),
        "has_text": bool(packed["columns"]),
        "labels": [run.short for run in runs],
        "different": [] if single else tables.different_settings(runs),
        "settings": [
            (run.label, os.path.relpath(run.folder, folder), yaml_of(run))
            for run in runs
            if run.nested
        ],
        "environment": tables.environments(runs),
        "notes": notes,
        "data": Markup(safe_json(packed)),
        "css": Markup(asset("page.css")),
        "script": Markup(script),
        "script_hash": "sha256-"
        + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    if single:
        view["columns"], view["groups"] = tables.of_one(runs[0])
        view["precision_titles"], view["precisions"] = tables.precisions(runs[0])
    else:
        first, more = tables.main_metrics(runs)
        roles = precision.part(runs[0].results, "roles")
        above, rows = tables.of_many(runs, keys, [*first, *more])
        view |= {
            "first": first,
            "more": more,
            "above": above,
            "rows": rows,
            "key_titles": [(names.setting(key), kind_of(runs[0].values.get(key))) for key in keys],
            "metric_titles": [(names.metric(m), names.better(m, roles)) for m in [*first, *more]],
        }
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["sort_value"] = sort_value
    return without_surrogates(environment.get_template("page.html.jinja").render(view))


SECTIONS = ("summary", "plots", "samples", "settings", "environment", "notes")


def kind_of(value: Any) -> str:
    """The class of a column: `n` for numbers."""
    return "n" if names.number(value) is not None else ""


def sort_value(cell: tables.Cell) -> Any:
    """The attribute that a cell with a number is sorted by."""
    from markupsafe import Markup

    return Markup(f' data-v="{cell.number!r}"') if cell.number is not None else ""


def facts(collection: Collection) -> list[str]:
    """What stands below the title."""
    runs = collection.runs
    if len(runs) == 1:
        run = runs[0]
        settings = run.settings
        found = [run.status]
        if run.seconds is not None:
            found.append(names.seconds(run.seconds))
        for key, title in (("eval.name", "suite"), ("adapter.name", "adapter"), ("seed", "seed")):
            if key in settings:
                found.append(f"{title} {names.short(settings[key])}")
        return [*found, run.folder.name]
    counts: dict[str, int] = {}
    for run in runs:
        counts[run.status] = counts.get(run.status, 0) + 1
    found = [f"{count} {status}" for status, count in counts.items()]
    return [f"{len(runs)} runs", *found, " ".join(collection.words)][: 2 + len(found)]


def yaml_of(run: RunRecord) -> str:
    """A run's settings as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(run.nested))
