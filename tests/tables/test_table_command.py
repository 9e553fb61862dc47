"""`undial reproduce`: plans, refusals, what it runs and what it writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import refused
from made_tables import (
    SMALL,
    asked_of,
    fail,
    finish,
    finish_all,
    made,
    reproduced,
    runs_of,
    write_table,
)  # fmt: skip

from undial_cli.config.fields import walk_fields
from undial_cli.config.tables import RowConfig
from undial_cli.planning.estimate import estimate_missing_runs
from undial_cli.runs.compose import build_run, compose_run
from undial_cli.runs.hydra_configs import compose_config, find_config_folder
from undial_cli.runs.overrides import normalise_overrides
from undial_cli.runs.run_yaml import dump_run_yaml
from undial_cli.sweeps import sweep
from undial_cli.sweeps.jobs import Job, JobOutcome
from undial_cli.tables import command
from undial_cli.tables.load import list_table_names, load_table

SHIPPED = list_table_names(None)
# Composed in a moment; the others are planned among the slow tests.
QUICK = ("demo_strength",)
OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in SHIPPED if name not in QUICK]


def test_what_is_shipped() -> None:
    real = "extraction extraction_tradeoff robustness robustness_strength focus tofu_llama7b"
    real += " tofu_llama1b open_unlearning muse_news muse_books scalability sustainability audit"
    demo = "extraction tradeoff robustness strength focus methods scalability sequential audit"
    demo += " frontier"
    small = "tofu robustness scalability sequential min_k strength"
    assert set(SHIPPED) == {
        *real.split(),
        *(f"demo_{name}" for name in demo.split()),
        *(f"smollm2_{name}" for name in small.split()),
    }


@pytest.mark.parametrize("name", [*QUICK, *OTHERS])
def test_plan_of_every_shipped_table(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        command.run_reproduce_command([f"table={name}", "plan=true", f"output_dir={tmp_path}/out"])
        == 0
    )
    said = capsys.readouterr().out
    table = load_table([f"table={name}"], None).table
    assert table.title in " ".join(said.split())
    assert " 0 done" in said
    for key in table.needs:
        assert f"needs {key}=" in said
    if table.cost.parameters:
        assert "estimated training alone" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_plan_imports_no_torch_and_asks_no_network(tmp_path: Path) -> None:
    code = (
        "import socket, sys\n"
        "def no(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = no\n"
        "from undial_cli.tables.command import run_reproduce_command\n"
        f"run_reproduce_command(['table=demo_strength', 'plan=true', 'output_dir={tmp_path}'])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=tmp_path)


@pytest.mark.slow
def test_runs_are_those_of_the_command_line(tmp_path: Path) -> None:
    table = load_table(["table=demo_robustness"], None).table
    asked = ["table=demo_robustness", "rows=[undial + gdr]", f"output_dir={tmp_path}"]
    found = runs_of(asked)
    assert len(found) == 9
    entry = found[-1]
    words = [*table.overrides, *table.sections["lr 1e-3"], *entry.line.row.overrides]
    words += ["seed=2", f"output_dir={tmp_path}"]
    assert dump_run_yaml(entry.run) == dump_run_yaml(compose_run("unlearn", words))


@pytest.mark.parametrize(
    "words",
    [
        ["model=llama7b", "data=tofu", "method=idkdpo", "data.forget_split=forget05[:20]"],
        [
            "experiment=sequential",
            "data.requests=[a,b]",
            "train.args.lr_scheduler_kwargs={x: 1}",
            "name='a b, c'",
            "eval.sets.holdout.split=null",
            "+train.max_steps=4",
        ],
    ],
)
def test_quick_composition_is_hydras(words: list[str]) -> None:
    wanted = dump_run_yaml(build_run(compose_config("unlearn", normalise_overrides(words), None)))
    for _ in range(2):  # the second time from what was kept
        assert dump_run_yaml(compose_run("unlearn", words)) == wanted


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words that ask for the small table."""
    return write_table(tmp_path_factory.mktemp("configs"))


