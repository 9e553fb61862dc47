"""`undial schema`: every shipped file is valid by the schema of its kind, and faults are none."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from omegaconf import OmegaConf

from undial_cli.cli import run_command
from undial_cli.runs.commands.file_faults import ReadFile, list_faults, read_config_file
from undial_cli.runs.commands.file_kinds import FILE_KINDS, find_kind_of_folder
from undial_cli.runs.commands.json_schema import make_file_schema
from undial_cli.runs.compose import compose_run
from undial_cli.runs.hydra_configs import find_config_folder


@functools.cache
def make_validator(kind: str) -> Any:
    schema = json.loads(json.dumps(make_file_schema(FILE_KINDS[kind])))
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


def list_errors(kind: str, text: str) -> list[str]:
    """What the schema has against a file."""
    content = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    return [error.message for error in make_validator(kind).iter_errors(content)]


@pytest.mark.slow
def test_every_shipped_file_is_valid_and_has_no_fault() -> None:
    for file in find_config_folder().glob("*/**/*.yaml"):
        kind = find_kind_of_folder(file)
        assert (kind is None) == (file.parents[1].name == "hydra")
        if kind is not None:
            read = read_config_file(file)
            assert isinstance(read, ReadFile)
            assert list_faults(kind, file.stem, read) == [], file
            assert not [*make_validator(kind.name).iter_errors(read.content)], file


SHIPPED = {
    "method": "undial", "model": "llama1b", "eval": "tofu", "attack": "relearn",
    "table": "demo_focus", "experiment": "debug", "recipe/unlearn": "tiny", "tune": "npo",
}  # fmt: skip


@pytest.mark.parametrize("kind", SHIPPED)
def test_a_shipped_file_is_valid_and_one_with_a_misspelt_key_is_not(kind: str) -> None:
    text = (find_config_folder() / kind / f"{SHIPPED[kind]}.yaml").read_text("utf-8")
    assert list_errors(kind, text) == []
    errors = list_errors(kind, f"{text}\nnosuch_key: 3\n")
    assert errors
    assert all("nosuch_key" in error for error in errors)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("method", "name: undial\nbeta: 0.3\n"),  # another method's
        ("method", "name: npo\nbeta: many\n"),
        ("method", "name: npo\nalpha: -1\n"),
        ("method", "name: npo\nretain: grd\n"),
        ("method", "name: undial\nstrength: automatic\n"),
        ("method", "name: undail\n"),
        ("model", "template: {prompt: x, cat: true}\n"),
        ("model", "dtype: float33\n"),
        ("model", "targets: {tofu: {pth: x}}\n"),
        ("data", "max_length: 1.5\n"),
        ("data", "train_split: full\n"),
        ("eval", "sets: {forget: {role: forgett}}\n"),
        ("eval", "sets: {forget: {metrics: [3]}}\n"),
        ("attack", "kind: ask\nbudgets: {quik: {}}\n"),
        ("attack", "kind: ask\nbudgets: {quick: {rwos: 3}}\n"),
        ("attack", "kind: ask\nepochs: 3\n"),
        ("table", "rows: [{lable: a}]\n"),
        ("experiment", "train: {epoch: 3}\n"),
        ("experiment", "method: {strenght: 3}\n"),
    ],
)
def test_what_is_wrong_is_refused(kind: str, text: str) -> None:
    assert list_errors(kind, text)


def test_interpolations_and_null_are_valid() -> None:
    assert list_errors("data", "max_length: ${train.batch_size}\nlimit: null\nwhere: {}\n") == []
    assert list_errors("method", "name: undial\nstrength: auto\n") == []
    assert list_errors("eval", "sets: {forget: {split: [a, b], max_new_tokens: null}}\n") == []


def test_the_command_prints_it_and_the_line_for_editors_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["schema", "experiment"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["seed"] | {"default": 0} == schema["properties"]["seed"]
    assert "order" in schema["properties"]["seed"]["description"]
    file = tmp_path / "experiment" / "mine.yaml"
    file.parent.mkdir()
    line = "# yaml-language-server: $schema=../experiment.json\n"
    file.write_text(f"# @package _global_\n{line}seed: 3\n", "utf-8")
    assert compose_run("unlearn", ["experiment=mine"], str(tmp_path)).seed == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "expected a group"),
        (["methd"], "did you mean 'method'?"),
        (["method", "model"], "expected a group"),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["schema", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said
