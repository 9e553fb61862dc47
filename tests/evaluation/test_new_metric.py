"""Adding a metric, carried out in a copy of the checkout: two files, and it is shown everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_qa

ROOT = Path(__file__).parent.parent.parent
CATALOG = "undial_cli/evaluation/catalog.py"
FUNCTION = '''
def answer_length(evidence: Evidence) -> float | None:
    """Words of the generation."""
    return None if evidence.generation is None else float(len(evidence.generation.split()))


ATTACKED_ROLES = (FORGET, HOLDOUT)
'''
ENTRY = """ENTRIES = (
    Metric("answer_length", "answer length", KNOWLEDGE, answer_length, NEEDS_GENERATION),
"""
TEST = """
from undial_cli.evaluation.catalog import METRICS
from undial_cli.config.suites import EvalSetConfig
from undial_cli.evaluation.evidence import Evidence


def test_words_are_counted() -> None:
    evidence = Evidence(EvalSetConfig(), "", "", {}, generation="an old river")
    assert METRICS["answer_length"].sample(evidence) == 3
"""
# What a user does with it, and where it is seen.
USE = """
import json, sys
from pathlib import Path
import undial_cli
from undial_cli.reporting import plots
from undial_cli.config.tables import ColumnConfig
from undial_cli.tables.load import complete_column

model, forget, retain, place = sys.argv[1:]
name = "forget_answer_length"
chosen = [f"eval.sets.{s}.metrics=[probability,answer_length]" for s in ("forget", "retain")]
folder = undial_cli.run(
    ["data=jsonl", f"data.forget_file={forget}", f"data.retain_file={retain}", "hardware=cpu",
     f"model.path={model}", "eval.retain_model=none", "eval.max_new_tokens=8", "name=it",
     f"output_dir={place}", "report=true", *chosen],
    command="evaluate",
).folder
results = json.loads((folder / "evaluation" / "results.json").read_text())
statistic = results["statistics"][name]
assert statistic["n"] == 12, statistic
low, high = statistic["interval"]
assert low <= results["metrics"][name] <= high, (low, results["metrics"][name], high)
assert "answer length" in (folder / "report" / "summary.md").read_text().replace("_", " ")
page = (folder / "report" / "report.html").read_text()
assert "lower is better" in page[page.index("answer length"):][:400]
columns = [ColumnConfig(metric=[f"{s}_answer_length"]) for s in ("forget", "retain")]
for column in columns:
    complete_column(column)
assert [(c.title, c.better) for c in columns] == [
    ("forget answer length", "lower"), ("retain answer length", "higher"),
]
points = [plots.TradeOffPoint("a", 1.0, 2.0, "a"), plots.TradeOffPoint("b", 3.0, 4.0, "b")]
figure = plots.draw_trade_off(points, name, "retain_answer_length", ("lower", "higher"), {})
label = " ".join(figure.axes[0].get_xlabel().split())
assert label == "forget answer length (lower is better)", label
"""


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a checkout."""
    found = {}
    for part in ("undial_cli", "configs", "tests", "docs"):
        for file in (folder / part).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                found[str(file.relative_to(folder))] = file.read_bytes()
    return found


@pytest.mark.slow
def test_a_metric_is_added_with_its_entry_and_its_test(random_model: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for part in ("undial_cli", "configs", "tests", "docs"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", checkout)
    before = files_of(checkout)
    text = (checkout / CATALOG).read_text()
    insertions = {"\nATTACKED_ROLES = (FORGET, HOLDOUT)\n": FUNCTION, "ENTRIES = (\n": ENTRY}
    for anchor, new in insertions.items():
        assert text.count(anchor) == 1
        text = text.replace(anchor, new)
    (checkout / CATALOG).write_text(text)
    (checkout / "tests/evaluation/test_answer_length.py").write_text(TEST)
    after = files_of(checkout)
    changed = {name for name, content in after.items() if before.get(name) != content}
    assert changed == {CATALOG, "tests/evaluation/test_answer_length.py"}
    assert before.keys() <= after.keys()

    files = [write_qa(tmp_path / f"{n}.jsonl", 12, 12 * i) for i, n in enumerate(("a", "b"))]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    environment["UNDIAL_CACHE_DIR"] = str(tmp_path / "cache")
    tested = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/evaluation/test_answer_length.py",
    ]
    used = ["-c", USE, str(random_model), *map(str, files), str(tmp_path / "outputs")]
    for words in (tested, used):
        done = subprocess.run(
            [sys.executable, *words], cwd=checkout, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
