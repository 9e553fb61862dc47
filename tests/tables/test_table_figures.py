"""Figures from run folders: means, spreads, steps, requests, tolerances, what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_tables import SMALL, asked_of, fail, finish, long_rows, made

from undial_cli.config.tables import ColumnConfig, PlotConfig, RowConfig
from undial_cli.tables.command import show_table
from undial_cli.tables.figures import (
    FigureCell,
    average_figures,
    compare_to_published,
    find_published_figure,
)
from undial_cli.tables.plots import pair_columns
from undial_cli.tables.render import format_cell, format_table_markdown
from undial_cli.tables.runs import TableLine, TableRun


def column(**keys: object) -> ColumnConfig:
    return ColumnConfig(**{"name": "c", "metric": ["m"], "format": ".2f", **keys})  # type: ignore[arg-type]


def test_mean_and_spread_by_hand() -> None:
    assert average_figures([None, None]) == (None, None, 0)
    assert average_figures([0.5, None]) == (0.5, None, 1)
    mean, spread, n = average_figures([1.0, 2.0, 6.0])
    assert (mean, n) == (3.0, 3)
    assert spread == pytest.approx(((4 + 1 + 9) / 2) ** 0.5)


@pytest.mark.parametrize(
    "ours, reference, keys, within",
    [
        (0.30, 0.25, {"tolerance": 0.05}, True),  # on the bound, in spite of rounding
        (0.31, 0.25, {"tolerance": 0.05}, False),
        (0.19, 0.25, {"tolerance": 0.05}, False),
        (110.0, 100.0, {"relative_tolerance": 0.1}, True),
        (89.0, 100.0, {"relative_tolerance": 0.1}, False),
        (-110.0, -100.0, {"relative_tolerance": 0.1}, True),
        (0.04, 0.0, {"tolerance": 0.05, "relative_tolerance": 0.1}, True),  # the larger of both
        (12.0, 10.0, {"tolerance": 0.05, "relative_tolerance": 0.3}, True),
        (0.3, 0.3, {}, None),
        (None, 0.3, {"tolerance": 1.0}, None),
        (0.3, None, {"tolerance": 1.0}, None),
    ],
)
def test_tolerance(
    ours: float | None, reference: float | None, keys: dict[str, float], within: bool | None
) -> None:
    assert (
        compare_to_published(FigureCell(mean=ours, n=1), reference, column(**keys)).within is within
    )


@pytest.mark.parametrize(
    "cell, text",
    [
        (FigureCell(0.123, None, 1), "0.12"),
        (FigureCell(0.123, 0.045, 3), "0.12 ± 0.04"),
        (FigureCell(0.123, None, 1, 0.2, True), "0.12 (0.20)"),
        (FigureCell(0.123, 0.011, 2, 0.5, False), "0.12 ± 0.01* (0.50)"),
        (FigureCell(0.123, None, 1, short=True), "0.12†"),
        (FigureCell(gap="failed"), "failed"),
        (FigureCell(gap="not run", reference=0.5), "- (0.50)"),
        (FigureCell(), ""),
    ],
)
def test_cells_as_text(cell: FigureCell, text: str) -> None:
    assert format_cell(cell, column()) == text


def test_published_figures_by_place() -> None:
    keys = {"c": 1.0, "far/c": 2.0, "two/c": 3.0, "two/far/c": 4.0}
    row = RowConfig(label="r", reference=keys)
    assert find_published_figure(TableLine(row, "one"), "near", "c") == 1.0
    assert find_published_figure(TableLine(row, "one"), "far", "c") == 2.0
    assert find_published_figure(TableLine(row, "two"), "near", "c") == 3.0
    assert find_published_figure(TableLine(row, "two"), "far", "c") == 4.0
    assert find_published_figure(TableLine(row, "one"), "", "d") is None


def test_seeds_steps_requests_means_and_sections(tmp_path: Path) -> None:
    text = """
title: t
overrides: [train.max_steps=4]
seeds: [0, 1]
sections: {slow: [train.learning_rate=1e-5], fast: [train.learning_rate=1e-3]}
across: [{label: short, overrides: [train.epochs=1]}, {label: long, overrides: [train.epochs=9]}]
columns:
  - {name: end, metric: [retain_rouge]}
  - {name: both, metric: [retain_rouge, retain_probability]}
  - {name: way, metric: [retain_rouge], step: 4}
  - {name: second, metric: [retain_rouge], request: 2}
  - {name: start, metric: [retain_rouge], request: 0}
rows:
  - {label: target, of: target}
  - {label: retain model, of: retain, section: fast}
  - {label: ga, overrides: [method=ga]}
  - {label: npo, overrides: [method=npo], section: fast, across: [long]}
