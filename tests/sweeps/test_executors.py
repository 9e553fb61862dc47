"""Sweeps through slots by joblib's name, Ray, submitit and optuna: real local runs of each."""

from __future__ import annotations

import csv
import json
import math
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import refused, undial
from omegaconf import OmegaConf

from undial_cli.cli import run_command
from undial_cli.runs.compose import compose_run
from undial_cli.sweeps.executors import make_remote_executor
from undial_cli.sweeps.jobs import Job, Outcome
from undial_cli.sweeps.launchers import count_slots, parse_sweep_words
from undial_cli.sweeps.optimise import format_drawn_value, parse_directions

SHORT = ["hardware=cpu", "eval=none", "report=false", "data.retain_split=retain90"]
needs_optuna = pytest.mark.skipif(not find_spec("optuna"), reason="optuna is not installed")


def rows_of(folder: Path) -> dict[str, dict[str, str]]:
    """results.csv of the one sweep below a folder, by run."""
    (file,) = (folder / "outputs" / "sweep").glob("*/results.csv")
    with open(file, newline="", encoding="utf-8") as stream:
        return {row["run"]: row for row in csv.DictReader(stream)}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local", "ray"])
def test_a_launcher_carries_out_all_runs_and_reports_one_that_failed(
    launcher: str, random_model: Path, tmp_path: Path
) -> None:
    if launcher != "joblib":  # slots by another name
        pytest.importorskip(launcher.split("_")[0])
    words = [f"model.path={random_model}", "train.learning_rate=1e-4,1e9", "train.max_steps=3"]
    wild = ["method=ga", "train.max_grad_norm=0"]
    command = ["unlearn", "--multirun", *words, *wild, *SHORT, f"hydra/launcher={launcher}"]
    done = undial(*command, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    rows = rows_of(tmp_path)
    good, bad = (rows[f"train.learning_rate={value}"] for value in ("0.0001", "1000000000.0"))
    assert (good["status"], good["reason"]) == ("done", "")
    assert bad["status"] == "failed"
    assert "diverged" in bad["reason"]
    assert (tmp_path / good["folder"] / "checkpoint" / "model.safetensors").is_file()
    assert not (tmp_path / bad["folder"] / "checkpoint").exists()
    again = undial(*command, cwd=tmp_path)
    assert again.returncode == 1
    assert rows_of(tmp_path)["train.learning_rate=0.0001"]["status"] == "done"


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


def test_an_interval_is_for_an_optimising_sweeper_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["unlearn", "-m", "train.learning_rate=interval(0.1,1)"]) == 2
    assert capfd.readouterr().err.count("\n") == 1
    assert run_command(["unlearn", "-m", "seed=1,2", "hydra/launcher=jobbib"]) == 2
    assert "did you mean 'joblib'" in capfd.readouterr().err


def test_directions_belong_to_objectives() -> None:
    assert parse_directions("minimize", ["a"]) == ["minimize"]
    assert parse_directions(["maximize", "minimize"], ["a", "b"]) == ["maximize", "minimize"]
    refused(lambda: parse_directions("minimize", []), "objective=[]")
    assert format_drawn_value(0.00044303752452182633) == "0.000443038"
    assert float(format_drawn_value(math.pi)) == pytest.approx(math.pi, rel=1e-5)
    assert [format_drawn_value(v) for v in (3, True, "npo", None)] == ["3", "True", "npo", "null"]


def test_a_lost_executor_fails_the_runs_that_it_had_left() -> None:
    jobs = [Job(str(n), compose_run("unlearn", [f"seed={n}"])) for n in range(3)]

    def answers(orders):
        assert json.loads(json.dumps(orders)) == orders
        yield 1, {"status": "done", "reason": "", "seconds": 1.0}
        raise OSError("first line\n  the cluster is gone")

    begun: list[int] = []
    found = dict(make_remote_executor(answers)(jobs, begun.append))
    assert begun == [0, 1, 2]
    assert found[1].status == "done"
    for number in (0, 2):
        assert isinstance(found[number], Outcome)
        assert found[number].status == "failed"
        assert found[number].reason == "OSError: the cluster is gone"


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


@needs_optuna
def test_a_swept_key_is_drawn_from_what_the_command_line_says() -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
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
