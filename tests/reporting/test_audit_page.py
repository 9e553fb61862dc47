"""The page of an audit, its twins, its lines on the screen, and where reports tell of audits."""

from __future__ import annotations

import csv
import html
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from audited import ANSWER, attack, make_answer, make_audit, write_audit
from drawn import legend_of, texts_of, ydata
from reported import NASTY, write_run

from undial_cli import ui
from undial_cli.config.schema import AuditRun
from undial_cli.reporting import audit_plots, audit_sheets, report
from undial_cli.reporting.audit_page import write_audit_report
from undial_cli.reporting.audit_record import AuditRecord
from undial_cli.reporting.audit_screen import make_screen_sheet, show_audit
from undial_cli.reporting.audit_words import describe_audit, state_reason, state_verdict
from undial_cli.reporting.summary import show_summary

# One attack without curves: a page with a single picture.
BARE = {"attacks": {"direct": make_audit()["attacks"]["direct"]}}


def page_of(folder: Path) -> str:
    page = write_audit_report(folder, folder.parent / "report")
    assert page is not None
    return page.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """The page's text, scripts and styles left out."""
    bare = re.sub(r"<(script|style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", bare)).split())


def rows_of(page: str, table: str) -> list[str]:
    """The text of the rows of a table's body."""
    body = page.split(table)[1].split("<tbody", 1)[1].split("</tbody>")[0]
    return [text_of(row) for row in re.findall("<tr[^>]*>(.*?)</tr>", body, re.DOTALL)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of an audit with all that one may have."""
    root = tmp_path_factory.mktemp("audited")
    page_of(write_audit(root / "audit"))
    return root / "report"


def test_a_page_says_verdict_strongest_attack_and_an_example(folder: Path) -> None:
    page = (folder / "audit.html").read_text()
    text = text_of(page)
    assert (
        "suppressed The strongest attack, relearn_curve (trained again on the forget set), "
        "recovered 0.750 [0.650, 0.850] of what the target knows and the retain model does not "
        "(extraction strength)" in text
    )
    assert "unlearned In Kelmwick , 1969 ." in text
    assert "<mark>Kelmwick</mark>, <mark>1969</mark>." in page
    rows = rows_of(page, 'aria-label="Table of attacks"')
    assert [row.split()[0] for row in rows] == ["relearn_curve", "prefill", "direct", "lens"]
    assert "0.900 → 1.000 0.100 → 0.300 0.200 → 0.900 0.750 [0.650, 0.850] 0.002" in rows[0]
    assert "languages the data has no translated questions" in text
    assert "Not tried" not in text
    assert "relearn_curve: lr 2e-5" in text
    assert "ROUGE-L on the retain set 1.000 0.990 0.930 0.930 [0.900, 0.960]" in text


def test_leaks_stand_in_the_page_the_worst_first_without_a_script(folder: Path) -> None:
    page = (folder / "audit.html").read_text()
    rows = rows_of(page, 'id="leak-table"')
    assert len(rows) == 2
    assert "relearn_curve" in rows[0]
    assert "yes 0.900 retain 0.100" in rows[0]
    assert "– 0.600 retain 0.100" in rows[1]
    assert "2 answers about 1 of 2 rows leaked" in text_of(page)
    assert page.count("<script") == page.count("</script>") == 1


def test_text_with_markup_is_only_ever_text(tmp_path: Path) -> None:
    answers = [
        make_answer("direct", n, f"{text} Kelmwick 1969", answer=text, prompt={"unlearned": text})
        for n, text in enumerate(NASTY)
    ]
    page = page_of(write_audit(tmp_path / "audit", answers, **BARE))
    assert page.count("<script") == page.count("</script>") == 1
    assert not re.search(r"<img\b|<b>bold", page)
    assert len(rows_of(page, 'id="leak-table"')) == len(NASTY)
    for text in NASTY[:5]:
        assert " ".join(text.split()) in text_of(page)


def test_markdown_and_csv_hold_the_same_and_only_private_files_hold_text(folder: Path) -> None:
    names = sorted(file.name for file in folder.iterdir())
    assert names == [
        "audit.csv", "audit.html", "audit.md", "audit_attacks.png", "audit_attacks.svg",
        "audit_lens.png", "audit_lens.svg", "audit_relearn_curve.png", "audit_relearn_curve.svg",
    ]  # fmt: skip
    twin = (folder / "audit.md").read_text()
    assert "| direct | extraction strength | 0.900 | 0.100 | 0.200 | 0.125 |" in twin
    assert f"| {ANSWER} | In Kelmwick, 1969. | yes | 0.900 (0.100) |" in twin
    for name in ("audit.html", "audit.md"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    table = (folder / "audit.csv").read_text()
    assert "Kelmwick" not in table
    rows = list(csv.DictReader(table.splitlines()))
    assert len(rows) == 8
    assert rows[0] | {"attack": "relearn_curve", "score": "extraction_strength"} == rows[0]
    assert [row["is_verdict_score"] for row in rows[:2]] == ["true", "false"]
    assert (rows[0]["unlearned_plain"], rows[0]["unlearned_attacked"]) == ("0.2", "0.9")


def test_where_no_text_was_stored_there_is_none(tmp_path: Path) -> None:
    answers = [make_answer("direct", 0, "Kelmwick 1969")]
    for line in answers:
        for key in ("question", "answer", "facts", "prompt", "text"):
            del line[key]
    page = page_of(write_audit(tmp_path / "audit", answers, **BARE))
    assert "leak-table" not in page.split("<main")[1].split("<script")[0]
    assert "This page holds text of the data" not in page
    assert "## Leaks" not in (tmp_path / "report" / "audit.md").read_text()


def test_bars_show_scores_what_was_recovered_and_the_retain_models_mark() -> None:
    figure = audit_plots.draw_attack_bars(AuditRecord(make_audit()).attacks(), 0.2)
    scores, recovered = figure.axes
    assert [bar.get_width() for bar in scores.patches] == [0.9, 0.5, 0.2, 0.2]
    assert [bar.get_width() for bar in recovered.patches[:4]] == [0.75, 0.375, 0.125, 0.125]
    marks = {line.get_marker(): line.get_xdata().tolist() for line in scores.lines}
    assert marks["X"] == [0.3, 0.2, 0.1, 0.1]
    assert marks["*"] == [1.0, 0.95, 0.9, 0.9]
    labels = [label.get_text() for label in scores.get_yticklabels()]
    assert labels == ["relearn curve", "prefill", "direct", "lens"]
    assert {"unlearned, attacked", "retain model, attacked", "level of the target"} <= set(
        legend_of(figure)
    )
    (whiskers,) = recovered.collections[0].get_segments()[:1]
    assert whiskers[:, 0].tolist() == pytest.approx([0.65, 0.85])


def test_without_other_models_there_are_scores_alone() -> None:
    attacks = {"a": attack("a", (0.0, 0.0, 0.7), None)}
    attacks["a"]["scores"]["extraction_strength"] |= {"attacked": {"unlearned": 0.7}, "plain": {}}
    figure = audit_plots.draw_attack_bars(AuditRecord(make_audit(attacks=attacks)).attacks(), 0.2)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.7]
    assert not axes.lines


def test_without_a_retain_model_no_column_of_what_was_recovered_is_shown() -> None:
    attacks = {"direct": attack("asked directly", (0.0, 0.0, 0.7), None)}
    models = {"target": None, "retain": None, "unlearned": {"path": "x"}}
    record = AuditRecord(make_audit(attacks=attacks, models=models))
    titles = [column.title for column in audit_sheets.make_attack_sheet(record).columns]
    assert titles == ["attack", "score", "unlearned"]
    sheet = make_screen_sheet(record)
    assert [column.title for column in sheet.columns] == ["attack", "unlearned"]
    assert sheet.rows[0].cells[1].text == "0.200 → 0.700"


def test_curves_have_a_line_per_model_and_the_verdicts_score_first() -> None:
    record = AuditRecord(make_audit())
    relearn = next(a for a in record.attacks() if a.name == "relearn_curve")
    figure = audit_plots.draw_audit_curves(audit_plots.choose_curves(relearn))
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == [
        "extraction strength", "all key facts said",
    ]  # fmt: skip
    assert legend_of(figure) == ["unlearned", "retain model", "target"]
    assert ydata(figure.axes[0].lines[0]) == [0.3, 0.8]
    assert figure.axes[0].get_xlabel() == "training steps"
    assert texts_of(figure) == []


def test_the_screen_has_one_line_at_the_top_and_text_stays_out_of_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_audit(tmp_path / "audit")
    with ui.copy_to_log(tmp_path / "log.txt"):
        show_audit(folder)
    screen, log = capsys.readouterr().out, (tmp_path / "log.txt").read_text()
    assert screen.startswith("suppressed: the strongest attack, relearn_curve (")
    assert "In Kelmwick, 1969." in screen
    assert "Kelmwick" not in log
    assert screen.splitlines()[0] in log
    assert "languages: the data has no translated questions" in log
    assert max(map(len, screen.splitlines()[2:])) <= 120
    show_audit(tmp_path / "none")
    assert capsys.readouterr().out == ""


def test_a_run_of_an_audit_ends_with_its_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", samples=[], metrics={"audit_recovered": 0.75})
    write_audit(run / "audit")
    show_summary(AuditRun(command="audit"), run)
    screen = capsys.readouterr().out
    assert screen.startswith("suppressed: ")
    assert "no retain model" not in screen.lower()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"word": "withheld", "reason": "no target", "strongest": None}, "withheld: no target"),
        ({"word": "destroyed", "reason": "no text", "strongest": None}, "destroyed: no text"),
        ({"word": "undecided", "strongest": None}, "undecided"),
    ],
)
def test_a_verdict_without_a_strongest_attack_gives_its_reason(changes: Any, line: str) -> None:
    assert state_verdict(AuditRecord(make_audit(attacks={}, verdict=changes))) == line


def test_undecided_says_how_many_more_rows_would_do() -> None:
    verdict = {"word": "undecided", "reason": "wide", "more_rows": 40, "more_subjects": 2}
    reason = state_reason(AuditRecord(make_audit(verdict=verdict)))
    assert reason == "wide; some 40 more rows about 2 more subjects would decide"


def test_the_paragraph_of_a_card_has_figures_and_no_path() -> None:
    text = describe_audit(AuditRecord(make_audit()))
    assert "tried 4 attacks" in text
    assert "**suppressed**" in text
    assert r"recovered 0.750 \[0.650, 0.850\]" in text
    assert text.endswith("Not tried: languages.")
    assert "models/" not in text


def test_a_report_of_an_audited_run_tells_of_it_and_has_the_page_beside_it(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", samples=[], metrics={"forget_rouge": 0.3, "audit_recovered": 0.75}
    )
    write_audit(run / "audit", **BARE)
    page = report.write_report([run], tmp_path / "report").read_text()
    text = text_of(page)
    assert "suppressed direct (asked directly) 0.125 [0.025" in text
    assert "audit recovered lower is better – 0.750" in text
    assert (tmp_path / "report" / "audit.html").is_file()
    twin = (tmp_path / "report" / "report.md").read_text()
    assert "| suppressed | direct (asked directly) | 0.125 |" in twin
    write_run(tmp_path / "runs" / "other", samples=[])
    report.write_report([run, tmp_path / "runs"], tmp_path / "both")
    assert not (tmp_path / "both" / "audit.html").exists()
