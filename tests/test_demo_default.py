"""The demo's default is what its rule chooses from the figures in docs/results.md."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
COLUMNS = ("forget_36", "retain_36", "forget_108", "retain_108", "forget_216", "retain_216")


@pytest.fixture
def rule(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script that chooses."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import choose_demo_default

    return choose_demo_default


def copy_documented_table(file: Path) -> None:
    """The robustness table of docs/results.md as the table.csv that `undial reproduce` writes."""
    section = ""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    with open(file, "w", newline="", encoding="utf-8") as stream:
        lines = csv.writer(stream)
        lines.writerow(["section", "row", "column", "mean", "spread", "n"])
        for line in text.partition("table=demo_robustness")[2].partition("\n- ")[0].splitlines():
            cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
            section = cells[0] if cells[0].startswith("lr ") else section
            for column, cell in zip(COLUMNS, cells[1:], strict=False):
                if figures := re.fullmatch(r"([\d.]+) ± ([\d.]+)", cell):
                    lines.writerow([section, cells[0], column, *figures.groups(), 3])


@pytest.mark.slow
def test_the_default_is_chosen_from_the_documented_table(rule: Any, tmp_path: Path) -> None:
    copy_documented_table(tmp_path / "table.csv")
    settings = rule.read_settings(tmp_path / "table.csv")
    assert len(settings) == 9
    chosen, best = rule.choose_setting(settings)
    assert (chosen.rate, chosen.steps) == rule.find_default()
    assert (best.rate, best.steps) == (1e-4, 108)


def test_of_settings_that_forgot_the_shortest_of_the_best_is_chosen(rule: Any) -> None:
    def make(steps: int, forget: float, retain: float, spread: float) -> Any:
        return rule.Setting(1e-4, steps, forget, retain, spread, 4, 0.3)

    kept_all, best = make(10, 0.31, 1.0, 0.0), make(200, 0.2, 0.9, 0.02)
    near, far = make(100, 0.3, 0.891, 0.0), make(50, 0.1, 0.88, 0.0)
    assert rule.measure_error(best, near) == pytest.approx(0.01)
    assert rule.choose_setting([kept_all, best, near, far]) == (near, best)
    assert rule.choose_setting([best, far]) == (best, best)
