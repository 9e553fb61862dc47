"""Weights that may be chosen stay on the disk, for every state that a run may go on from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_selection import make_selection
from transformers import TrainerControl, TrainerState

from undial_cli.errors import WorldError
from undial_cli.training.best_weights import BestWeights, copy_weights
from undial_cli.training.selection import StepRow


def make_watcher(folder: Path, figures: dict[int, float], keep: str = "best") -> BestWeights:
    """One that finds these figures at their steps; weights are a file that says the step."""
    selection = dataclasses.replace(make_selection("retain_probability"), keep=keep)
    step = [0]

    def ask(asked: int) -> Any:
        step[0] = asked
        return {"selection": figures[asked]}, StepRow(asked, figures[asked])

    def save(to: str) -> None:
        Path(to).mkdir(parents=True)
        save_file({"w": torch.tensor([float(step[0])])}, Path(to) / "model.safetensors")

    model = SimpleNamespace(config=SimpleNamespace(use_cache=True))
    watcher = BestWeights(2, selection, folder, model, lambda unfinished: None, ask)
    watcher.save_model = save
    return watcher


def train(watcher: BestWeights, start: int, end: int, last: int = 12) -> None:
    """The steps from one that it goes on from."""
    state = TrainerState(global_step=start, max_steps=last)
    watcher.on_train_begin(None, state, None)
    for state.global_step in range(start + 1, end + 1):
        watcher.on_step_end(None, state, TrainerControl())


def list_steps(watcher: BestWeights) -> list[int]:
    return sorted(step for step, _ in watcher.list_weights())


FIGURES = {2: 0.4, 4: 0.6, 6: 0.5, 8: 0.9, 10: 0.7, 12: 0.8, 7: 0.1}


def test_only_the_best_weights_are_kept_and_they_are_the_checkpoint(tmp_path: Path) -> None:
    watcher = make_watcher(tmp_path, FIGURES)
    train(watcher, 0, 12)
    assert list_steps(watcher) == [8]
    chosen = watcher.find_chosen_weights()
    assert chosen is not None
    copy_weights(chosen, tmp_path / "checkpoint")
    assert sorted(f.name for f in (tmp_path / "checkpoint").iterdir()) == ["model.safetensors"]
    assert load_file(tmp_path / "checkpoint" / "model.safetensors")["w"].tolist() == [8.0]
    record = watcher.make_record()
    assert (record["step"], record["saved_step"], record["last_step"]) == (8, 8, 12)
    assert [row["step"] for row in record["steps"]] == [0, 2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("state", [4, 6, 8, 9])
def test_a_run_that_goes_on_from_an_earlier_state_chooses_as_if_undisturbed(
    state: int, tmp_path: Path
) -> None:
    """Killed after step 10, when the best of step 8 had taken the place of that of step 4."""
    calm, killed = (make_watcher(tmp_path / name, FIGURES) for name in ("calm", "killed"))
    train(calm, 0, 12)
    (killed.resume / f"checkpoint-{state}").mkdir(parents=True)
    train(killed, 0, 10)
    assert list_steps(killed) == ([4, 8] if state < 8 else [8])
    worse = {**FIGURES, 8: 0.55} if state < 8 else FIGURES  # as another machine may round
    resumed = make_watcher(tmp_path / "killed", worse)
    train(resumed, state, 12)
    if state >= 8:
        assert resumed.rows == calm.rows
        assert resumed.make_record() == calm.make_record()
        assert resumed.find_chosen_weights() == resumed.locate_weights(8)
    assert resumed.choose() == (StepRow(12, 0.8) if state < 8 else StepRow(8, 0.9))
    assert list_steps(resumed)[-1] == (12 if state < 8 else 8)


def test_all_weights_are_kept_where_they_are_wanted_and_none_where_the_last_are(
    tmp_path: Path,
) -> None:
    every = make_watcher(tmp_path / "all", FIGURES, "all")
    train(every, 0, 12)
    assert list_steps(every) == [2, 4, 6, 8, 10, 12]
    assert every.find_chosen_weights() == tmp_path / "all" / "checkpoints" / "step-8"
    last = make_watcher(tmp_path / "last", FIGURES, "last")
    train(last, 0, 12)
    assert list_steps(last) == []
    assert last.find_chosen_weights() is None
    record = last.make_record()
    assert (record["step"], record["saved_step"]) == (8, 12)


def test_the_last_step_is_evaluated_whatever_makes_it_the_last(tmp_path: Path) -> None:
    watcher = make_watcher(tmp_path, FIGURES)
    train(watcher, 0, 7, last=7)
    assert [row.step for row in watcher.rows] == [0, 2, 4, 6, 7]
    stopped = make_watcher(tmp_path / "stopped", {5: 1.0})
    stopped.on_train_begin(None, TrainerState(global_step=0, max_steps=9), None)
    state = TrainerState(global_step=5, max_steps=9)
    stopped.on_step_end(None, state, TrainerControl(should_training_stop=True))
    assert stopped.choose() == StepRow(5, 1.0)
    assert stopped.find_chosen_weights() is None  # they are in memory


def test_damaged_weights_are_not_chosen_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher = make_watcher(tmp_path, FIGURES)
    (watcher.resume / "checkpoint-9").mkdir(parents=True)
    train(watcher, 0, 10)
    file = watcher.locate_weights(8) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(WorldError, match=r"model\.safetensors has"):
        watcher.find_chosen_weights()
    resumed = make_watcher(tmp_path, FIGURES)
    train(resumed, 9, 12)
    assert "the weights of step 8 are left out" in capsys.readouterr().out
    assert resumed.choose() == StepRow(12, 0.8)
