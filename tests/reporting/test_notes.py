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
    success = "its forget_quality of 4.00e-02 is no success"
    assert notes.state_damage(results).endswith(f"; {success}")
    results["verdict"] = {"word": "damaged", "reason": "a fell; b rose"}  # shown by itself
    assert notes.state_damage(results) == f"damaged: {success}"
    results["metrics"] = {}
    assert notes.state_damage(results) == ""


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


def make_choice(**fields: Any) -> dict[str, Any]:
    """What results.json holds of weights that were chosen: step 4 of 6."""
    steps = [{"step": s, "figure": 0.5 - 0.1 * (s == 4), "missing": ""} for s in (0, 2, 4, 6)]
    rows = {"forget": {"apart": [1, 5], "reported": 9}, "retain": {"apart": [2], "reported": 8}}
    chosen = {
        "select": "forget_rouge", "direction": "minimize", "keep": "best", "step": 4,
        "figure": 0.4, "saved_step": 4, "last_step": 6, "steps": steps, "rows": rows,
    }  # fmt: skip
    return {"selection": {**chosen, **fields}}


NEAREST = {"select": "nearest_retain", "least_utility": 0.9, "utility": 0.95}


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "step 4 of 6 chosen, forget_rouge 0.400: the lowest of 3 evaluated; chosen on 3 "
             "rows held apart from all figures here"),
        ({"direction": "maximize", "keep": "last", "saved_step": 6},
         "step 4 of 6 chosen, forget_rouge 0.400: the highest of 3 evaluated; chosen on 3 "
         "rows held apart from all figures here; the weights are the last, of step 6 "
         "(train.keep=last)"),
        ({**NEAREST, "keeps_utility": True},
         "step 4 of 6 chosen, nearest_retain 0.400: the lowest of those evaluated that keep 90% "
         "of the target's utility (it keeps 95%); chosen on 3 rows held apart from all "
         "figures here"),
        ({**NEAREST, "utility": 0.4, "keeps_utility": False},
         "step 4 of 6 chosen, nearest_retain 0.400: none keeps 90% of the target's utility, it "
         "keeps most (40%); chosen on 3 rows held apart from all "
         "figures here"),
        ({"step": None, "figure": None, "saved_step": 6,
          "steps": [{"step": 2, "figure": None, "missing": "it is null"}]},
         "no step chosen by forget_rouge: it is null; the weights are the last, of step 6"),
    ],
)  # fmt: skip
def test_which_weights_were_chosen_is_said(fields: dict[str, Any], line: str) -> None:
    assert notes.state_selection(make_choice(**fields)) == line


def test_what_each_of_sequential_requests_chose_is_said() -> None:
    results = {"requests": [make_choice(), {"metrics": {}}, make_choice(step=2), None]}
    first, third = notes.list_selections(results)
    assert first.startswith("request 1: step 4 of 6 chosen")
    assert third.startswith("request 3: step 2 of 6 chosen")
    (alone,) = notes.list_selections(make_choice())
    assert alone.startswith("step 4 of 6 chosen")
    assert notes.list_selections({"requests": 3}) == []


BROKEN = [
    None, 3, [], {}, {"steps": 1}, {"steps": [1, {"step": None}]},
    {"steps": [{"step": 2}], "step": 2, "rows": {"a": 1}},
]  # fmt: skip


@pytest.mark.parametrize("broken", BROKEN)
def test_a_choice_that_cannot_be_read_breaks_nothing(broken: Any) -> None:
    assert isinstance(notes.state_selection({"selection": broken}), str)
