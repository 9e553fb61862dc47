"""The sheets of a report: whose figures stand next to each other, and what each row says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reported import sample

from undial_cli.reporting import cells
from undial_cli.reporting.collect import RunRecord
from undial_cli.reporting.sheet import Sheet

TARGET = {"forget_rouge": 1.0, "retain_rouge": 0.99, "model_utility": 0.6}
AFTER = {"forget_rouge": 0.3, "retain_rouge": 0.9, "model_utility": 0.5}
RETAIN = {"forget_rouge": 0.4, "retain_rouge": 0.98, "model_utility": 0.6}


def evaluated(label: str = "a", command: str = "unlearn", **results: Any) -> RunRecord:
    """A run with these results.json."""
    content = {"metrics": AFTER, "target": TARGET, "reference": RETAIN, **results}
    record = RunRecord(Path("outputs") / command / label, "done", label=label, results=content)
    record.settings = {"command": command}
    return record


def texts(sheet: Sheet) -> list[list[str]]:
    return [[cell.text for cell in row.cells] for row in sheet.rows]


def titles(sheet: Sheet) -> list[str]:
    return [column.title for column in sheet.columns]


@pytest.mark.parametrize(
    ("command", "results", "models"),
    [
        ("unlearn", {}, ["before", "after", "retain model"]),
        ("unlearn", {"reference": {}}, ["before", "after"]),
        ("unlearn", {"target": {}}, ["before", "after", "retain model"]),
        ("evaluate", {}, ["target", "model", "retain model"]),
        ("evaluate", {"target": {}}, ["model", "retain model"]),
        ("finetune", {"target": {}, "reference": {}}, ["model"]),
        (
            "unlearn",
            {"requests": [{"metrics": AFTER}, {"metrics": AFTER}]},
            ["start", "after 1", "after 2", "retain model"],
        ),
    ],
)
def test_models_stand_in_the_order_in_which_they_were_made(
    command: str, results: dict[str, Any], models: list[str]
) -> None:
    content = evaluated(command=command, **results).results
    assert [model.title for model in cells.list_model_figures(command, content)] == models


def test_statistics_of_sequential_requests_are_those_of_the_last_state() -> None:
    statistics = {"forget_rouge": {"n": 3}}
    requests = [{"metrics": AFTER}, {"metrics": AFTER}]
    content = evaluated(requests=requests, statistics=statistics).results
    models = cells.list_model_figures("unlearn", content)
    assert [model.statistics for model in models] == [{}, {}, statistics, {}]


def test_figures_of_one_run_stand_by_set_with_the_difference_to_the_retain_model() -> None:
    sheet = cells.make_run_sheet(evaluated())
    assert titles(sheet) == ["metric", "before", "after", "retain model", "after − retain model"]
    assert texts(sheet) == [
        ["ROUGE-L", "1.000", "0.300", "0.400", "−0.100"],
        ["ROUGE-L", "0.990", "0.900", "0.980", "−0.080"],
        ["model utility", "0.600", "0.500", "0.600", "−0.100"],
    ]
    assert [(row.group, row.note, row.hint) for row in sheet.rows] == [
        ("forget", "lower is better", "forget_rouge"),
        ("retain", "higher is better", "retain_rouge"),
        ("joint", "higher is better", "model_utility"),
    ]


def test_without_a_retain_model_the_difference_is_to_before() -> None:
    sheet = cells.make_run_sheet(evaluated(reference={}))
    assert titles(sheet)[-1] == "after − before"
    assert texts(sheet)[0] == ["ROUGE-L", "1.000", "0.300", "−0.700"]
    alone = cells.make_run_sheet(evaluated(command="finetune", reference={}, target={}))
    assert titles(alone) == ["metric", "model"]


def test_the_role_of_a_set_says_which_way_is_better() -> None:
    run = evaluated(metrics={"people_rouge": 0.1}, roles={"people": "forget"})
    (row,) = cells.make_run_sheet(run).rows
    assert (row.group, row.cells[0].text, row.note) == ("people", "ROUGE-L", "lower is better")


def test_figures_that_were_measured_in_one_model_only_have_no_difference() -> None:
    assert cells.subtract_figures({"a": 0.5, "b": None, "c": 1}, {"a": 0.25, "b": 1.0}) == {
        "a": 0.25
    }


def test_intervals_stand_per_model_and_differences_in_pairs() -> None:
    run = evaluated(
        statistics={"forget_rouge": {"n": 40, "interval": [0.2, 0.4]}},
        target_statistics={"forget_rouge": {"n": 40, "interval": [0.9, 1.0]}},
        differences={"target": {"forget_rouge": {"difference": -0.7, "interval": [-0.8, -0.6]}}},
    )
    sheet = cells.make_precision_sheet(run)
    assert titles(sheet) == [
        "metric", "n", "95 % interval, before", "95 % interval, after", "less before",
    ]  # fmt: skip
    assert texts(sheet) == [
        ["forget ROUGE-L", "40", "[0.9, 1]", "[0.2, 0.4]", "-0.700 [-0.8, -0.6]"]
    ]
    assert not cells.make_precision_sheet(evaluated()).rows


def test_headlines_are_a_pair_and_the_joint_figures_that_were_measured() -> None:
    assert cells.choose_headlines(evaluated()) == [
        ["forget ROUGE-L", "1.000", "0.300", "0.400"],
        ["retain ROUGE-L", "0.990", "0.900", "0.980"],
        ["model utility", "0.600", "0.500", "0.600"],
    ]
    requests = evaluated(metrics={"request_1_rouge": 0.2, "request_2_rouge": 0.1})
    assert [line[0] for line in cells.choose_headlines(requests)] == ["request 1 ROUGE-L"]
    assert cells.choose_headlines(evaluated(metrics={})) == []


def test_many_runs_have_their_keys_and_shared_models_above() -> None:
    runs = [evaluated("a"), evaluated("b", metrics={"forget_rouge": None})]
    for run, rate in zip(runs, ("1e-4", "3e-4"), strict=True):
        run.values, run.seconds = {"train.learning_rate": rate, "method": "npo"}, 4.0
    sheet = cells.make_comparison_sheet(runs, ["train.learning_rate", "method"])
    assert titles(sheet) == [
        "learning rate", "method", "status", "time",
        "forget ROUGE-L", "retain ROUGE-L", "model utility",
    ]  # fmt: skip
    assert [column.numeric for column in sheet.columns[:3]] == [True, False, False]
    assert texts(sheet) == [
        ["1e-4", "npo", "done", "4.0 s", "0.300", "0.900", "0.500"],
        ["3e-4", "npo", "done", "4.0 s", "–", "–", "–"],
    ]
    assert [[cell.text for cell in row.cells] for row in sheet.above] == [
        ["target", "", "", "", "1.000", "0.990", "0.600"],
        ["retain model", "", "", "", "0.400", "0.980", "0.600"],
    ]


def test_runs_that_nothing_tells_apart_have_their_labels() -> None:
    runs = [evaluated("a"), evaluated("b")]
    sheet = cells.make_comparison_sheet(runs, [])
    assert titles(sheet)[:3] == ["run", "status", "time"]
    assert [row[0] for row in texts(sheet)] == ["a", "b"]


def test_the_main_metrics_come_first_and_their_number_is_stated() -> None:
    figures = {f"x{n}": 0.1 for n in range(3)} | {"retain_rouge": 0.9, "forget_rouge": 0.3}
    sheet = cells.make_comparison_sheet([evaluated(metrics=figures)], [])
    assert titles(sheet)[3:] == ["forget ROUGE-L", "retain ROUGE-L", "x0", "x1", "x2"]
    assert sheet.first == 3 + 2
    others = cells.make_comparison_sheet([evaluated(metrics={f"x{n}": 0.1 for n in range(9)})], [])
    assert others.first == 3 + cells.MOST_MAIN_METRICS


def test_models_that_differ_between_runs_are_not_shared() -> None:
    same, other = evaluated().results, evaluated(target={"forget_rouge": 0.8}).results
    assert list(cells.find_shared_figures([same, same])) == ["target", "retain model"]
    assert list(cells.find_shared_figures([same, other])) == ["retain model"]
    without = {**same, "target": {}}  # one that does not say agrees with the others
    assert list(cells.find_shared_figures([without, same])) == ["target", "retain model"]
    assert cells.find_shared_figures([{}]) == {}


def test_runs_that_did_not_end_are_listed_with_their_reason() -> None:
    runs = [evaluated("a"), evaluated("b"), evaluated("c")]
    runs[1].status, runs[1].reason, runs[2].status = "failed", "NaN", "running"
    assert texts(cells.make_unfinished_sheet(runs)) == [
        ["b", "failed", "NaN"], ["c", "running", "no reason is noted"],
    ]  # fmt: skip


def test_examples_are_spread_over_the_samples_of_the_forget_set() -> None:
    run = evaluated()
    run.samples = [sample(n) for n in range(20)] + [sample(99, "retain")]
    run.samples.append({"set": "forget", "index": 50, "generation": None})
    chosen = cells.choose_answered_samples(run, 4)
    assert [row["index"] for row in chosen] == [0, 5, 10, 15]
    run.results["roles"] = {"forget": "retain", "retain": "forget"}
    assert [row["index"] for row in cells.choose_answered_samples(run, 4)] == [99]


def test_examples_have_the_texts_that_were_stored_and_long_ones_are_cut() -> None:
    run = evaluated()
    run.samples = [{"set": "forget", "prompt": "p" * 500, "generation": "said"}]
    sheet = cells.make_examples_sheet(run)
    assert titles(sheet) == ["prompt", "after"]
    assert texts(sheet) == [["p" * cells.MOST_LETTERS_OF_EXAMPLE + " ...", "said"]]


def test_settings_that_differ_are_shown_for_each_run_and_those_of_no_result_are_not() -> None:
    runs = [evaluated("a"), evaluated("b"), evaluated("c")]
    runs[0].settings = {"seed": 0, "name": "x", "train.learning_rate": 1e-4}
    runs[1].settings = {"seed": 0, "name": "y", "train.learning_rate": 3e-4, "method.beta": 0.1}
    runs[2].settings = {}
    for run in runs:
        run.short = run.label
    assert texts(cells.make_settings_sheet(runs)) == [
        ["train.learning_rate", "1e-4", "3e-4", "–"], ["method.beta", "–", "0.1", "–"],
    ]  # fmt: skip
    assert not cells.make_settings_sheet(runs[:1]).rows


def test_environments_that_are_the_same_stand_once() -> None:
    runs = [evaluated("a"), evaluated("b"), evaluated("c")]
    runs[0].environment = {"seed": 0, "packages": {"torch": "2.1"}, "gpu": []}
    runs[1].environment = {"seed": 1, "packages": {"torch": "2.1"}, "gpu": []}
    (sheet,) = cells.make_environment_sheets(runs)
    assert (sheet.title, texts(sheet)) == ("", [["packages.torch", "2.1"], ["gpu", "[]"]])
    runs[2].environment = {"packages": {"torch": "2.2"}}
    assert [sheet.title for sheet in cells.make_environment_sheets(runs)] == ["a; b", "c"]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("forget_rouge", 0.12345, "0.123"),
        ("forget_quality", 1.5e-8, "1.50e-08"),
        ("model_utility", None, "-"),
    ],
)
def test_the_screen_shows_a_p_value_with_its_power_of_ten(
    name: str, value: float | None, text: str
) -> None:
    assert cells.format_marked_figure(name, cells.ModelFigures("", {name: value})) == text