def test_the_last_word_wins(small: list[str], tmp_path: Path) -> None:
    words = [*small, f"output_dir={tmp_path}/o", "method.retain=gdr"]
    words += ["data.max_length=128", "data.max_length=64", "seeds=[4,5]", "rows=[GA]"]
    found = runs_of(words)
    assert [entry.seed for entry in found] == [4, 5]
    assert {entry.run.method.name for entry in found} == {"ga"}
    assert {(e.run.data.max_length, e.run.method.retain) for e in found} == {(64, "gdr")}


def test_a_table_of_the_users(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*small, "plan=true", f"output_dir={tmp_path}/o"]
    assert command.run_reproduce_command(words) == 0
    assert "plan: A small table" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, parts",
    [
        (["table=demo_robustnes"], ["table=demo_robustnes", "did you mean 'demo_robustness'"]),
        (["plan=true"], ["table=NAME", "extraction"]),
        (["table=demo_strength", "plan=maybe"], ["plan=maybe", "true or false"]),
        (["table=demo_strength", "seeds=[a]"], ["seeds=[a]", "integers"]),
        (["table=demo_strength", "rows=[strenth]"], ["rows=strenth", "strength 3"]),
        (["table=demo_strength", "method.strenght=3"], ["method.strenght", "'method.strength'"]),
        (["table=demo_strength", "seed=3"], ["seed=3", "seeds=["]),
        (["table=demo_strength", "name=x"], ["name=x", "named by their settings"]),
        (["table=demo_strength", "overwrite=true"], ["overwrite=true", "delete"]),
        (["table=demo_strength", "plan"], ["plan", "key=value"]),
        (["table=demo_strength", "--multirun"], ["--multirun", "--config-dir"]),
        (["table=demo_strength", "--config-dir", "nowhere"], ["nowhere", "no such folder"]),
        (["table=demo_strength", "data.max_length=1"], ["data.max_length=1", ">= 2"]),
    ],
)
def test_refusals(
    words: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(lambda: command.run_reproduce_command(words), *parts)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "old, new, parts",
    [
        ("better: lower", "better: lowest", ["better=lowest", "lower"]),
        ("format: .2f, better: l", "format: 2d2, better: l", ["format=2d2"]),
        ("reference: {forget:", "reference: {forgot:", ["forgot", "'forget'"]),
        ("of: target", "of: teacher", ["of=teacher"]),
        ("of: target", "ofx: target", ["ofx"]),
        ("label: ga", "label: undial", ["undial is there twice"]),
        ("name: retain", "name: forget", ["forget is there twice"]),
        ("label: ga,", "label: ga, section: x,", ["section", "x"]),
        ("metric: [retain_rouge]", "metric: []", ["metric"]),
        ("tolerance: 0.1", "tolerance: -1", ["tolerance=-1", ">= 0"]),
    ],
)
def test_a_table_that_is_not_sound(old: str, new: str, parts: list[str], tmp_path: Path) -> None:
    assert old in SMALL
    words = write_table(tmp_path, SMALL.replace(old, new, 1))
    refused(lambda: load_table(words[:1], words[2]), *parts)


