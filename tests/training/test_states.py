"""States that a training goes on from: whole or not one, and the one before a damaged one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import refused
from steps import compose_cpu_run

from undial_cli.training.states import (
    SEAL_FILE,
    choose_state,
    find_damage,
    list_states,
    read_newest_step,
    remove_unsealed,
    seal_state,
)

FILES = ("model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json")


def save_state(resume: Path, step: int, sealed: bool = True) -> Path:
    """A state with files of other content at each step, one of them in a folder."""
    folder = resume / f"checkpoint-{step}"
    (folder / "part").mkdir(parents=True)
    for name in (*FILES, "part/0.distcp"):
        (folder / name).write_bytes(f"{name} {step}".encode() * 50)
    if sealed:
        seal_state(folder)
    return folder


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2])


def flip_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_newest_state_is_that_of_the_highest_step(tmp_path: Path) -> None:
    assert choose_state(tmp_path / "none") is None
    for step in (9, 10, 2):
        save_state(tmp_path, step)
    (tmp_path / "checkpoint-start").mkdir()
    (tmp_path / "start").mkdir()
    assert [step for step, _ in list_states(tmp_path)] == [10, 9, 2]
    assert choose_state(tmp_path) == (10, tmp_path / "checkpoint-10")


@pytest.mark.parametrize("name", [*FILES, "part/0.distcp", SEAL_FILE])
@pytest.mark.parametrize("harm", [cut_short, flip_bit, Path.unlink], ids=lambda f: f.__name__)
def test_a_state_of_which_any_file_is_damaged_is_left_out_by_name(
    name: str, harm: object, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before, newest = save_state(tmp_path, 4), save_state(tmp_path, 6)
    assert callable(harm)
    harm(newest / name)
    assert choose_state(tmp_path) == (4, before)
    (line,) = capsys.readouterr().out.splitlines()
    assert "step 6" in line
    assert name == SEAL_FILE or name in line
    assert not newest.exists()  # or the next state of this step would be written over it


def test_a_state_that_was_not_saved_to_its_end_is_none(tmp_path: Path) -> None:
    unfinished = save_state(tmp_path, 3, sealed=False)
    assert find_damage(unfinished) == "it was not saved to its end"
    assert read_newest_step(tmp_path) is None
    whole = save_state(tmp_path, 2)
    remove_unsealed(tmp_path)
    assert list_states(tmp_path) == [(2, whole)]
    shutil.rmtree(whole)
    for content in ("[]", "7", '"whole"', "{}", "{"):
        folder = save_state(tmp_path, 3, sealed=False)
        (folder / SEAL_FILE).write_text(content)
        assert choose_state(tmp_path) is None


def test_a_whole_state_is_left_as_it_is_and_may_be_moved(tmp_path: Path) -> None:
    folder = save_state(tmp_path / "resume", 3)
    shutil.move(tmp_path / "resume", tmp_path / "elsewhere")
    assert find_damage(tmp_path / "elsewhere" / folder.name) == ""
    assert read_newest_step(tmp_path / "elsewhere") == 3


def test_the_minutes_between_two_states_are_a_key_with_a_range() -> None:
    assert compose_cpu_run().train.save_minutes == 10
    assert compose_cpu_run("train.save_minutes=0.5").train.save_minutes == 0.5
    refused(lambda: compose_cpu_run("train.save_minutes=0"), "train.save_minutes=0", "> 0")
