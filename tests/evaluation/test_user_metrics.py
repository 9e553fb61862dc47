"""Metrics of one's own, in a file that the command line names: the recipe of docs/extending.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import read_jsonl, refused, undial, write_qa
from recipes import read_recipe

import undial_cli
from undial_cli.evaluation import catalog
from undial_cli.evaluation.user_metrics import METRIC_FILE_VARIABLE
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_yaml import dump_run_yaml, parse_run_yaml

CHOSEN = [
    "eval.sets.forget.metrics=[probability,names]", "eval.sets.retain.metrics=[names]",
    "eval.metrics=[name_gap]",
]  # fmt: skip


def read_documented_file() -> str:
    (text,) = read_recipe("Metrics in a file of your own").values()
    return text


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The documented file in a folder of one's own; what it makes known its test alone knows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(METRIC_FILE_VARIABLE, "")
    known = dict(catalog.METRICS)
    (tmp_path / "mine").mkdir()
    path = tmp_path / "mine" / "my_metrics.py"
    path.write_text(read_documented_file())
    yield path
    catalog.METRICS.clear()
    catalog.METRICS.update(known)


def test_it_is_taken_from_no_yaml_file_and_no_run_yaml(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = file.parent / "it_ran"
    file.write_text(read_documented_file() + f"\nopen({str(marker)!r}, 'w').close()\n")
    (file.parent / "eval").mkdir()
    (file.parent / "eval" / "sly.yaml").write_text("name: sly\nmetric_file: mine/my_metrics.py\n")
    word, line = "eval.metric_file=mine/my_metrics.py", "runs code and is not taken from a file"
    refused(lambda: compose_run("evaluate", ["eval=sly"], "mine"), f"{word}: {line}")
    # The words of a table are a file's.
    refused(lambda: compose_run("evaluate", [word], typed=[]), f"{word}: runs code")
    assert not marker.exists()
    run = compose_run("evaluate", [word, *CHOSEN])
    assert marker.exists()
    assert run.eval.metric_file == str(file)
    assert {"names", "name_gap"} <= catalog.METRICS.keys()
    text = dump_run_yaml(run)
    assert parse_run_yaml(text) == run  # as a process that this one starts reads it
    monkeypatch.setenv(METRIC_FILE_VARIABLE, "")
    refused(lambda: parse_run_yaml(text), f"eval.metric_file={file}: {line}")
    assert parse_run_yaml(text, [f"eval.metric_file={file}"]) == run


@pytest.mark.parametrize(
    "change, parts",
    [
        (("", ""), ["no such file"]),
        (("NAMES = Metric(", "1 / 0  # "), ["cannot be run (ZeroDivisionError"]),
        ((", Metric\n", "\nMetric = lambda *a, **k: None\n"), ["defines no metric"]),
        (('"names", "names', '"rouge", "names'), ["metric 'rouge': there is one of this name"]),
        (('"names", "names', '"rep_3", "names'), ["metric 'rep_3': there is one of this name"]),
        (('"names", "names', '"N ames", "names'), ["metric 'N ames': allowed in a name"]),
        (('("generation",)', '("generaton",)'), ["needs 'generaton'", "generation, gibberish_mod"]),
        (("joint=compute_name_gap", ""), ["metric 'name_gap': has no function"]),
    ],
    ids=["no file", "error", "nothing", "shipped", "numbered", "no name", "need", "no function"],
)
def test_what_defines_no_metric_is_refused(
    change: tuple[str, str], parts: list[str], file: Path
) -> None:
    if change == ("", ""):
        file.unlink()
    else:
        assert change[0] in file.read_text()
        file.write_text(file.read_text().replace(*change))
    words = ["eval.metric_file=mine/my_metrics.py"]
    refused(lambda: compose_run("evaluate", words), "eval.metric_file=", "my_metrics.py", *parts)


def list_words(model: Path, folder: Path) -> list[str]:
    """The words of an evaluation with the file, on twelve rows a set."""
    files = [write_qa(folder / f"{n}.jsonl", 12, 12 * i) for i, n in enumerate(("a", "b"))]
    return [
        f"model.path={model}", "data=jsonl", f"data.forget_file={files[0]}",
        f"data.retain_file={files[1]}", "eval.retain_model=none", "eval.max_new_tokens=8",
        "hardware=cpu", "name=it", "eval.metric_file=mine/my_metrics.py", *CHOSEN,
    ]  # fmt: skip


@pytest.mark.slow
def test_the_real_command_measures_them_on_two_processes(
    file: Path, random_model: Path, tmp_path: Path
) -> None:
    words = list_words(random_model, tmp_path)
    done = undial("evaluate", *words, "hardware.num_processes=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "outputs" / "evaluate" / "it"
    results = json.loads((run / "evaluation" / "results.json").read_text())
    samples = read_jsonl(run / "evaluation" / "samples.jsonl")
    assert "names somebody" in (run / "report" / "report.html").read_text()
    shares = {}
    for name in ("forget", "retain"):
        texts = [line["generation"].split() for line in samples if line["set"] == name]
        values = [any(word[0].isupper() for word in text[1:]) for text in texts]
        assert 0 < sum(values) < len(values) == 12
        shares[name] = sum(values) / 12
        assert results["metrics"][f"{name}_names"] == pytest.approx(shares[name])
        assert results["statistics"][f"{name}_names"]["n"] == 12
    gap = shares["retain"] - shares["forget"]
    assert results["metrics"]["name_gap"] == pytest.approx(gap)
    assert len(results["statistics"]["name_gap"]["interval"]) == 2
    # The folder and the cache do not give the figures of another file of the same name.
    file.write_text(read_documented_file().replace("return float(any", "return 1 - float(any"))
    again = undial_cli.run([*words, "report=false"], command="evaluate")
    assert again.metrics["forget_names"] == pytest.approx(1 - shares["forget"])
