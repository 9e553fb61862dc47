"""Settings are found by a rule on rows held apart; what is done is not done again."""

from __future__ import annotations

import json
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import HURRIED, list_options, refused
from run_helpers import kill_once

from undial_cli.cli import run_command
from undial_cli.config.schema import UnlearnRun
from undial_cli.evaluation.selection_rule import MOST_FORGOTTEN, NEAREST_RETAIN, SelectionRule
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_folder import locate_run_folder
from undial_cli.sweeps.search_space import (
    collect_space,
    expand_times,
    find_own_values,
    list_bounds,
    parse_space,
)
from undial_cli.sweeps.tune import load_tune_config
from undial_cli.sweeps.tune_results import TuneResults, TuneTrial, format_command

needs_optuna = pytest.mark.skipif(not find_spec("optuna"), reason="optuna is not installed")
NAMES = ("forget_probability", "forget_rouge")


def make_trial(number: int, figure: float | None, utility: float = 1.0, **more: Any) -> TuneTrial:
    """A trial of made-up figures."""
    chosen = {
        "figure": figure, "utility": utility, "keeps_utility": utility >= 0.9, "step": 4,
        "rows": {"forget": {"apart": [1, 2]}, "retain": {"apart": [0]}},
    }  # fmt: skip
    apart = {"forget_probability": figure, "forget_rouge": figure, "retain_rouge": utility}
    fields: dict[str, Any] = {
        "number": number, "values": {"train.learning_rate": f"{number}e-4"},
        "folder": Path(f"runs/{number}"), "status": "done", "reason": "", "seconds": 3.0,
        "chosen": chosen, "apart": apart, "target": {"forget_rouge": 1.0, "retain_rouge": 1.0},
        "reported": {"forget_rouge": 0.3}, "before": {"forget_rouge": 1.0},
        "roles": {"retain": "retain", "forget": "forget"},
    }  # fmt: skip
    return TuneTrial(**{**fields, **more})


def make_results(trials: list[TuneTrial], rule: str = NEAREST_RETAIN) -> TuneResults:
    keys = ["train.learning_rate"]
    return TuneResults(SelectionRule(rule, "minimize", NAMES, None), 0.9, keys, trials)


@pytest.mark.parametrize("rule", [NEAREST_RETAIN, MOST_FORGOTTEN])
@pytest.mark.parametrize(
    ("outcomes", "best"),
    [
        ([(0.3, 1.0), (0.1, 0.9), (0.2, 1.0)], 2),
        ([(0.3, 1.0), (0.1, 0.899), (0.2, 1.0)], 3),  # too little is kept
        ([(0.3, 0.4), (0.1, 0.6), (0.2, 0.5)], 2),  # none keeps enough: the one that keeps most
        ([(0.2, 1.0), (0.2, 1.0)], 1),  # of equal ones the first
        ([(None, 1.0), (0.4, 1.0)], 2),
        ([(None, 1.0), (0.9, 0.1)], 2),
        ([(None, 1.0)], None),
    ],
)
def test_the_rule_chooses_among_those_that_keep_the_utility(
    rule: str, outcomes: list[tuple[float | None, float]], best: int | None
) -> None:
    results = make_results([make_trial(n, *one) for n, one in enumerate(outcomes, 1)], rule)
    assert (results.best and results.best.number) == best
    assert (results.find_exit_code() == 0) == (best is not None)


def test_a_failed_trial_is_said_and_is_never_the_best(tmp_path: Path) -> None:
    failed = make_trial(1, 0.0, status="failed", reason="the loss is no number", chosen={})
    results = make_results([failed, make_trial(2, 0.4)])
    assert results.best is results.trials[1]
    assert results.list_failures() == ["trial 1: failed: the loss is no number; runs/1"]
    assert [row.cells[-1].text for row in results.make_sheet().rows] == ["failed", "chosen"]
    assert "trial 2 of 2 chosen, its weights of step 4: nearest_retain 0.400" in (
        results.state_choice()
    )
    assert "chosen on 3 rows held apart" in results.state_choice()
    results.write(tmp_path, ["method=npo"])
    content = json.loads((tmp_path / "tune.json").read_text())
    assert content["command"] == "undial unlearn method=npo train.learning_rate=2e-4"
    assert [trial["status"] for trial in content["trials"]] == ["failed", "done"]
    none = make_results([failed])
    assert none.find_exit_code() == 1
    assert "nothing is chosen" in none.state_choice()


def test_that_no_trial_keeps_the_utility_is_said() -> None:
    statement = make_results([make_trial(1, 0.1, 0.5)]).state_choice()
    assert "none keeps 90% of the target's utility, it keeps most (50%)" in statement


def test_the_command_is_quoted_for_a_shell() -> None:
    words = ["data.forget_file=my file.jsonl", "seed=3", "--config-dir=own configs"]
    command = format_command(words, {"method.strength": "7.5"})
    assert shlex.split(command) == [
        "undial", "unlearn", *words[:2], "method.strength=7.5", words[2]
    ]  # fmt: skip


def test_times_are_around_a_value() -> None:
    assert expand_times("a", "times(0.1, 10)", 3e-4) == "tag(log,interval(3e-05,0.003))"
    assert expand_times("a", "choice(1,2)", None) == "choice(1,2)"
    for text in ("times(10,0.1)", "times(0,1)", "times(1)", "times(a,b)", "times(1,inf)"):
        refused(lambda text=text: expand_times("a.b", text, 1.0), f"a.b={text}", "0 < low < high")
    refused(lambda: expand_times("a", "times(1,2)", 0.0), "its value is 0.0", "choice(...)")


