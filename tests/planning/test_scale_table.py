"""The tables of docs/scale.md: by hand as by plan, and the page is what the script prints."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]


def list_lines(text: str) -> set[str]:
    """The lines of a table, without its figures."""
    return {re.sub(r"-?\d+(\.\d+)?|\b(yes|no)\b", "#", line) for line in text.splitlines()}


@pytest.mark.slow
def test_what_is_worked_out_by_hand_is_what_is_planned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(PROJECT / "scripts")
    table: Any = importlib.import_module("scale_table")
    table.COMMON["vocab_size"], table.BATCH, table.TOKENS = 1000, 16, 64
    table.SHAPES["Llama-3.1-8B"] = {
        "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3,
        "num_attention_heads": 8,
    }  # fmt: skip
    estimates = [table.estimate_case("8b", n, table.make_examples()) for n in (1, 4)]
    one, four = (e.plan for e in estimates)
    held = [p.memory.weights + p.memory.optimiser + p.memory.gradients for p in (one, four)]
    assert held[0] == pytest.approx(8 * one.parameters, rel=0.01)
    assert held[1] == pytest.approx(16 * one.parameters / 4, rel=0.01)
    assert four.traffic == pytest.approx(2 * 0.75 * 2 * 3 * one.parameters, rel=0.1)
    assert one.step.flops == pytest.approx(8 * one.parameters * 2 * 16 * 64, rel=0.15)
    assert four.step.flops == pytest.approx(one.step.flops / 4, rel=0.01)
    table.show_case("8b", estimates)
    printed = capsys.readouterr().out
    assert "| 4 | 4 |" in printed
    assert (
        f"sent by each of 4: 2 passes x 0.750 x 2 bytes x (2 x {one.parameters / 1e9:.2f}"
        in printed
    )
    page = list_lines((PROJECT / "docs" / "scale.md").read_text(encoding="utf-8"))
    for case in table.CASES:
        table.show_case(case, estimates)
        assert list_lines(capsys.readouterr().out) <= page