def test_a_key_that_the_user_has_to_give(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SMALL + "needs: {data.forget_file: a file of yours}\n"
    words = [*write_table(Path(small[2]), text, "needy"), f"output_dir={tmp_path}/o"]
    assert command.run_reproduce_command([*words, "plan=true"]) == 0
    assert "needs data.forget_file=...: a file of yours" in capsys.readouterr().out
    refused(lambda: command.run_reproduce_command(words), "data.forget_file", "a file of yours")
    assert not (tmp_path / "o").exists()


def test_only_what_is_missing_is_run(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*small, f"output_dir={tmp_path}/o", "seeds=[0,1]"]
    entries = runs_of(words)
    for entry in entries[:3]:
        finish(entry, {"forget_rouge": 0.3, "retain_rouge": 0.9})
    asked: list[str] = []

    def carried_out(jobs: list[Job], title: str) -> list[JobOutcome]:
        asked.extend(job.label for job in jobs)
        fail(entries[3], "diverged: loss is nan")
        return [JobOutcome("failed", entries[3].folder.path, "diverged: loss is nan", 1.0)]

    monkeypatch.setattr(sweep, "run_jobs", carried_out)
    code, rows = reproduced(words)
    assert code == 1
    assert asked == ["ga, seed 1"]
    ga = {row["column"]: row for row in rows if row["row"] == "ga"}
    assert (ga["forget"]["mean"], ga["forget"]["n"], ga["forget"]["status"]) == ("0.3", "1", "done")


def test_what_is_written(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*small, f"output_dir={tmp_path}/o", "data.max_length=64"]
    target = {"forget_rouge": 1.0, "retain_rouge": 0.98}
    finish_all(words, lambda entry: {"metrics": {"forget_rouge": 0.25}, "target": target})
    code, rows = reproduced(words)
    said = " ".join(capsys.readouterr().out.split())
    folder = tmp_path / "o" / "reproduce" / "small"
    assert code == 0
    assert {f.name for f in folder.iterdir()} >= {
        "table.md", "table.csv", "table.tex", "sweep.json",
    }  # fmt: skip
    assert [row["row"] for row in rows] == ["target"] * 2 + ["undial"] * 2 + ["ga"] * 2
    by_place = {(row["row"], row["column"]): row for row in rows}
    assert by_place["target", "retain"]["mean"] == "0.98"
    assert by_place["undial", "forget"]["difference"] == str(0.25 - 0.3)
    assert by_place["undial", "forget"]["within_tolerance"] == "true"
    assert by_place["undial", "retain"]["status"] == "no figure"
    page = (folder / "table.md").read_text()
    assert "| undial | 0.25 (0.30) | - (0.90) |" in page
    assert "0.25 (0.30)" in said
    listed = json.loads((folder / "sweep.json").read_text())
    assert [run["label"] for run in listed["runs"]] == ["undial, seed 0", "ga, seed 0"]
    assert listed["runs"][0]["values"] == {"row": "undial", "seed": "0"}
    assert listed["words"] == ["table=small", "data.max_length=64"]
    for run in listed["runs"]:
        assert (folder / run["folder"] / "run.yaml").is_file()


def test_estimates(tmp_path: Path) -> None:
    text = SMALL + (
        "seeds: [0, 1]\ncost: {parameters: {tiny: 1.0e+6}, tokens: {forget10: 1000}, "
        "device: a card, tflops: 1, share: 0.5}\n"
    )
    asked = asked_of(text.replace("max_steps=4", "epochs=10"), tmp_path)
    table = asked.table
    runs = made(asked, lambda entry: None).runs
    # undial: forward and backward, and the teacher's forward once; ga has no teacher
    flop = 1e6 * 1000 * 2 * ((6 * 10 + 2) + 6 * 10)

    def said() -> str:
        finished = [entry.seconds for entry in runs if entry.status == "done" and entry.seconds]
        return estimate_missing_runs(
            table.cost, [e.run for e in runs if e.status != "done"], finished
        )

    line = said()
    assert f"{flop:.2g} FLOP, {flop / 0.5e12 / 3600:.3g} hours of one a card at 50%" in line
    assert "training alone" in line
    for entry, seconds in zip(runs[:3], (10.0, 20.0, 0.01), strict=True):
        entry.status, entry.seconds = "done", seconds  # the last found its work done before
    assert said().startswith("estimated time: 15 s (1 missing runs x 15.0 s")
    runs[3].status = "done"
    assert said() == ""


def test_every_row_says_what_it_is() -> None:
    for name in SHIPPED:
        first = (find_config_folder() / "table" / f"{name}.yaml").read_text().splitlines()[0]
        assert first.startswith("# ")
        assert len(first) < 125
    assert all(f.metadata["help"] for _, _, f in walk_fields(RowConfig(label="x")))


def test_a_refused_run_is_named(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(jobs: list[Job], title: str) -> list[JobOutcome]:
        return [JobOutcome("refused", Path("x"), "no such model") for _ in jobs]

    monkeypatch.setattr(sweep, "run_jobs", refuse)
    code, rows = reproduced([*small, f"output_dir={tmp_path}/o"])
    assert code == 2
    assert {row["status"] for row in rows if row["row"] == "ga"} == {"failed"}
    assert {row["status"] for row in rows if row["row"] == "target"} == {"not run"}