def test_a_key_that_is_set_is_not_searched_and_one_with_values_over_these() -> None:
    run = compose_run("unlearn", ["hardware=cpu"])
    assert isinstance(run, UnlearnRun)
    of_file = {"train.learning_rate": "times(0.1,10)", "method.alpha": "times(0.1,10)",
               "method.strength": "interval(3,30)", "method.gamma": None}  # fmt: skip
    assert list(collect_space(of_file, {}, set(), run)) == [
        "train.learning_rate",
        "method.strength",
    ]  # there is no retain term to weigh
    run.method.retain = "gdr"
    several = {"method.strength": "3,10", "train.epochs": "choice(5,10)"}
    space = collect_space(of_file, several, {"train.learning_rate"}, run)
    assert space == {"method.alpha": "tag(log,interval(0.1,10))", **several}
    refused(lambda: collect_space(of_file, {}, set(of_file), run), "none is left to search")
    refused(lambda: collect_space({"push_to_hub": "choice(a,b)"}, {}, set(), run), "uploads")


@needs_optuna
def test_what_is_searched_starts_from_the_values_without_a_search() -> None:
    run = compose_run("unlearn", ["hardware=cpu"])
    assert isinstance(run, UnlearnRun)
    texts = {"method.strength": "interval(3,30)", "train.learning_rate": "interval(1e-5,2e-5)",
             "method.retain": "choice(gdr,none)"}  # fmt: skip
    space = parse_space(texts, None)
    assert find_own_values(space, run) == {"method.strength": 10.0, "method.retain": "none"}
    assert list_bounds(space[0]) == ["method.strength=3.0", "method.strength=30.0"]
    for text in ("5", "interval(2,1)", "tag(log,interval(0,1))", "interval(1"):
        refused(lambda text=text: parse_space({"method.strength": text}, None), "method.strength=")
    refused(lambda: parse_space({"seed": "0,1"}, None), "seed=0,1: one value")
    refused(lambda: parse_space({"method": "ga,npo"}, None), "one method at a time")


@pytest.mark.slow
@needs_optuna
@pytest.mark.parametrize("method", [m for m in list_options("tune") if m != "default"])
def test_the_space_of_a_method_is_one_of_its_keys(method: str) -> None:
    words = [f"method={method}", "hardware=cpu"]
    run = compose_run("unlearn", words)
    assert isinstance(run, UnlearnRun)
    asked = load_tune_config([], method, None)
    space = parse_space(collect_space(asked.tune.space, {}, set(), run), None)
    for word in (word for override in space for word in list_bounds(override)):
        compose_run("unlearn", [*words, word])
    assert len(find_own_values(space, run)) == len(space)  # the first trial is the method's own


@pytest.mark.slow
@needs_optuna
def test_a_search_goes_on_after_a_kill_and_its_command_is_the_run_that_was_chosen(
    random_model: Path, untied_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One of three trials ends in no number; it counts as bad, and the search goes on."""
    words = [
        "tune", *HURRIED, f"model.path={random_model}", f"eval.retain_model={untied_model}",
        "train.max_steps=3", "checkpoints=2", "method.strength=5", "budget=3", "seed=4",
        "train.learning_rate=choice(1e-4,1e-3,1e30)", "hydra.sweeper.sampler=grid",
    ]  # fmt: skip
    runs = tmp_path / "outputs" / "unlearn"

    def list_done() -> list[Path]:
        files = runs.glob("*/status.json")
        return [f for f in files if json.loads(f.read_text())["status"] == "done"]

    def is_second_begun(_: int) -> bool:
        return bool(list_done()) and len(list(runs.glob("*/run.yaml"))) > 1

    kill_once(words, tmp_path, is_second_begun)
    times = {file: file.stat().st_mtime_ns for file in list_done()}
    monkeypatch.chdir(tmp_path)
    assert run_command(words) == 0
    captured = capfd.readouterr()
    assert len(list(runs.iterdir())) == 3
    assert {file: file.stat().st_mtime_ns for file in times} == times
    (folder,) = (tmp_path / "outputs" / "tune").iterdir()
    content = json.loads((folder / "tune.json").read_text())
    assert sorted(trial["status"] for trial in content["trials"]) == ["done", "done", "failed"]
    (failed,) = [trial for trial in content["trials"] if trial["status"] == "failed"]
    assert failed["values"] == {"train.learning_rate": "1e+30"}
    assert failed["reason"]
    assert f"trial {failed['trial']}: failed: " in captured.out
    best = content["trials"][content["chosen"] - 1]
    known = [trial for trial in content["trials"] if trial["status"] == "done"]
    kept = [trial for trial in known if trial["keeps_utility"]]
    assert best["figure"] == min(trial["figure"] for trial in kept or known)
    assert content["command"] in captured.out
    typed = shlex.split(content["command"])
    assert typed[:2] == ["undial", "unlearn"]
    assert "seed=4" in typed
    assert (
        locate_run_folder(compose_run("unlearn", typed[2:])).path.resolve()
        == (folder / best["folder"]).resolve()
    )
    # Chosen on some rows, reported on the others.
    results = json.loads((folder / best["folder"] / "evaluation" / "results.json").read_text())
    assert results["selection"]["rows"] == content["rows"]
    assert best["reported"] == results["metrics"]
    assert best["apart"]["selection"] == best["figure"]
