"""A training that meets a number that is none ends there, and keeps what was good."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import write_qa
from safetensors.torch import load_file

from undial_cli.cli import run_command
from undial_cli.training.states import list_states
from undial_cli.training.trainer import Diverged, check_finite_weights

# Its loss is 0; the gradient of the root at 0 is infinite, and 0 times that is NaN.
BROKEN = '''
from dataclasses import dataclass
from undial_cli.methods.base import Method, MethodConfig

@dataclass
class Config(MethodConfig):
    """Nothing to set."""

class Broken(Method):
    """Loss 0 with a gradient that is none."""

    def sum(self, targets):
        return (0 * targets.hidden_ND.float().sum()).sqrt()
'''


pytestmark = pytest.mark.usefixtures("forget_own_methods")


@pytest.fixture
def words(random_model: Path, tmp_path: Path) -> list[str]:
    """A short run on a random model."""
    rows = write_qa(tmp_path / "f.jsonl", 8)
    return ["unlearn", "data=jsonl", f"data.forget_file={rows}", f"model.path={random_model}",
            "hardware=cpu", "eval=none", "report=false", "train.batch_size=4", "name=run",
            f"output_dir={tmp_path / 'out'}"]  # fmt: skip


def ended(folder: Path) -> tuple[list[dict], str]:
    """The metrics of a run that failed, and the reason that it left."""
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "failed"
    assert not (folder / "checkpoint").exists()
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(row) for row in rows], status["reason"]


def test_the_first_step_that_is_not_finite_is_the_last_and_saved_weights_are_finite(
    words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hot = ["method=ga", "train.learning_rate=1e6", "train.max_steps=40", "train.save_steps=1"]
    assert run_command([*words, *hot]) == 1
    folder = tmp_path / "out" / "unlearn" / "run"
    rows, reason = ended(folder)
    *before, last = rows
    # Whether the loss is none before its gradient is depends on how a processor rounds.
    figures = {k: float(last[k]) for k in ("loss", "grad_norm")}
    assert not all(map(math.isfinite, figures.values()))
    assert all(math.isfinite(row[k]) for row in before for k in figures)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) < 40
    assert reason.startswith(f"training diverged at step {last['step']}: loss ")
    assert "NaN" in reason or "infinite" in reason
    assert "train.learning_rate" in reason
    states = list_states(folder / "resume")
    assert [step for step, _ in states] == [last["step"] - 1, last["step"] - 2][: len(before)]
    for _, saved in states:
        assert all(v.isfinite().all() for v in load_file(saved / "model.safetensors").values())
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert reason in err


# A step that is far too long.
HOT = ["train.learning_rate=0.3", "train.max_steps=12", "train.save_steps=1"]


def test_a_loss_that_explodes_ends_the_run(words: list[str], tmp_path: Path) -> None:
    assert run_command([*words, *HOT, "train.max_loss_rise=0.5"]) == 1
    rows, reason = ended(tmp_path / "out" / "unlearn" / "run")
    first, last = rows[0]["loss"], rows[-1]["step"]
    assert reason.startswith(f"training diverged at step {last}: loss ")
    assert reason.split("; ")[1].endswith("(train.max_loss_rise=0.5)")
    assert all(row["loss"] <= first + 0.5 * max(1, first) for row in rows[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["train.max_loss_rise=null", "method=pdu"])
def test_a_loss_without_a_bound_may_rise(words: list[str], setting: str, tmp_path: Path) -> None:
    others = write_qa(tmp_path / "others.jsonl", 4, first=8)
    unbounded = ["train.max_loss_rise=0.5", f"data.retain_file={others}", setting]
    assert run_command([*words, *HOT, *unbounded]) == 0


def test_a_gradient_that_is_none_ends_a_run_whose_loss_is_finite(
    words: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    unclipped = ["train.max_grad_norm=0", "train.logging_steps=5", "train.max_steps=10"]
    assert run_command([*words, f"method.file={file}", *unclipped]) == 1
    rows, reason = ended(tmp_path / "out" / "unlearn" / "run")
    assert [(row["step"], row["loss"], row["grad_norm"]) for row in rows] == [(1, 0.0, "nan")]
    assert reason.startswith("training diverged at step 1: loss 0, gradient norm NaN; try ")
    assert "train.max_grad_norm=1" in reason


def test_weights_that_a_step_broke_are_neither_saved_nor_a_checkpoint() -> None:
    model = torch.nn.Linear(2, 2)
    check_finite_weights(model, 1)
    for number in (math.nan, math.inf):
        with torch.no_grad():
            model.weight[0, 1] = number
        with pytest.raises(Diverged, match="diverged at step 7: its weights are NaN or infinite"):
            check_finite_weights(model, 7)
    model.weight.requires_grad_(False)  # what is not trained is not the training's fault
    check_finite_weights(model, 7)
