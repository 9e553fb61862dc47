"""Which models a word stands for: those of a run by their roles, or one by its path."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
from asked import write_model, write_run
from conftest import refused

from undial_cli.asking.interactive import keep_history
from undial_cli.asking.models import list_asked_models
from undial_cli.asking.words import parse_ask_words
from undial_cli.cli import run_command
from undial_cli.runs.compose import compose_run
from undial_cli.runs.evidence import list_private_files
from undial_cli.runs.run_folder import RunFolder
from undial_cli.runs.run_yaml import dump_run_yaml
from undial_cli.system.private_files import keep_ledgers


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four models."""
    folder = tmp_path_factory.mktemp("models")
    return {name: write_model(folder / name) for name in ("target", "retain", "one", "two")}


def make_run(folder: Path, models: dict[str, Path], checkpoint: str, *words: str) -> Path:
    """A run between two of the models whose checkpoint is a third."""
    run = write_run(folder, models["target"], models["retain"], *words)
    (run / "checkpoint").symlink_to(models[checkpoint])
    return run


def list_titles(*words: str) -> list[tuple[str, str]]:
    """Titles and names of the folders of all that is asked."""
    asked = list_asked_models(parse_ask_words(words))
    return [(model.title, Path(model.path).resolve().name) for model in asked]


@pytest.mark.slow
def test_runs_of_one_target_stand_beside_one_another(
    models: dict[str, Path], tmp_path: Path
) -> None:
    runs = [str(make_run(tmp_path / name, models, name)) for name in ("one", "two")]
    shared = [("target", "target"), ("retain model", "retain")]
    assert list_titles(runs[0]) == [*shared, ("unlearned", "one")]
    assert list_titles(*runs) == [*shared, ("one", "one"), ("two", "two")]
    assert list_titles(runs[0], "target=none", f"retain={models['two']}") == [
        ("retain model", "two"), ("unlearned", "one"),
    ]  # fmt: skip
    assert list_titles(f"{runs[0]}/checkpoint") == [("one", "one")]
    assert list_titles(str(models["one"]), str(models["two"])) == [("one", "one"), ("two", "two")]


def test_what_a_run_recorded_of_its_models_is_asked(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", models, "one")
    weights = {"before": {"path": str(models["two"])}, "retain": {"path": str(tmp_path / "gone")}}
    (run / "evidence.json").write_text(json.dumps({"weights": weights}))
    assert list_titles(str(run))[:2] == [("target", "two"), ("retain model", "retain")]
    assert list_titles(str(run), "target=none", f"retain={models['target']}") == [
        ("retain model", "target"), ("unlearned", "one"),
    ]  # fmt: skip
    (run / "evidence.json").write_text("[]")
    assert list_titles(str(run))[0] == ("target", "target")
    assert "without" not in capsys.readouterr().out


def test_a_model_that_is_gone_is_left_out_and_said(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", models["target"], tmp_path / "gone")
    refused(lambda: list_titles(str(run)), "no checkpoint (status: done)")
    (run / "checkpoint").symlink_to(models["one"])
    capsys.readouterr()
    assert list_titles(str(run)) == [("target", "target"), ("unlearned", "one")]
    assert "without a retain model" in capsys.readouterr().out
    assert list_titles(str(run), "retain=none")[1:] == [("unlearned", "one")]
    assert capsys.readouterr().out == ""


def test_a_model_by_its_path_takes_the_words_of_its_config(models: dict[str, Path]) -> None:
    words = [str(models["one"]), "model=smollm2_135m", "model.dtype=bfloat16"]
    (asked,) = list_asked_models(parse_ask_words(words))
    assert (asked.run.model.name, asked.run.model.dtype) == ("smollm2_135m", "bfloat16")
    one = str(models["one"])
    for wrong, parts in {
        "model=smollm2": ("model=smollm2", "did you mean 'smollm2_135m'?"),
        "model.dtpe=x": ("model.dtpe", "did you mean 'model.dtype'?"),
        "model.dtype=float8": ("model.dtype=float8", "bfloat16"),
    }.items():
        asked_words = parse_ask_words([one, wrong])
        refused(functools.partial(list_asked_models, asked_words), *parts)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["{empty}", "Who is it?"], ("ask {empty}", "not a model")),
        (["{above}", "Who is it?"], ("ask {above}", "below it are run")),
        (["{run}", "model=tiny"], ("model=tiny", "a run has its model")),
        (["{run}", "target={empty}"], ("target={empty}", "not a model")),
        (["{run}", "target={empty}/x", "Who is it?"], ("target={empty}/x", "no such file")),
    ],
)
def test_what_is_no_model_is_refused_before_anything_is_loaded(
    words: list[str], parts: tuple[str, ...], models: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    run = make_run(tmp_path / "above" / "run", models, "one")
    places = {"empty": tmp_path / "empty", "run": run, "above": run.parent}
    assert run_command(["ask", *(word.format(**places) for word in words), "hardware=cpu"]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    for part in parts:
        assert part.format(**places) in line


@pytest.mark.slow
def test_a_run_knows_what_of_its_text_asking_left(models: dict[str, Path], tmp_path: Path) -> None:
    run = RunFolder(make_run(tmp_path / "run", models, "one"))
    run.evidence.write_text(json.dumps({"version": 1}))
    out = tmp_path / "answers.jsonl"
    words = ["ask", str(run.path), "Who is it?", f"out={out}", "max_new_tokens=2", "hardware=cpu"]
    assert run_command(words) == 0
    with keep_ledgers([run.ledger]), keep_history(on=True):
        pass
    kinds = {file.path.name: file.kind for file in list_private_files(run)}
    assert kinds == {"answers.jsonl": "other", "history.txt": "questions that were typed"}


@pytest.mark.slow
def test_a_run_that_evaluated_a_model_stands_for_that_model(
    models: dict[str, Path], tmp_path: Path
) -> None:
    words = [f"model.path={models['one']}", f"eval.retain_model={models['retain']}"]
    run = tmp_path / "evaluated"
    run.mkdir()
    (run / "run.yaml").write_text(dump_run_yaml(compose_run("evaluate", ["data=demo", *words])))
    before = {"weights": {"before": {"path": str(models["one"])}}}
    (run / "evidence.json").write_text(json.dumps(before))
    assert list_titles(str(run), "target=none") == [
        ("retain model", "retain"),
        ("unlearned", "one"),
    ]
