"""From the words of a command line to the runs of a sweep, its folder and its objective."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import refused

from undial_cli.cli import run_command
from undial_cli.reporting.collect import RunRecord
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_yaml import dump_run_yaml, parse_run_yaml
from undial_cli.sweeps import launchers
from undial_cli.sweeps.jobs import Job, JobOutcome
from undial_cli.sweeps.launchers import (
    count_slots,
    list_swept_values,
    make_sweep,
    parse_sweep_words,
    read_objective,
)
from undial_cli.sweeps.sweep import Sweep


def test_a_run_is_named_by_what_the_command_line_leaves_open() -> None:
    given = ["data=demo", "method=undial,npo", "train.learning_rate=1e-4", "seed=range(0,2)"]
    words = ["data=demo", "method=npo", "train.learning_rate=0.0001", "seed=1"]
    assert list_swept_values(words, given) == {"method": "npo", "seed": "1"}
    assert list_swept_values(words, words) == {}


def test_the_folder_of_a_sweep_does_not_depend_on_where_it_runs() -> None:
    words = ["method=undial,npo", "seed=0,1"]
    same = [*reversed(words), "hardware.slots=2", "hydra/launcher=joblib", "report=false"]
    assert make_sweep("unlearn", words).folder == make_sweep("unlearn", same).folder
    assert make_sweep("unlearn", words).folder != make_sweep("unlearn", ["seed=0,1"]).folder
    assert make_sweep("finetune", words).folder != make_sweep("unlearn", words).folder
    rates = [
        make_sweep("unlearn", [f"train.learning_rates.none={r}"]).folder for r in ("1,2", "1,3")
    ]
    assert rates[0] != rates[1]
    named = make_sweep("unlearn", [*words, "hydra.sweep.dir=mine"]).folder
    assert named == Path("mine")


def test_where_and_how_runs_are_carried_out_is_not_part_of_a_run() -> None:
    plain = compose_run("unlearn", [])
    other = compose_run(
        "unlearn", ["hardware.slots=3", "hardware.gpus_per_run=2", "objective=[a]", "report=false"]
    )
    from undial_cli.config.identity import make_default_name

    assert make_default_name(plain) == make_default_name(other)
    assert parse_run_yaml(dump_run_yaml(plain)) == plain


def test_a_run_that_failed_has_no_value_to_optimise() -> None:
    job = Job("a", compose_run("unlearn", ["objective=[forget_rouge,retain_rouge]"]))
    assert read_objective(job, {"forget_rouge": 0.5, "retain_rouge": 1.0}) == [0.5, 1.0]
    lost = read_objective(job, {})
    assert isinstance(lost, list)
    assert [value == value for value in lost] == [False, False]
    refused(
        lambda: read_objective(job, {"forget_rouge": 1.0}), "objective=retain_rouge", "forget_rouge"
    )
    assert read_objective(Job("a", compose_run("unlearn", [])), {"forget_rouge": 0.5}) is None


def test_the_keys_of_a_launcher_and_a_sweeper_are_plain_values() -> None:
    words = [
        "hydra/launcher=submitit_slurm", "hydra.launcher.setup=[a,b]", "method=npo",
        "seed=0,1", "experiment=sequential,tofu_smollm2_cpu",
    ]  # fmt: skip
    launcher, sweeper, overrides = parse_sweep_words("unlearn", words, None)
    assert (launcher["library"], launcher["cluster"]) == ("submitit", "slurm")
    assert (launcher["setup"], launcher["max_num_timeout"]) == (["a", "b"], 3)
    assert sweeper["max_batch_size"] is None
    assert [o.get_key_element() for o in overrides] == ["method", "seed", "experiment"]
    words = ["hydra/sweeper=optuna", "+hydra.sweeper.params.seed='range(0,2)'", "method=npo"]
    launcher, sweeper, overrides = parse_sweep_words("unlearn", words, None)
    assert (launcher["library"], sweeper["library"]) == ("slots", "optuna")
    assert [(o.key_or_group, o.is_sweep_override()) for o in overrides] == [
        ("seed", True), ("method", False)
    ]  # fmt: skip
    refused(lambda: parse_sweep_words("unlearn", ["hydra/launcher=ray,joblib"], None), "ray,joblib")
    assert [count_slots(n) for n in (1, 3, -(os.cpu_count() or 1))] == [1, 3, 1]


def test_an_interval_is_for_an_optimising_sweeper_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["unlearn", "-m", "train.learning_rate=interval(0.1,1)"]) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert run_command(["unlearn", "-m", "seed=1,2", "hydra/launcher=jobbib"]) == 2
    assert "did you mean 'joblib'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "given", "values"),
    [
        (["method=npo", "seed=1"], ["method=npo,ga", "seed=0,1"], {"method": "npo", "seed": "1"}),
        (["seed=1"], ["seed=range(0,2)", "name=x"], {"seed": "1"}),
        (["a=[1,2]", "b='x y'"], [], {"a": "[1,2]", "b": "'x y'"}),
        (["seed=1"], ["seed=1"], {}),
    ],
)
def test_what_tells_a_run_from_the_others_is_what_is_swept(
    words: list[str], given: list[str], values: dict[str, str]
) -> None:
    assert list_swept_values(words, given) == values


def test_a_job_is_called_by_what_is_swept_or_by_all_of_its_words() -> None:
    sweep = Sweep("t", "unlearn", ["seed=0,1", "method=npo"])
    job = launchers.compose_job(sweep, ["method=npo", "seed=1"], ["hardware.slots=2"], None)
    assert (job.label, job.values, job.run.hardware.slots) == ("seed=1", {"seed": "1"}, 2)
    fixed = Sweep("t", "unlearn", ["seed=1"])
    assert launchers.compose_job(fixed, ["seed=1"], [], None).label == "seed=1"
    assert launchers.compose_job(Sweep("t", "unlearn"), [], [], None).label == "unlearn"


def test_runs_that_differ_cannot_share_a_folder_and_the_same_run_twice_can(tmp_path: Path) -> None:
    def job(*words: str) -> Job:
        return Job("a", compose_run("unlearn", [f"output_dir={tmp_path}", *words]))

    launchers.check_distinct_folders([job("seed=0"), job("seed=1"), job("seed=1")])
    launchers.check_distinct_folders([job("name=x"), job("name=x", "hardware.slots=2")])
    refused(
        lambda: launchers.check_distinct_folders([job("name=x"), job("name=x", "seed=1")]),
        "name=x", "leave name out, or sweep it as well",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["objective=[forget_rogue]"], ["objective=forget_rogue", "'forget_rouge'"]),
        (["objective=[forget_rouge]", "eval=none"], ["nothing is evaluated with eval=none"]),
        (["objective=[model_utility,nothing]"], ["objective=nothing"]),
    ],
)
def test_an_objective_that_no_evaluation_gives_is_refused(
    words: list[str], parts: list[str]
) -> None:
    run = compose_run("unlearn", words)
    refused(lambda: launchers.check_objective(run), *parts)


def test_an_objective_of_other_tasks_is_not_known_before(tmp_path: Path) -> None:
    words = ["objective=[harness_piqa_acc]", "eval.harness.tasks=[piqa]"]
    launchers.check_objective(compose_run("unlearn", words))


def test_the_figure_of_the_chosen_step_is_an_objective_where_weights_are_chosen() -> None:
    words = ["objective=[selection]"]
    refused(lambda: launchers.check_objective(compose_run("unlearn", words)), "selection")
    run = compose_run("unlearn", [*words, "train.select=forget_rouge", "train.eval_steps=2"])
    launchers.check_objective(run)
    record = RunRecord(Path("a"), results={"metrics": {"x": 1.0}, "selection": {"figure": 0.25}})
    assert read_objective(Job("a", run), launchers.list_objectives(record)) == 0.25
    record.results = {"metrics": {"x": 1.0}, "selection": {"figure": None}}
    assert math.isnan(read_objective(Job("a", run), launchers.list_objectives(record)))  # type: ignore[arg-type]


def test_one_objective_is_a_number_and_several_are_a_list() -> None:
    one = Job("a", compose_run("unlearn", ["objective=[forget_rouge]"]))
    assert read_objective(one, {"forget_rouge": 0.5}) == 0.5
    lost = read_objective(one, {})
    assert isinstance(lost, float)
    assert math.isnan(lost)


def batch(sweep: Sweep, status: str, *words: str) -> list[Any]:
    """A batch of runs that all end with this status and forget_rouge of their seed."""

    def executor(jobs: list[Job], started: Any) -> Any:
        for number, job in enumerate(jobs):
            started(number)
            (job.folder / "evaluation").mkdir(parents=True, exist_ok=True)
            results = f'{{"metrics": {{"forget_rouge": {job.run.seed}}}}}'
            (job.folder / "evaluation" / "results.json").write_text(results)
            yield number, JobOutcome(status, job.folder, "", 1.0)

    return launchers.run_batch(sweep, executor, None, list(words), [["seed=3"], ["seed=4"]])


def test_a_batch_gives_the_objectives_of_its_runs_and_joins_those_before(tmp_path: Path) -> None:
    more = [f"output_dir={tmp_path}", "objective=[forget_rouge]"]
    sweep = Sweep("t", "unlearn", ["seed=3,4"])
    assert batch(sweep, "done", *more) == [3.0, 4.0]
    assert [run.job.label for run in sweep.runs] == ["seed=3", "seed=4"]
    assert all(math.isnan(value) for value in batch(sweep, "failed", *more))
    assert len(sweep.runs) == 4
    assert batch(Sweep("t", "unlearn"), "done", f"output_dir={tmp_path}") == [None, None]


@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["output_dir=there", "hydra.sweep.dir=mine"], "mine"),
        (["output_dir=there"], "there/sweep/unlearn-"),
        ([], "outputs/sweep/unlearn-"),
    ],
)
def test_a_sweep_goes_below_the_output_folder_or_where_hydra_is_told(
    words: list[str], folder: str
) -> None:
    sweep = make_sweep("unlearn", ["seed=0,1", *words])
    assert str(sweep.folder).startswith(folder)
    assert sweep.title == f"unlearn: {' '.join(['seed=0,1', *words])}"


def test_how_runs_are_carried_out_cannot_be_swept() -> None:
    refused(
        lambda: parse_sweep_words("unlearn", ["hydra.launcher.n_jobs=1,2"], None),
        "hydra.launcher.n_jobs=1,2: how runs are carried out cannot be swept",
    )


def test_joblib_counts_slots_from_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [count_slots(n) for n in (4, -1, -2, -8, -20)] == [4, 8, 7, 1, 1]


@pytest.mark.slow
def test_a_wrong_value_in_one_run_is_refused_before_any_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from undial_cli.cli import run_command

    monkeypatch.chdir(tmp_path)
    assert run_command(["unlearn", "--multirun", "seed=0,1", "method=undial,npi"]) == 2
    words = ["train.batch_size=4,0", "hardware=cpu", "hydra.sweep.dir=mine"]
    assert run_command(["unlearn", "--multirun", *words]) == 2
    assert run_command(["unlearn", "--multirun", "seed=0,1", "name=mine", "hardware=cpu"]) == 2
    for aim in ("objective=[forget_rogue]", "objective=[forget_rouge] eval=none"):
        assert run_command(["unlearn", "--multirun", "seed=0,1", *aim.split()]) == 2
    err = capfd.readouterr().err.splitlines()
    assert len(err) == 5
    parts = ("did you mean 'npo'", "train.batch_size=0", "name=mine", "'forget_rouge'", "eval=none")
    for line, part in zip(err, parts, strict=True):
        assert part in line
    assert not list(tmp_path.iterdir())
