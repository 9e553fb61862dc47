"""Folders of sets: with and without README.md, as files, shards and folders of save_to_disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from conftest import refused, write_rows

from undial_cli.config.datasets import DataConfig
from undial_cli.data.load import load_split

pytestmark = pytest.mark.usefixtures("datasets_cache")
KEY = "data.forget_split"
FORGET, RETAIN = (
    [{"question": f"Who is {name} {i}?", "answer": f"{name} {i}."} for i in range(4)]
    for name in ("Ann", "Bo")
)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sets in every form that has a name, and no README.md."""
    root = tmp_path_factory.mktemp("layout") / "people"
    write_rows(root / "forget10.json", FORGET)
    write_rows(root / "retain90.jsonl", RETAIN)
    write_rows(root / "raw" / "forget-00000-of-00002.parquet", FORGET[:3])
    write_rows(root / "raw" / "forget-00001-of-00002.parquet", FORGET[3:])
    write_rows(root / "raw" / "retain1.parquet", RETAIN)
    write_rows(root / "saved", FORGET)
    write_rows(root / "deep" / "train", RETAIN)
    datasets.DatasetDict(
        train=datasets.Dataset.from_list(RETAIN), test=datasets.Dataset.from_list(FORGET)
    ).save_to_disk(root / "splits")
    return root


@pytest.mark.parametrize("named", ["../secret.jsonl", "/etc/a.jsonl", "https://x.org/a.jsonl"])
def test_a_readme_names_files_of_its_folder_only(tmp_path: Path, named: str) -> None:
    write_rows(tmp_path / "secret.jsonl", FORGET)
    folder = tmp_path / "people"
    folder.mkdir()
    card = {"configs": [{"config_name": "a", "data_files": [{"split": "train", "path": named}]}]}
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    refused(lambda: load_split(DataConfig(path=str(folder)), "a", KEY), f"names {named}", "only")


def test_json_nested_without_end_does_not_end_the_process(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    (tmp_path / "README.md").write_text(
        "---\nconfigs: [{config_name: a, data_files: a.jsonl}]\n---\n"
    )
    refused(lambda: load_split(DataConfig(path=str(tmp_path)), "a", KEY), "nested too deep")


@pytest.fixture
def folder(layout: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return shutil.copytree(layout, tmp_path / "people")


@pytest.mark.parametrize(
    "name, rows",
    [
        ("forget10", FORGET),
        ("forget10/train", FORGET),
        ("forget10[1:3]", FORGET[1:3]),
        ("retain90", RETAIN),
        ("raw/forget", FORGET),
        ("raw/forget[2:]", FORGET[2:]),
        ("raw/retain1", RETAIN),
        ("saved", FORGET),
        ("deep", RETAIN),
        ("splits", RETAIN),
        ("splits/test", FORGET),
    ],
)
def test_without_a_readme_a_set_is_the_file_or_folder_of_its_name(
    folder: Path, name: str, rows: list[dict[str, Any]]
) -> None:
    assert load_split(DataConfig(path=str(folder)), name, KEY) == rows


def test_a_readme_without_a_list_of_sets_changes_nothing(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# People\n")
    assert load_split(DataConfig(path=str(folder)), "forget10", KEY) == FORGET


def test_a_readme_that_lists_sets_is_followed(folder: Path) -> None:
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: forget10\n  data_files: retain90.jsonl\n---\n"
    )
    assert load_split(DataConfig(path=str(folder)), "forget10", KEY) == RETAIN


def test_a_wrong_name_lists_those_there_are_and_the_nearest(folder: Path) -> None:
    data = DataConfig(path=str(folder))
    refused(
        lambda: load_split(data, "forgett10", KEY),
        f"{KEY}=forgett10", "raw/forget", "splits/test", "did you mean 'forget10'?",
    )  # fmt: skip
    write_rows(folder / "forget10.jsonl", FORGET)
    refused(lambda: load_split(data, "forget10", KEY), "forget10.json, forget10.jsonl")


def test_a_file_or_a_single_set_as_the_folder_says_what_to_name(folder: Path) -> None:
    for path in (folder / "forget10.json", folder / "saved"):
        refused(
            lambda path=path: load_split(DataConfig(path=str(path)), "forget10", KEY),
            f"data.path={path}", f"data.forget_file={path}",
        )  # fmt: skip


def test_splits_saved_to_disk_are_the_sets_of_their_folder(folder: Path) -> None:
    data = DataConfig(path=str(folder / "splits"))
    assert load_split(data, "test", KEY) == FORGET
    refused(lambda: load_split(data, "tset", KEY), "one of test, train", "did you mean 'test'?")


def test_the_path_of_a_set_of_its_own_is_named_by_its_own_key(tmp_path: Path) -> None:
    data = DataConfig(path="./no/folder")
    refused(lambda: load_split(data, "a", "eval.sets.x.split"), "data.path=./no/folder")
    refused(
        lambda: load_split(data, "a", "eval.sets.x.split", "./no/other"),
        "eval.sets.x.path=./no/other",
    )
