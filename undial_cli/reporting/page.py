"""The report as one HTML page that asks the network for nothing and shows all text as text.

Fills assets/report/page.html.jinja (autoescaped) with the sheets of cells.py. Knows no files of
runs. Styles, script and pictures stand inside; a Content-Security-Policy forbids all else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from undial_cli.reporting import cells, names, samples
from undial_cli.reporting.collect import Collection, RunRecord

ASSETS = Path(__file__).parent.parent / "assets" / "report"


def safe_json(content: Any) -> str:
    """JSON that can stand in a script element: no character that ends it or begins a tag."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return without_surrogates(text)


def without_surrogates(text: str) -> str:
    """Text that can be written as UTF-8: half characters replaced."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def render(
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
    css, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    digest = hashlib.sha256(script.encode()).digest()
    packed = samples.pack(runs)
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("page.html.jinja").render(
        title=collection.title,
        facts=facts(collection),
        single=single,
        unfinished=cells.unfinished(runs),
        headlines=cells.headlines(runs[0]) if single else [],
        figures=cells.of_one(runs[0]) if single else cells.of_many(runs, keys),
        precisions=cells.precisions(runs[0]) if single else None,
        # an XML declaration stands before each drawing
        pictures=[(Markup(svg[svg.index("<svg") :]), caption) for svg, caption in pictures],
        has_samples=bool(packed["runs"]),
        has_text=bool(packed["columns"]),
        different=cells.different_settings(runs),
        settings=[
            (run.label, os.path.relpath(run.folder, folder), yaml_of(run))
            for run in runs
            if run.nested
        ],
        environments=cells.environments(runs),
        notes=notes,
        data=Markup(safe_json(packed)),
        css=Markup(css),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(digest).decode()}",
    )
    return without_surrogates(text)


def facts(collection: Collection) -> list[str]:
    """What stands below the title."""
    runs = collection.runs
    if len(runs) > 1:
        counts = Counter(run.status for run in runs)
        words = " ".join(collection.words)
        lines = [f"{len(runs)} runs", *(f"{n} {status}" for status, n in counts.items())]
        return [*lines, words] if words else lines
    (run,) = runs
    lines = [run.status] + ([names.seconds(run.seconds)] if run.seconds is not None else [])
    for key, title in (("eval.name", "suite"), ("adapter.name", "adapter"), ("seed", "seed")):
        if key in run.settings:
            lines.append(f"{title} {names.short(run.settings[key])}")
    return [*lines, run.folder.name]


def yaml_of(run: RunRecord) -> str:
    """A run's settings as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(run.nested))
