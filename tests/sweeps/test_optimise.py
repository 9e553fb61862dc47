"""optuna chooses the next runs from the figures of those before."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import refused, undial
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from swept import rows_of

from undial_cli.cli import run_command
from undial_cli.sweeps import optimise
from undial_cli.sweeps.optimise import format_drawn_value, parse_directions

needs_optuna = pytest.mark.skipif(not find_spec("optuna"), reason="optuna is not installed")


def test_directions_belong_to_objectives() -> None:
    assert parse_directions("minimize", ["a"]) == ["minimize"]
    assert parse_directions(["maximize", "minimize"], ["a", "b"]) == ["maximize", "minimize"]
    refused(lambda: parse_directions("minimize", []), "objective=[]")
    assert format_drawn_value(0.00044303752452182633) == "0.000443038"
    assert float(format_drawn_value(math.pi)) == pytest.approx(math.pi, rel=1e-5)
    assert [format_drawn_value(v) for v in (3, True, "npo", None)] == ["3", "True", "npo", "null"]


@needs_optuna
def test_a_swept_key_is_drawn_from_what_the_command_line_says() -> None:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    from undial_cli.sweeps.optimise import list_grid_choices, make_distribution

    expected = {
        "a=choice(1,2.5,npo)": CategoricalDistribution([1, 2.5, "npo"]),
        "a=npo,ga": CategoricalDistribution(["npo", "ga"]),
        "a=range(0,5)": IntDistribution(0, 4),
        "a=range(1,8,3)": IntDistribution(1, 7, step=3),
        "a=range(1,7,3)": IntDistribution(1, 4, step=3),
        "a=int(interval(1,9))": IntDistribution(1, 9),
        "a=interval(0.0,1.0)": FloatDistribution(0, 1),
        "a=tag(log,interval(0.1,1))": FloatDistribution(0.1, 1, log=True),
    }
    parser = OverridesParser.create()
    for word, wanted in expected.items():
        (override,) = parser.parse_overrides([word])
        assert make_distribution(override) == wanted, word
    assert list_grid_choices("a", expected["a=range(1,8,3)"]) == [1, 4, 7]
    assert list_grid_choices("a", expected["a=npo,ga"]) == ["npo", "ga"]


@pytest.mark.parametrize(
    ("given", "names", "parts"),
    [
        ("up", ["a"], ["hydra.sweeper.direction=up", "minimize"]),
        ("minimize", ["a", "b"], ["direction=[minimize]", "2 metrics"]),
        (["minimize", "maximize"], ["a"], ["expected one for each of the 1 metrics"]),
        ("minimize", [], ["objective=[]"]),
    ],
)
def test_a_wrong_direction_is_refused(given: Any, names: list[str], parts: list[str]) -> None:
    refused(lambda: parse_directions(given, names), *parts)


OPTIONS = {
    "sampler": "random", "sampler_args": {}, "seed": 0, "direction": "minimize", "storage": None,
    "study_name": None, "n_trials": 4, "n_jobs": 2,
}  # fmt: skip


def search(folder: Path, words: list[str], value: Any, **options: Any) -> list[list[list[str]]]:
    """Run a study over the words; returns the batches that it asked for."""
    batches: list[list[list[str]]] = []

    def carry_out(batch: Sequence[Sequence[str]]) -> list[Any]:
        batches.append([list(one) for one in batch])
        return [value(dict(word.split("=") for word in one)) for one in batch]

    overrides = OverridesParser.create().parse_overrides(words)
    optimise.run_study({**OPTIONS, **options}, overrides, ["forget_rouge"], carry_out, folder)
    return batches


SEARCHED = ["method=npo", "seed=range(0,9)", "train.learning_rate=interval(0.1,1)"]


@needs_optuna
def test_a_study_asks_for_as_many_runs_at_once_as_it_is_told(tmp_path: Path) -> None:
    batches = search(tmp_path / "s", SEARCHED, lambda values: float(values["seed"]))
    assert [len(batch) for batch in batches] == [2, 2]
    for one in (one for batch in batches for one in batch):
        values = dict(word.split("=") for word in one)
        assert list(values) == ["method", "seed", "train.learning_rate"]
        assert values["method"] == "npo"
        assert 0.1 <= float(values["train.learning_rate"]) <= 1
        assert len(values["train.learning_rate"]) <= 8  # six digits


@needs_optuna
def test_the_best_run_is_said_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    batches = search(tmp_path / "s", ["seed=range(0,9)"], lambda values: float(values["seed"]))
    best = min(int(one[0].removeprefix("seed=")) for batch in batches for one in batch)
    written = OmegaConf.load(tmp_path / "s" / "optimization_results.yaml")
    assert written.name == "optuna"
    assert written.solutions[0] == {"params": {"seed": best}, "values": {"forget_rouge": best}}
    assert f"best: seed={best}: forget_rouge {best}.000" in capsys.readouterr().out


@needs_optuna
def test_the_same_study_goes_on_and_shows_the_runs_of_before_first(tmp_path: Path) -> None:
    first = search(tmp_path / "s", SEARCHED, lambda values: 1.0, n_trials=2)
    again = search(tmp_path / "s", SEARCHED, lambda values: 1.0, n_trials=3)
    assert again[0] == first[0]
    assert [len(batch) for batch in again] == [2, 1]
    assert again[1][0] not in first[0]  # another seed of the sampler


@needs_optuna
def test_a_run_without_its_objective_is_the_worst_trial_and_never_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for direction, worst in {"minimize": math.inf, "maximize": -math.inf}.items():
        folder = tmp_path / direction
        search(folder, ["seed=0,1"], lambda v: math.nan if v["seed"] == "0" else 1.0,
               sampler="grid", n_trials=2, direction=direction)  # fmt: skip
        assert sorted(t.value for t in load_trials(folder)) == sorted([worst, 1.0])
        assert "best: seed=1: forget_rouge 1.000" in capsys.readouterr().out
    search(tmp_path / "none", ["seed=0,1"], lambda v: math.nan, sampler="tpe", n_trials=15)
    assert "best" not in capsys.readouterr().out
    assert len(load_trials(tmp_path / "none")) == 15


def load_trials(folder: Path) -> list[Any]:
    """The trials of the study in a folder."""
    import optuna

    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
    )
    return optuna.load_study(study_name=folder.name, storage=storage).trials


@needs_optuna
@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_search_that_was_interrupted_draws_what_it_would_have_drawn(
    tmp_path: Path, sampler: str
) -> None:
    words = ["train.learning_rate=tag(log,interval(1e-5,1e-1))"]
    options = {"sampler": sampler, "n_jobs": 1}
    if sampler == "tpe":
        options["sampler_args"] = {"n_startup_trials": 2}

    def value(values: dict[str, str]) -> float:
        return abs(math.log10(float(values["train.learning_rate"])) + 3)

    search(tmp_path / "whole", words, value, **options, n_trials=7)
    for count in (1, 3, 7):
        search(tmp_path / "parts", words, value, **options, n_trials=count)
    params = [[t.params for t in load_trials(tmp_path / name)] for name in ("whole", "parts")]
    assert params[0] == params[1]
    assert len({str(p) for p in params[0]}) == 7


@needs_optuna
def test_the_first_run_has_the_values_that_are_asked_for(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def carry_out(batch: Sequence[Sequence[str]]) -> list[Any]:
        asked.extend([list(one) for one in batch])
        return [1.0 for _ in batch]

    overrides = OverridesParser.create().parse_overrides(["a=interval(0.0,1.0)", "b=x,y"])
    for count in (2, 3):
        options = {**OPTIONS, "n_trials": count, "n_jobs": 1}
        first = {"a": 0.25, "b": "y"}
        optimise.conduct_study(options, overrides, ["m"], carry_out, tmp_path / "s", first)
    assert asked[0] == ["a=0.25", "b=y"]
    assert len(asked) == 2 + 3  # those of before again, for the table
    assert asked[2:4] == asked[:2]


@needs_optuna
def test_a_grid_is_worked_off_once_however_many_trials_are_asked_for(tmp_path: Path) -> None:
    words = ["seed=range(0,2)", "method=npo,ga"]
    batches = search(tmp_path / "s", words, lambda values: 1.0, sampler="grid", n_trials=20)
    runs = [tuple(one) for batch in batches for one in batch]
    assert sorted(runs) == sorted(
        (f"seed={seed}", f"method={method}") for seed in (0, 1) for method in ("npo", "ga")
    )
    again = search(tmp_path / "s", words, lambda values: 1.0, sampler="grid", n_trials=20)
    assert [len(batch) for batch in again] == [4]  # those of before, for the table


@needs_optuna
def test_a_run_that_was_cut_off_is_asked_for_again(tmp_path: Path) -> None:
    class Cut(Exception):
        pass

    def stop(values: dict[str, str]) -> float:
        raise Cut

    with pytest.raises(Cut):
        search(tmp_path / "s", SEARCHED, stop, n_trials=2)
    asked = search(tmp_path / "s", SEARCHED, lambda values: 1.0, n_trials=2)
    assert [len(batch) for batch in asked] == [2]


@needs_optuna
def test_a_grid_needs_what_can_be_counted_and_a_search_a_key(tmp_path: Path) -> None:
    refused(
        lambda: search(tmp_path, ["a=interval(0.1,1)"], lambda v: 1.0, sampler="grid"),
        "a: hydra.sweeper.sampler=grid takes choices and ranges only",
    )
    refused(lambda: search(tmp_path, ["a=1"], lambda v: 1.0), "no key to search")
    refused(
        lambda: search(tmp_path, ["a=1,2"], lambda v: 1.0, sampler="tpf"), "sampler=tpf", "'tpe'"
    )


@pytest.mark.slow
@needs_optuna
def test_what_an_optimising_sweep_needs_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    optuna = ["unlearn", "-m", "hydra/sweeper=optuna", "hardware=cpu"]
    aims = "objective=[forget_rouge,retain_rouge]"
    both = "hydra.sweeper.direction=[minimize,maximize]"
    cases = {
        ("seed=1,2",): ["objective=[]", "forget_rouge"],
        ("seed=1,2", aims): ["hydra.sweeper.direction=[minimize]", "2 metrics"],
        ("seed=1,2", aims, "hydra.sweeper.direction=[minimize,up]"): ["up", "maximize"],
        ("seed=1", aims, both): ["no key to search"],
        ("seed=1,2", aims, both, "hydra.sweeper.sampler=tpf"): ["sampler=tpf", "'tpe'"],
        ("train.learning_rate=interval(0.1,1)", aims, both, "hydra.sweeper.sampler=grid"): [
            "train.learning_rate", "choices and ranges"
        ],
    }  # fmt: skip
    for words, parts in cases.items():
        assert run_command([*optuna, *words]) == 2, words
        err = capfd.readouterr().err
        assert err.count("\n") == 1, err
        for part in parts:
            assert part in err
        assert not list(tmp_path.rglob("run.yaml"))


@pytest.mark.slow
@needs_optuna
def test_a_study_searches_two_objectives_and_goes_on_with_the_same_command(
    random_model: Path, tmp_path: Path
) -> None:
    words = [
        "unlearn", "--multirun", "hydra/sweeper=optuna", f"model.path={random_model}",
        f"eval.retain_model={random_model}", "eval.limit=4", "eval.max_new_tokens=4",
        "train.learning_rate=tag(log,interval(1e-5,1e-2))", "method.strength=choice(3,10)",
        "objective=[forget_probability,retain_probability]", "train.max_steps=2", "hardware=cpu",
        "hydra.sweeper.direction=[minimize,maximize]", "report=false",
    ]  # fmt: skip
    assert undial(*words, "hydra.sweeper.n_trials=2", cwd=tmp_path).returncode == 0
    first = rows_of(tmp_path)
    assert len(first) == 2
    files = {f: f.stat().st_mtime_ns for f in tmp_path.glob("outputs/unlearn/*/status.json")}
    done = undial(*words, "hydra.sweeper.n_trials=4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path)
    assert len(rows) == 4
    assert {name: rows[name] for name in first} == first
    assert {f: f.stat().st_mtime_ns for f in files} == files
    (found,) = tmp_path.glob("outputs/sweep/*/optimization_results.yaml")
    best = OmegaConf.load(found).solutions
    points = [(float(r["forget_probability"]), float(r["retain_probability"]))
              for r in rows.values()]  # fmt: skip
    front = {
        (x, y) for x, y in points if not any(a <= x and b >= y and (a, b) != (x, y)
                                             for a, b in points)
    }  # fmt: skip
    said_best = {
        (s["values"]["forget_probability"], s["values"]["retain_probability"]) for s in best
    }
    assert said_best == front
    assert (
        f"best: train.learning_rate={format_drawn_value(best[0].params['train.learning_rate'])}"
        in done.stdout
    )
