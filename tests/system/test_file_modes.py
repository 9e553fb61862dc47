"""Who may read what a run leaves, and that a saved config is the one of its source."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_qa
from safetensors.torch import save_file

from undial_cli.cli import run_command
from undial_cli.evaluation import results
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.sharding import Journal
from undial_cli.system.files import (
    make_private_folder,
    whole_folder,
    write_whole_bytes,
    write_whole_text,
)
from undial_cli.system.private_files import append_private_text


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_follow_the_umask_and_private_ones_are_the_users_own(
    umask: int, tmp_path: Path
) -> None:
    write_whole_text(tmp_path / "run.yaml", "a")
    write_whole_bytes(tmp_path / "picture.png", b"a")
    assert mode(tmp_path / "run.yaml") == mode(tmp_path / "picture.png") == 0o666 & ~umask
    write_whole_text(tmp_path / "text", "a", private=True)
    for _ in range(2):
        append_private_text(tmp_path / "journal", "line\n")
    assert (tmp_path / "journal").read_text() == "line\nline\n"
    assert mode(tmp_path / "text") == mode(tmp_path / "journal") == 0o600
    assert mode(make_private_folder(tmp_path / "a" / "b")) == 0o700
    assert mode(tmp_path / "a") == 0o777 & ~umask


def test_weights_written_for_oneself_follow_the_umask_afterwards(
    umask: int, tmp_path: Path
) -> None:
    with whole_folder(tmp_path / "model") as unfinished:
        for folder in (unfinished, unfinished / "inner"):
            folder.mkdir()
            save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
            (folder / "model.safetensors").chmod(0o600)
            (folder / "config.json").write_text("{}")
    assert {mode(f) for f in (tmp_path / "model").rglob("*.*")} == {0o666 & ~umask}
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def cut_short(name: str) -> None:
        with whole_folder(tmp_path / "model") as unfinished:
            unfinished.mkdir()
            (unfinished / name).touch()
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cut_short("one")
    assert list(tmp_path.iterdir()) == []  # what is half done takes room and is of no use
    (tmp_path / ".model.unfinished").mkdir()  # of a process that was killed
    asked: list[int] = []

    def once(act: Callable[[], None]) -> None:
        asked.append(len(list(tmp_path.iterdir())))
        act()

    with whole_folder(tmp_path / "model", once) as unfinished:
        assert not unfinished.exists()
        unfinished.mkdir()
    assert asked == [1, 1]
    assert [f.name for f in tmp_path.iterdir()] == ["model"]


def test_samples_and_journals_are_private_and_figures_are_not(umask: int, tmp_path: Path) -> None:
    results.save_evaluation(
        tmp_path / "evaluation", Evaluation({"a": 1.0}, [{"set": "forget"}], {}), {}
    )
    assert mode(tmp_path / "evaluation" / "samples.jsonl") == 0o600
    assert mode(tmp_path / "evaluation" / "results.json") == 0o666 & ~umask
    Journal(tmp_path / "journal").add("generation-forget", {0: [1, 2]})
    assert [mode(f) for f in (tmp_path / "journal").iterdir()] == [0o600]
    assert Journal(tmp_path / "journal").read("generation-forget") == {0: [1, 2]}


def config_of(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "config.json").read_text())
    return {k: v for k, v in found.items() if k not in ("transformers_version", "dtype")}


@pytest.mark.parametrize("used, words", [
    (True, ["adapter=lora", "adapter.merge=true"]),
    pytest.param(False, ["adapter=none"], marks=pytest.mark.slow),
    pytest.param(
        True, ["train.activation_checkpointing=true", "train.packing=off"], marks=pytest.mark.slow
    ),
], ids=["merged", "full", "checkpointed"])  # fmt: skip
def test_a_checkpoint_is_readable_as_the_umask_says_and_its_config_is_the_sources(
    used: bool, words: list[str], random_model: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(random_model, source)
    shape = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(shape | {"use_cache": used}))
    forget = write_qa(tmp_path / "forget.jsonl", 4)
    before = os.umask(0o027)
    try:
        code = run_command(
            ["unlearn", "data=jsonl", f"data.forget_file={forget}", f"model.path={source}",
             "hardware=cpu", "eval=none", "report=false", "train.max_steps=1",
             f"output_dir={tmp_path}", "name=run", *words]
        )  # fmt: skip
    finally:
        os.umask(before)
    assert code == 0
    checkpoint = tmp_path / "unlearn" / "run" / "checkpoint"
    assert {mode(f) for f in checkpoint.iterdir()} == {0o640}
    assert config_of(checkpoint) == config_of(source)
    ours, theirs = (f / "generation_config.json" for f in (checkpoint, source))
    ignored = {"transformers_version": None}
    assert json.loads(ours.read_text()) | ignored == json.loads(theirs.read_text()) | ignored
