"""`undial reproduce` as it is typed, on a table of two short runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conftest import HURRIED, undial
from made_tables import write_table

TABLE = f"""
title: Two short runs
overrides:
{"".join(f"  - {word}" + chr(10) for word in (*HURRIED, "train.max_steps=4", "train.eval_steps=2"))}
columns:
  - {{name: forget, metric: [forget_probability], better: lower}}
  - {{name: way, metric: [retain_probability], step: 2}}
  - {{name: end, metric: [retain_probability]}}
rows:
  - {{label: target, of: target}}
  - {{label: undial, overrides: [method=undial], reference: {{forget: 0.5}}}}
  - {{label: ga, overrides: [method=ga]}}
plots:
  - {{kind: trade_off, name: both, x: forget, y: end}}
"""


@pytest.mark.slow
def test_two_short_runs(tmp_path: Path) -> None:
    words = ["reproduce", *write_table(tmp_path / "configs", TABLE)]
    planned = undial(*words, "plan=true", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "2 runs: 0 done, 2 to be run" in planned.stdout
    assert not (tmp_path / "outputs").exists()
    done = undial(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "reproduce" / "small"
    for name in ("table.md", "table.csv", "table.tex", "sweep.json", "both.png", "both.svg"):
        assert (folder / name).stat().st_size > 0
    with open(folder / "table.csv", newline="") as file:
        found = {(row["row"], row["column"]): row for row in csv.DictReader(file)}
    listed = json.loads((folder / "sweep.json").read_text())["runs"]
    for label, run in zip(("undial", "ga"), listed, strict=True):
        place = (folder / run["folder"]).resolve()
        results = json.loads((place / "evaluation" / "results.json").read_text())
        figures = results["metrics"]
        assert float(found[label, "forget"]["mean"]) == figures["forget_probability"]
        assert float(found[label, "end"]["mean"]) == figures["retain_probability"]
        start = results["target"]["forget_probability"]
        assert float(found["target", "forget"]["mean"]) == start
        lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
        (way,) = [r["retain_probability"] for r in lines if r["step"] == 2 and "forget_rouge" in r]
        assert float(found[label, "way"]["mean"]) == way
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "outputs" / "unlearn").rglob("run.yaml")}
    again = undial(*words, cwd=tmp_path)
    assert again.returncode == 0
    assert "2 runs: 2 done, 0 to be run" in again.stdout
    assert times == {p: p.stat().st_mtime_ns for p in times}
