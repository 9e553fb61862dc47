"""The page in headless Chromium: silent console, no request, working table, text shown as text.

Skips where there is no Chromium (on the PATH, or named by UNDIAL_CHROMIUM) or no websocket-client.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from audited import make_answer, write_audit
from chromium import Page, find
from reported import NASTY, sample, write, write_run

from undial_cli.reporting import report
from undial_cli.reporting.audit_page import write_audit_report
from undial_cli.ui import reveal_controls

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find() is None, reason="no Chromium on the PATH or in UNDIAL_CHROMIUM"),
    pytest.mark.skipif(
        importlib.util.find_spec("websocket") is None, reason="websocket-client is not installed"
    ),
]
ROWS = 10_000
CELLS = "[...document.querySelectorAll('#sample-table tbody tr')].map(r => r.cells[%d].innerText)"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """One browser for all tests."""
    with Page() as opened:
        yield opened


def check_quiet(page: Page) -> None:
    """Nothing was said, thrown or asked for."""
    assert page.console == []
    assert page.requests == []


def count(page: Page) -> str:
    """What the page says of how many samples are shown."""
    return page.run("document.getElementById('count').textContent")


def search(page: Page, text: str) -> None:
    """Type into the search field and wait for the answer."""
    before = "" if not text else count(page)
    script = (
        "(() => {const q = document.getElementById('query'); q.value = %s;"
        "q.dispatchEvent(new Event('input'));})()"
    )
    page.run(script % json.dumps(text))
    page.until(f"document.getElementById('count').textContent !== {json.dumps(before)}")
    time.sleep(0.2)


def test_all_text_is_shown_as_text_and_nothing_runs(page: Page, tmp_path: Path) -> None:
    samples = [
        sample(n, set_name=f"forget {text}", prompt=text, generation=text, reference=text)
        for n, text in enumerate(NASTY)
    ]
    runs = []
    for n, text in enumerate(NASTY):
        folder = write_run(tmp_path / "runs" / str(n), method=text, samples=samples, reason=text,
                           status="failed", metrics={text: 0.5, "forget_rouge": 0.1})  # fmt: skip
        runs.append({"label": text, "values": {"method": text, text: n}, "reason": text,
                     "status": "failed", "folder": f"../runs/{folder.name}"})  # fmt: skip
    write(tmp_path / "sweep" / "sweep.json", {"title": NASTY[0], "words": [NASTY[1]], "runs": runs})
    page.open(report.write_report([tmp_path / "sweep"], tmp_path / "report"))
    check_quiet(page)
    shown = page.run(CELLS % 2)
    clean = [" ".join(reveal_controls(text).split()) for text in NASTY]
    assert [" ".join(text.split()) for text in shown] == clean
    body = page.run("document.body.innerText")
    for text in (NASTY[0], NASTY[1], NASTY[2]):
        assert body.count(text) > 5
    assert page.run("document.querySelectorAll('img, iframe, object, embed, link').length") == 0
    assert page.run("document.scripts.length") == 2
    assert page.run("document.title") == f"{NASTY[0]} · undial"
    names = page.run("[...document.getElementById('run').options].map(o => o.textContent)")
    assert names[0] == NASTY[0]
    page.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert NASTY[1] in page.run("document.querySelector('#settings').parentNode.innerText")
    check_quiet(page)


def test_search_sort_and_pages_of_ten_thousand_rows(page: Page, tmp_path: Path) -> None:
    rows = [
        sample(n, set_name="forget" if n % 2 else "retain", probability=((n * 7919) % ROWS) / ROWS)
        for n in range(ROWS)
    ]
    file = report.write_report([write_run(tmp_path / "run", samples=rows)], tmp_path / "report")
    page.open(file)
    page.until("document.querySelectorAll('#sample-table tbody tr').length === 25")
    assert count(page) == f"{ROWS} of {ROWS} samples"
    assert page.run("document.getElementById('page').textContent") == "page 1 of 400"
    page.run("document.getElementById('next').click()")
    assert page.run(CELLS % 1) == [str(n) for n in range(25, 50)]
    page.run("document.getElementById('last').click()")
    assert page.run("document.getElementById('next').disabled") is True
    assert page.run(CELLS % 1)[-1] == str(ROWS - 1)

    search(page, "SAID 4321")
    assert (count(page), page.run(CELLS % 1)) == (f"1 of {ROWS} samples", ["4321"])
    search(page, "no such text")
    assert count(page) == f"0 of {ROWS} samples"
    search(page, "")
    page.run(
        "(() => {const s = document.getElementById('set'); s.value = 1;"
        "s.dispatchEvent(new Event('change'));})()"
    )
    assert count(page) == f"{ROWS // 2} of {ROWS} samples"

    head = (
        "[...document.querySelectorAll('#sample-table th')].find(h => h.innerText.includes('%s'))"
    )
    column = head % "answer probability"
    page.run(f"{column}.querySelector('button').focus()")
    page.key("Enter", "\r")
    assert page.run(f"{column}.getAttribute('aria-sort')") == "ascending"
    found = [float(t.split()[0]) for t in page.run(CELLS % 7)]
    assert found == sorted(found)
    took = page.run(
        f"(() => {{const t = performance.now(); {column}.querySelector('button').click();"
        "return performance.now() - t;})()"
    )
    assert took < 500
    assert page.run(f"{column}.getAttribute('aria-sort')") == "descending"
    assert float(page.run(CELLS % 7)[0].split()[0]) > 0.99
    check_quiet(page)


def test_the_table_of_runs_sorts_by_number_with_missing_figures_last(
    page: Page, tmp_path: Path
) -> None:
    for n, (rate, rouge) in enumerate([(1e-3, 0.5), (1e-5, None), (3e-4, 0.05), (1e-4, 10.0)]):
        figures = {"forget_rouge": rouge, "retain_rouge": 0.1 * n, **{f"x{i}": i for i in range(9)}}
        write_run(tmp_path / "runs" / str(n), learning_rate=rate, metrics=figures, samples=[])
    page.open(report.write_report([tmp_path / "runs"], tmp_path / "report"))
    cells = "[...document.querySelectorAll('#runs tbody.body tr')].map(r => r.cells[%d].innerText)"
    click = "document.querySelectorAll('#runs thead button')[%d].click()"
    page.run(click % 0)
    assert page.run(cells % 0) == ["1e-5", "1e-4", "3e-4", "1e-3"]
    page.run(click % 3)
    assert page.run(cells % 3) == ["0.050", "0.500", "10.000", "–"]
    page.run(click % 3)
    assert page.run(cells % 3) == ["10.000", "0.500", "0.050", "–"]
    shown = "[...document.querySelectorAll('#runs thead th')].filter(h => h.offsetWidth).length"
    few = page.run(shown)
    page.run("document.getElementById('all-metrics').click()")
    assert page.run(shown) == few + 9
    check_quiet(page)


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_is_wider_than_the_window_and_ink_stands_out(dark: bool, tmp_path: Path) -> None:
    steps = [{"step": n, "loss": 3.0 - n} for n in range(3)]
    file = report.write_report([write_run(tmp_path / "run", steps=steps)], tmp_path / "report")
    with Page(width=420, dark=dark) as narrow:
        narrow.open(file)
        assert narrow.run("document.documentElement.scrollWidth") <= 420
        ink = "getComputedStyle(document.body).%s.match(/\\d+/g).slice(0, 3).map(Number)"
        light = [sum(narrow.run(ink % name)) / 3 for name in ("color", "backgroundColor")]
        assert (light[0] > light[1]) is dark
        assert abs(light[0] - light[1]) > 150
        tick = "getComputedStyle(document.querySelector('.picture svg g[id*=text_] use, .picture "
        assert narrow.run(f"{tick} svg g[id*=text_] g')).fill !== ''") is True
        check_quiet(narrow)


def test_leaks_are_searched_sorted_and_opened(page: Page, tmp_path: Path) -> None:
    answers = [
        make_answer("prefill" if n % 2 else "direct", n, f"Kelmwick 1969, number {n}", n / 40)
        for n in range(40)
    ]
    file = write_audit_report(write_audit(tmp_path / "audit", answers), tmp_path / "report")
    assert file is not None
    page.open(file)
    shown = "[...document.querySelectorAll('#leak-table tbody tr')].filter(r => !r.hidden)"
    count = "document.getElementById('leak-count').textContent"
    assert page.run(count) == "40 of 40 answers"
    assert page.run(f"{shown}[0].cells[0].innerText") == "39"  # the worst
    fill = "(() => {const e = document.getElementById('%s'); e.value = '%s';"
    fill += "e.dispatchEvent(new Event('%s'));})()"
    page.run(fill % ("leak-query", "NUMBER 39", "input"))
    assert page.run(count) == "1 of 40 answers"
    page.run(fill % ("leak-query", "", "input"))
    page.run(fill % ("leak-attack", "prefill", "change"))
    assert page.run(count) == "20 of 40 answers"
    page.run("document.querySelectorAll('#leak-table thead button')[0].click()")
    rows = page.run(f"{shown}.map(r => Number(r.cells[0].innerText))")
    assert rows == list(range(1, 40, 2))
    page.run(f"{shown}[0].click()")
    assert page.run(f"{shown}[0].className") == "open"
    check_quiet(page)
