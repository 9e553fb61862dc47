"""The site: its reference names all that there is, its links lead on, and it works from files."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import chromium
import pytest

from undial_cli.cli import COMMAND_NAMES
from undial_cli.config.schema import RUN_TYPES
from undial_cli.evaluation.catalog import ENTRIES
from undial_cli.methods import METHODS
from undial_cli.runs.known_keys import list_known_keys

ROOT = Path(__file__).parents[2]
SITE = ROOT / "build" / "site"
sys.path.append(str(ROOT / "scripts"))

import write_reference  # noqa: E402
import write_site_pages  # noqa: E402


def test_the_reference_has_every_command_key_group_method_and_metric() -> None:
    pages = {name: write() for name, write in write_reference.PAGES.items()}
    headings = {name: set(re.findall(r"^##+ (\S+)$", text, re.M)) for name, text in pages.items()}
    assert set(COMMAND_NAMES) <= headings["commands"]
    assert METHODS.keys() <= headings["methods"]
    assert {"model", "data", "method", "attack", "table"} <= headings["groups"]
    keys = {
        key for command in (*RUN_TYPES, "reproduce", "tune") for key in list_known_keys(command)
    }
    text = pages["keys"] + pages["methods"]
    assert not [key for key in keys if f"| `{key}` |" not in text]
    assert not [m.name for m in ENTRIES if f"[`{m.name}`](../metrics.md#" not in pages["metrics"]]
    options = [f for f in (ROOT / "configs").glob("*/*.yaml") if f.parent.name != "recipe"]
    assert not [f for f in options if f"| `{f.stem}` |" not in pages["groups"]]
    # A row of a table has as many cells as its head, whatever signs a line of help has.
    for text in pages.values():
        for table in re.findall(r"(?:^\|.*\n?)+", text, re.M):
            assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_a_key_says_its_type_its_default_of_each_command_and_its_range() -> None:
    lines = {line.split(" | ")[0]: line for line in write_reference.write_keys().splitlines()}
    assert lines["| `train.epochs`"].startswith(
        "| `train.epochs` | number | `5`; unlearn: `10`; data: `10` | > 0 and &lt;= 1000000 | "
    )
    assert "| whole number or null | `null` | >= 1 |" in lines["| `eval.limit`"]
    assert "| text | `forget` | `forget`, `retain` |" in lines["| `data.anchor`"]


def test_links_lead_to_where_the_site_has_a_page() -> None:
    files = write_site_pages.map_site_files()

    def turn(text: str, page: str) -> str:
        return write_site_pages.turn_links(text, Path(page), files)

    assert turn("[a](docs/data.md#x) ![b](docs/pictures/ask.png)", "README.md") == (
        "[a](data.md#x) ![b](pictures/ask.png)"
    )
    assert turn("[a](../SECURITY.md), [b](../README.md)", "docs/ask.md") == (
        "[a](SECURITY.md), [b](index.md)"
    )
    untouched = "[a](https://x.org/y.md) [b](#z) `f[1](2)`\n```\ng[1](2)\n```\n"
    assert turn(untouched, "docs/ask.md") == untouched
    with pytest.raises(SystemExit, match=r"docs/ask.md: links to \.\./Makefile, which the site"):
        turn("[a](../Makefile)", "docs/ask.md")


def test_the_navigation_names_every_page_once() -> None:
    pages = [str(path) for path in write_site_pages.map_site_files().values()]
    pages += [f"reference/{name}.md" for name in write_reference.PAGES]
    named = re.findall(r"^ +- [^:]+: (\S+)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.M)
    assert sorted(named) == sorted(page for page in pages if page.endswith(".md"))


@pytest.mark.slow
@pytest.mark.skipif(chromium.find() is None, reason="no Chromium")
@pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="the site is not built: make site")
def test_the_site_opens_from_files_and_is_searched_without_a_network(tmp_path: Path) -> None:
    shutil.copytree(SITE, tmp_path / "site")
    with chromium.Page() as page:
        page.open(tmp_path / "site" / "index.html")
        page.run("document.querySelector('.md-search__input').focus()")
        page.run(
            "(input => { input.value = 'privleak'; "
            "input.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true})) })"
            "(document.querySelector('.md-search__input'))"
        )
        page.until("document.querySelector('.md-search-result__item a') !== null")
        links = "[...document.querySelectorAll('.md-search-result__item a')].map(a => a.href)"
        hits = json.loads(page.run(f"JSON.stringify({links})"))
        assert any("metrics.html" in hit and hit.endswith("#privleak") for hit in hits)
        page.open(next(hit for hit in hits if hit.endswith("metrics.html?h=privleak#privleak")))
        page.until("document.querySelector('h3#privleak') !== null")
        assert not page.console
        assert not [url for url in page.requests if not url.startswith(("file:", "data:"))]
