"""PDU's multiplier: moved by each step's retain loss after warm-up, used, saved and restored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import read_jsonl, write_qa
from run_helpers import SHORT, assert_equal, kill_in_the_middle, start, weights

from undial_cli.cli import run_command
from undial_cli.methods import make_method
from undial_cli.methods.pdu import PduConfig


def test_the_multiplier_follows_the_violation_after_warm_up_and_is_never_negative() -> None:
    config = PduConfig(name="pdu", alpha=2, dual_step=0.5, eps=0.3, dual_warmup_epochs=1)
    method, seen = make_method(config), []
    for epoch, retain in ((0.5, 9.0), (1.0, 9.0), (1.5, 1.3), (2.0, 0.1), (2.5, 0.3), (3, -99)):
        method.after_step({"forget": 7.0, "retain": retain}, epoch)
        seen.append(method.coefficient("retain"))
    assert seen == pytest.approx([2, 2, 2.5, 2.4, 2.4, 0])
    assert method.coefficient("forget") == 1
    again = make_method(config)
    again.load_state_dict(json.loads(json.dumps(make_method(config).state_dict())))
    assert again.coefficient("retain") == 2
    again.load_state_dict(method.state_dict())
    assert again.coefficient("retain") == 0


@pytest.mark.slow
def test_a_run_moves_the_multiplier_by_its_logged_retain_losses(
    random_model: Path, tmp_path: Path
) -> None:
    words = ["method=pdu", "method.alpha=4", "method.dual_step=0.7", "method.eps=6", "eval=none"]
    words += ["method.dual_warmup_epochs=1", "train.max_steps=5", "hardware.micro_batch_size=5"]
    rows = read_jsonl(start(random_model, tmp_path, *words) / "metrics.jsonl")
    expected, value = [], 4.0
    for row in rows:
        if row["epoch"] > 1:
            value = max(0.0, value + 0.7 * (row["retain_loss"] - 6))
        expected.append(value)
    assert expected[:2] == [4, 4]
    assert len(set(expected)) == 4
    assert [row["multiplier"] for row in rows] == pytest.approx(expected, rel=1e-12)
    for row, used in zip(rows, [4.0, *expected], strict=False):  # what the step minimised
        total = row["forget_loss"] + used * row["retain_loss"]
        assert row["loss"] == pytest.approx(total, rel=1e-6)


def last_weights(model: Path, out: Path, *words: str) -> dict[str, torch.Tensor]:
    """Where steps on all data at once lead."""
    files = [
        f"data.{name}_file={write_qa(out / f'{name}.jsonl', 4, first)}"
        for name, first in (("forget", 0), ("retain", 60))
    ]
    more = ["method.dual_warmup_epochs=0", "method.eps=1", "train.optim=sgd", "train.batch_size=4"]
    more += ["train.learning_rate=0.1", "train.warmup_steps=0", "train.max_grad_norm=0"]
    start(model, out, "data=jsonl", "eval=none", "method=pdu", *files, *more, *words)
    return weights(out / "unlearn" / "run")


@pytest.mark.slow
def test_a_step_is_taken_with_the_multiplier_that_the_step_before_left(
    random_model: Path, tmp_path: Path
) -> None:
    places = [tmp_path / name for name in ("both", "first", "second")]
    for place in places:
        place.mkdir()
    both = last_weights(random_model, places[0], "method.alpha=0.1", "train.max_steps=2")
    last_weights(random_model, places[1], "method.alpha=0.1", "train.max_steps=1")
    first = places[1] / "unlearn" / "run"
    (row,) = read_jsonl(first / "metrics.jsonl")
    assert row["multiplier"] > 1
    alpha = f"method.alpha={row['multiplier']}"
    second = last_weights(first / "checkpoint", places[2], alpha, "train.max_steps=1")
    for name, value in both.items():
        torch.testing.assert_close(second[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_multiplier(random_model: Path, tmp_path: Path) -> None:
    words = ["method=pdu", "method.alpha=4", "method.dual_warmup_epochs=0", "method.dual_step=0.1"]
    words += ["eval=none", "train.max_steps=40", "train.save_steps=2"]
    undisturbed = start(random_model, tmp_path / "calm", *words)
    out = tmp_path / "disturbed"
    command = ["unlearn", f"model.path={random_model}", f"eval.retain_model={random_model}",
               f"output_dir={out}", "name=run", *SHORT, *words]  # fmt: skip
    folder = out / "unlearn" / "run"
    kill_in_the_middle(command, folder / "resume", tmp_path)
    assert run_command(command) == 0
    assert_equal(undisturbed, folder)
    metrics = [read_jsonl(f / "metrics.jsonl") for f in (undisturbed, folder)]
    seen = [[row["multiplier"] for row in rows] for rows in metrics]
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 40
