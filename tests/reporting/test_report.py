"""The page and its Markdown twin: what they show, that text stays text, that broken runs show."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from reported import NASTY, lines, read, sample, write, write_run

from undial_cli.errors import UserError
from undial_cli.reporting import report
from undial_cli.reporting.collect import collect_runs
from undial_cli.reporting.labels import find_swept_numbers, label_runs
from undial_cli.ui import reveal_controls


def page_of(paths: list[Path], folder: Path) -> str:
    return report.write_report(paths, folder).read_text(encoding="utf-8")


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def text_of(page: str) -> str:
    """The page's text, scripts and styles left out."""
    bare = re.sub(r"<(script|style|svg).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", bare)).split())


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of a done, a failed, a refused and a broken run, beside a sequential one."""
    root = tmp_path_factory.mktemp("outputs")
    write_run(root / "unlearn" / "a", samples=[])
    failed = write_run(
        root / "unlearn" / "b", method="npo", status="failed", reason="weights are NaN", samples=[]
    )
    (failed / "evaluation" / "results.json").unlink()
    broken = write_run(root / "unlearn" / "c", learning_rate=1e-4, samples=[])
    (broken / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    (broken / "evaluation" / "results.json").write_text('{"metrics": {"forget_ro')
    (broken / "environment.json").write_text("[]")
    runs = [
        {"label": f"method={m}", "values": {"method": m}, "folder": f"../../unlearn/{name}",
         "status": status, "reason": reason, "seconds": 3.5}
        for name, m, status, reason in (
            ("a", "undial", "done", ""), ("b", "npo", "failed", ""), ("c", "ga", "done", ""),
            ("none", "pdu", "refused", "method=pdu: <b>bold</b>"),
        )
    ]  # fmt: skip
    write(root / "sweep" / "s" / "sweep.json", {"title": "methods", "words": ["x"], "runs": runs})
    return root


def test_a_sweep_shows_every_run_and_why_some_did_not_finish(sweep: Path, tmp_path: Path) -> None:
    page = page_of([sweep / "sweep" / "s"], tmp_path)
    text = text_of(page)
    assert "failed method=npo : weights are NaN" in text
    assert "refused method=pdu : method=pdu: <b>bold</b>" in text
    assert "<b>bold" not in page
    assert "metrics.jsonl: cut or broken at line 2; read up to there (method=ga)" in text
    assert "evaluation/results.json: cannot be read" in text
    assert "environment.json: no JSON object" in text
    assert len(re.findall(r'<tr title="method=', page)) == 4
    twin = (tmp_path / "report.md").read_text()
    assert "| method=npo | failed | weights are NaN |" in twin
    assert "| undial | done | 12 s | 0.300 | 0.900 |" in twin


def test_runs_are_found_below_a_folder_once_and_parts_are_no_runs(sweep: Path) -> None:
    part = sweep / "unlearn" / "a" / "request_1"
    write(part / "status.json", {"status": "done"})
    lines(part / "metrics.jsonl", [{"step": 1, "loss": 1.0}])
    found = collect_runs([sweep, sweep / "unlearn" / "b"])
    assert [run.folder.name for run in found.runs] == ["a", "b", "c"]
    assert found.runs[0].parts == {"request 1": [{"step": 1, "loss": 1.0}]}
    keys = label_runs(found.runs)
    assert keys == ["method", "train.learning_rate"]
    assert [run.label for run in found.runs] == [
        "method=undial train.learning_rate=3e-4",
        "method=npo train.learning_rate=3e-4",
        "method=undial train.learning_rate=1e-4",
    ]
    assert found.runs[2].short == "undial, learning rate 1e-4"
    assert find_swept_numbers(found.runs, keys) == ["train.learning_rate"]


def test_a_page_asks_for_nothing_and_runs_its_own_script_only(tmp_path: Path) -> None:
    import base64
    import hashlib

    page = page_of([write_run(tmp_path / "run", samples=[sample(0)])], tmp_path / "report")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(policy[1])
    assert "default-src 'none'" in policy[1]
    assert not re.findall(r"""(?:src|href|action)=["'](?!#)""", re.sub(r"xlink:href", "", page))
    assert "url(" not in re.sub(r"url\(#", "", page)


def test_a_table_of_runs_shows_the_main_metrics_first_and_the_rest_on_demand(
    tmp_path: Path,
) -> None:
    figures = {f"x{n}": n / 10 for n in range(9)} | {"forget_rouge": 0.5, "retain_rouge": 0.75}
    for rate in (1e-3, 1e-5):
        write_run(tmp_path / "runs" / str(rate), learning_rate=rate, metrics=figures, samples=[])
    page = page_of([tmp_path / "runs"], tmp_path / "report")
    assert page.startswith("<!DOCTYPE html>")
    heads = re.findall(r'<th scope="col" class="(n more|n|)">', page)
    assert heads[:14] == ["n", "", "n", "n", "n", *["n more"] * 9]
    twin = (tmp_path / "report" / "report.md").read_text()
    assert "| 1e-3 | done | 12 s | 0.500 | 0.750 |\n" in twin
    assert "x0" not in twin.split("## Settings")[0]


def test_summary_of_a_run_has_before_after_retain_model_and_difference(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run", samples=[], metrics={"forget_rouge": 0.3, "model_utility": None}
    )
    page = page_of([run], tmp_path / "report")
    text = text_of(page)
    assert "metric before after retain model after − retain model" in text
    assert "ROUGE-L lower is better 1.000 0.300 0.400 −0.100" in text
    assert "model utility higher is better – – – –" in text
    assert (
        "| **forget** |  |  |  |  |\n| ROUGE-L | 1.000 | 0.300 | 0.400 | −0.100 |\n"
        in (tmp_path / "report" / "report.md").read_text()
    )