"""

    def act(entry: TableRun) -> None:
        shift = 0.2 * entry.seed + (0.4 if entry.across == "long" else 0)
        finish(
            entry,
            {"retain_rouge": shift, "retain_probability": 1.0},
            target={"retain_rouge": 0.9 + 0.1 * entry.seed},
            reference={"retain_rouge": 0.5},
            requests=[
                {"request": "a", "metrics": {"retain_rouge": 7.0}},
                {"request": "b", "metrics": {"retain_rouge": 8.0 + entry.seed}},
            ],
        )
        rows = [{"step": 4, "loss": 1.0}, {"step": 4, "retain_rouge": 5.0 + entry.seed}]
        lines = [json.dumps(row) for row in [*rows, {"step": 8, "retain_rouge": 99.0}]]
        (entry.folder.path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "cut')

    filled = made(asked_of(text, tmp_path), act)
    # a row without a section is in both, with both groups and seeds; npo in one of each
    assert len(filled.runs) == 2 * 2 * 2 + 2
    found = {(r["section"], r["row"], r["across"], r["column"]): r for r in long_rows(filled)}

    def figures(*place: str) -> tuple[float, float, str]:
        row = found[place]
        return float(row["mean"]), float(row["spread"]), row["n"]

    spread = pytest.approx(0.2 / 2**0.5)
    assert figures("slow", "ga", "short", "end") == (pytest.approx(0.1), spread, "2")
    assert figures("fast", "npo", "long", "end") == (pytest.approx(0.5), spread, "2")
    assert ("fast", "npo", "short", "end") not in found
    assert ("slow", "npo", "long", "end") not in found
    assert figures("slow", "ga", "short", "both")[0] == pytest.approx((0.1 + 1) / 2)
    assert figures("slow", "ga", "short", "way")[0] == 5.5
    assert figures("slow", "ga", "short", "second")[0] == 8.5
    assert figures("slow", "ga", "short", "start")[0] == pytest.approx(0.95)
    assert figures("", "target", "long", "end")[0] == pytest.approx(0.95)
    assert figures("fast", "retain model", "long", "end")[0] == 0.5


def test_failed_runs_are_named_with_their_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def act(entry: TableRun) -> None:
        if entry.line.row.label == "undial" and entry.seed < 2:
            finish(entry, {"forget_rouge": 0.9, "retain_rouge": 0.9})
        else:
            fail(entry, "diverged: loss is nan at step 3")

    filled = made(asked_of(SMALL, tmp_path, seeds=[0, 1, 2]), act)
    page = format_table_markdown(filled)
    show_table(filled)
    screen = " ".join(capsys.readouterr().out.split())
    assert "| ga | failed | failed |" in page
    assert "0.90 ± 0.00\\*† (0.30)" in page  # beyond the tolerance, and a seed short
    for said in (page, screen):
        assert "failed: ga: diverged: loss is nan at step 3" in said
        assert "failed: undial (seed 2): diverged" in said
        assert "4 of 6 runs are not done." in said


def test_why_agreement_is_not_expected(tmp_path: Path) -> None:
    text = SMALL + "agreement: {expected: false, reasons: [another teacher, other draws]}\n"
    figures = {"forget_rouge": 0.5, "retain_rouge": 0.9}
    page = format_table_markdown(
        made(asked_of(text, tmp_path), lambda entry: finish(entry, figures))
    )
    assert "Agreement is not expected: another teacher; other draws." in page
    assert "1 of 2 figures" in page
    assert "In parentheses: published figures (a paper)" in page


def test_a_distance_a_count_and_the_time_of_a_run(tmp_path: Path) -> None:
    columns = """
columns:
  - {name: D, metric: [forget_quality], statistic: D}
  - {name: n, metric: [forget_quality], statistic: n}
  - {metric: [run_seconds]}
rows:
  - {label: target, of: target}
  - {label: undial, overrides: [method=undial]}
"""
    statistics = {"forget_quality": {"D": 0.25, "n": 40}}

    def act(entry: TableRun) -> None:
        finish(
            entry, {"forget_quality": 0.5}, statistics=statistics,
            target_statistics={"forget_quality": {"D": 0.75, "n": 38}},
        )  # fmt: skip
        entry.folder.set_status("done", seconds=12.5)

    filled = made(asked_of(columns, tmp_path), act)
    cells = {(row.row.label, name): cell.mean for (row, _, name), cell in filled.cells.items()}
    assert cells == {
        ("undial", "D"): 0.25, ("undial", "n"): 40.0, ("undial", "run_seconds"): 12.5,
        ("target", "D"): 0.75, ("target", "n"): 38.0, ("target", "run_seconds"): None,
    }  # fmt: skip


def test_a_trade_off_of_metrics_has_a_point_at_each_step_that_both_have() -> None:
    columns = [
        ColumnConfig(name=f"{metric}_{step}", metric=[metric], step=step)
        for metric, steps in (("forget_rouge", (36, 108)), ("retain_rouge", (108, 36, 216)))
        for step in steps
    ]

    def pair(x: str, y: str) -> list[tuple[str, str]]:
        return [(a.name, b.name) for a, b in pair_columns(columns, PlotConfig(x=x, y=y))]

    steps = [(f"forget_rouge_{step}", f"retain_rouge_{step}") for step in (36, 108)]
    assert pair("forget_rouge", "retain_rouge") == steps
    assert pair("forget_rouge_36", "retain_rouge_216") == [("forget_rouge_36", "retain_rouge_216")]
