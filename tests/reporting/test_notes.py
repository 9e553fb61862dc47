"""What is said of figures: marks of weak ones, n, intervals, damage, gaps and cut rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from undial_cli.reporting import notes
from undial_cli.reporting.collect import RunRecord

GOOD = {"n": 40, "interval": [0.4, 0.6]}


@pytest.mark.parametrize(
    ("name", "statistic", "weak"),
    [
        ("forget_rouge", GOOD, False),
        ("forget_rouge", None, False),
        ("forget_rouge", {}, False),
        ("forget_rouge", {**GOOD, "n": 9}, True),
        ("forget_quality", {"n": 40, "n_retain": 9}, True),
        ("forget_rouge", {**GOOD, "subjects": 4}, True),
        ("forget_rouge", {**GOOD, "subjects": 5}, False),
        ("forget_rouge", {**GOOD, "interval": [0.2, 0.51]}, True),
        ("forget_rouge", {"n": 40}, False),
        ("news_perplexity", {"n": 40, "interval": [15.0, 26.0]}, False),  # on no scale
        ("privleak", {"n": 40, "interval": [-10.0, 15.0]}, False),
        ("privleak", {"n": 40, "interval": [-20.0, 15.0]}, True),
        ("forget_quality", {"n": 40, "interval": [0.0, 0.9]}, False),
    ],
)
def test_a_figure_is_weak_by_few_samples_or_subjects_or_a_wide_interval(
    name: str, statistic: Any, weak: bool
) -> None:
    assert notes.is_weak_figure(name, statistic) is weak


def test_a_missing_figure_has_no_mark() -> None:
    weak = {**GOOD, "n": 9}
    assert [notes.mark_weak_figure(text, "x", weak) for text in ("0.5", "-", "–")] == [
        "0.5*", "-", "–",
    ]  # fmt: skip


def test_forget_quality_is_shown_with_its_distance_and_numbers() -> None:
    statistic = {"n": 40, "n_retain": 40, "D": 0.25, "D_interval": [0.1, 0.4]}
    shown = notes.mark_weak_figure("0.5", "forget_quality", statistic)
    assert shown == "0.5 (D 0.25, n 40)"
    assert notes.format_intervals(statistic) == "–, D [0.1, 0.4]"


def test_numbers_intervals_and_differences_as_text() -> None:
    assert notes.format_interval(GOOD) == "[0.4, 0.6]"
    assert notes.format_interval({"interval": [1.23456, 1234.5]}) == "[1.23, 1.23e+03]"
    assert notes.format_interval(None) == notes.format_interval({"n": 3}) == "–"
    assert [notes.format_sample_count(s) for s in (GOOD, {"n": 40, "subjects": 8}, {}, None)] == [
        "40", "40 (8 subjects)", "–", "–",
    ]  # fmt: skip
    assert notes.format_difference({"difference": -0.25, "interval": [-0.3, -0.2]}) == (
        "-0.250 [-0.3, -0.2]"
    )
    assert notes.format_difference({"difference": 0.5}) == "+0.500"
    assert notes.format_difference({"difference": None}) == notes.format_difference(None) == "–"


def test_statistics_are_read_by_model_and_only_where_they_are_whole() -> None:
    results = {"statistics": {"a": GOOD, "b": 3}, "target_statistics": {"a": {"n": 1}}}
    assert notes.get_statistics(results) == {"a": GOOD}
    assert notes.get_statistics(results, "target") == {"a": {"n": 1}}
    assert notes.get_statistics(results, "reference") == {}


def test_damage_is_one_line_and_takes_the_success_from_forget_quality() -> None:
    assert notes.state_damage({}) == notes.state_damage({"damaged": "x"}) == ""
    results = {"damaged": ["a fell", "b rose"], "metrics": {}}
    assert notes.state_damage(results) == "damaged: a fell; b rose"
    results["metrics"] = {"forget_quality": 0.04}
    assert notes.state_damage(results).endswith("; its forget_quality of 4.00e-02 is no success")


def test_missing_metrics_stand_together_by_their_reason() -> None:
    missing = {"a": "no retain model", "b": "no mauve", "c": "no retain model"}
    assert notes.list_missing_metrics({"missing": missing}) == [
        "a, c: no retain model", "b: no mauve",
    ]  # fmt: skip


def test_rows_are_remarked_on_where_some_were_left_out() -> None:
    rows = {
        "forget": {"held": 40, "read": 40, "scored": 40},
        "retain": {"held": 90, "read": 40, "scored": 40, "beyond eval.limit=40": 50},
        "holdout": {"read": 20, "scored": 18, "empty answer": 2},
        "facts": "broken",
    }
    assert notes.list_remarks({"rows": rows, "notes": {"mauve": "few texts"}}) == [
        "mauve: few texts",
        "retain: 40 rows read, 40 scored; beyond eval.limit=40: 50",
        "holdout: 20 rows read, 18 scored; empty answer: 2",
    ]


def run(label: str, command: str = "unlearn", **results: Any) -> RunRecord:
    settings = {"command": command}
    content = {"metrics": {"forget_rouge": 0.3}, **results}
    return RunRecord(Path(label), label=label, settings=settings, results=content)


def test_a_note_of_some_runs_names_them_and_one_of_all_does_not() -> None:
    reference = {"reference": {"forget_rouge": 0.4}}
    first = run("a", **reference, missing={"mauve": "not installed"})
    second = run("b", **reference, missing={"mauve": "not installed"}, damaged=["x fell"])
    second.problems.append("status.json: missing")
    assert notes.list_run_notes([first, second]) == [
        "Missing: mauve: not installed", "Damaged: x fell (b)", "status.json: missing (b)",
    ]  # fmt: skip


def test_without_a_retain_model_success_cannot_be_concluded() -> None:
    assert notes.list_run_notes([run("a")]) == [notes.NO_RETAIN_NOTE]
    assert notes.list_run_notes([run("a", "finetune")]) == []
    assert notes.list_run_notes([run("a", metrics={})]) == []


def test_the_mark_of_weak_figures_is_explained_once() -> None:
    weak = {"statistics": {"forget_rouge": {"n": 3}}, "reference": {"forget_rouge": 0.4}}
    assert notes.list_run_notes([run("a", **weak), run("b", **weak)]) == [notes.WEAK_LEGEND]