def test_text_with_markup_is_only_ever_text(tmp_path: Path) -> None:
    samples = [
        sample(n, set_name=f"forget{text}", prompt=text, generation=text, reference=text)
        for n, text in enumerate(NASTY)
    ]
    for text in NASTY[:5]:
        folder = tmp_path / f"runs-{len(list(tmp_path.iterdir()))}"
        run = write_run(folder / "run", samples=samples, status="failed", reason=text, method=text)
        page = page_of([run], folder / "report")
        assert page.count("<script") == page.count("</script") == 2
        assert not re.search(r"<img\b|<b>bold", page)
        assert " ".join(text.split()) in text_of(page)
    data, shown = data_of(page), list(map(reveal_controls, NASTY))
    assert shown[6] == r"\u202eright to left\u202c שלום عالم"
    assert shown[7] == NASTY[7]
    assert set(shown) <= set(data["texts"])
    assert [row[2][0] for row in data["runs"][0]["rows"]] == [
        data["texts"].index(text) for text in shown
    ]


def test_half_characters_do_not_stop_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", samples=[])
    file = run / "evaluation" / "samples.jsonl"
    file.write_text('{"set": "forget", "index": 0, "prompt": "\\ud800 half"}\n')
    assert r"\ud800 half" in data_of(page_of([run], tmp_path / "report"))["texts"]


def test_scores_only_where_no_text_was_stored(tmp_path: Path) -> None:
    texts = ("prompt", "reference", "generation", "target_generation", "retain_generation")
    rows = [
        {k: v for k, v in sample(n, set_name="world").items() if k not in texts} for n in range(3)
    ]
    page = page_of([write_run(tmp_path / "run", samples=rows)], tmp_path / "report")
    data = data_of(page)
    assert data["columns"] == data["texts"] == []
    assert data["scores"] == ["answer probability", "log truth ratio"]
    assert data["runs"][0]["rows"][1] == [0, 1, [], [0.21, -0.4], [0.9, -1.0], [0.1, 0.3]]
    assert "scores only" in text_of(page)
    assert "holds text of the data" not in text_of(page)
    assert "## Samples" not in (tmp_path / "report" / "report.md").read_text()


def test_nothing_evaluated_no_files_at_all_and_a_missing_retain_model(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    write(bare / "status.json", {"status": "running"})
    text = text_of(page_of([bare], tmp_path / "one"))
    assert "run.yaml: missing" in text
    assert "Not finished running" in text
    run = write_run(tmp_path / "run", samples=[])
    results = read(run / "evaluation" / "results.json")
    results |= {"reference": {}, "missing": {"forget_quality": "no retain model", "privleak": "x"}}
    write(run / "evaluation" / "results.json", results)
    text = text_of(page_of([run], tmp_path / "two"))
    assert "No retain model: whether" in text
    assert "Missing: forget_quality: no retain model" in text
    with pytest.raises(UserError, match="there are no runs"):
        report.write_report([tmp_path / "two"], tmp_path / "three")
    assert not (tmp_path / "three").exists()


def test_pictures_stand_in_the_page_and_beside_the_twin(tmp_path: Path) -> None:
    steps = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]
    run = write_run(tmp_path / "run", steps=steps, samples=[])
    page = page_of([run], tmp_path / "report")
    assert sorted(f.name for f in (tmp_path / "report").iterdir()) == [
        "loss.png", "loss.svg", "report.html", "report.md",
    ]  # fmt: skip
    assert page.count('<div class="picture" role="img" aria-label="Training loss') == 1
    assert "](loss.png)" in (tmp_path / "report" / "report.md").read_text()
    again = page_of([run], tmp_path / "again")
    assert again == page


def test_pictures_of_the_report_before_go_and_those_of_others_stay(
    sweep: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "report"
    report.write_report([sweep], folder)
    drawn = {file.name for file in folder.glob("*.png")}
    for name in ("mine.png", "gone.png", "gone.svg"):
        (folder / name).write_text("picture")
    with open(folder / "report.md", "a") as file:
        file.write("![what runs of before showed](gone.png)\n![no](../gone.png)\n")
    report.write_report([sweep], folder)
    assert drawn
    assert {file.name for file in folder.glob("*.png")} == {*drawn, "mine.png"}
    assert not (folder / "gone.svg").exists()


def test_what_goes_wrong_after_a_run_is_said_and_not_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", samples=[])
    (tmp_path / "file").write_text("in the way")
    assert report.try_write_report([run], tmp_path / "file") is None
    assert "no report was written" in capsys.readouterr().out
    assert (
        report.try_write_report([run], tmp_path / "report") == tmp_path / "report" / "report.html"
    )


def test_files_of_another_shape_do_not_stop_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "runs" / "a", samples=[])
    results = read(run / "evaluation" / "results.json")
    results |= {"requests": ["x", {"metrics": 3}], "missing": [], "target": [1]}
    write(run / "evaluation" / "results.json", results)
    lines(run / "evaluation" / "samples.jsonl", [1, [], {"set": [2], "index": float("nan")}])
    lines(run / "metrics.jsonl", [{"step": "x", "loss": {}}, None])
    (run / "run.yaml").write_text("model: [1, {name: 2}]\n3: 4\n")
    (tmp_path / "runs" / "b").mkdir()
    (tmp_path / "runs" / "b" / "status.json").write_text("{")
    text = text_of(page_of([tmp_path / "runs"], tmp_path / "report"))
    assert "2 runs" in text
    assert "status.json: cannot be read" in text
