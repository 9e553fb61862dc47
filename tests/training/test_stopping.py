"""Early stop: what is measured, when it ends a run, and that a resumed run knows its start."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_jsonl, write_qa
from run_helpers import SHORT, assert_equal, kill_in_the_middle, start
from small import random_llama
from transformers import TrainerControl, TrainerState

from undial_cli.cli import run_command
from undial_cli.config.training import StopConfig
from undial_cli.data.encode import IGNORE, Example
from undial_cli.losses import cross_entropy_loss
from undial_cli.training.stopping import (
    FORGET_PROBABILITY,
    VALIDATION_PERPLEXITY,
    EarlyStop,
    measure_stop_figures,
)

TEXTS = [Example([1, *range(5, 5 + n)], [1, *range(5, 5 + n)], n + 1) for n in (4, 9, 6)]
ANSWERS = [Example([1, 7, 9, 4 + i], [IGNORE, IGNORE, 9, 4 + i], 4) for i in range(5)]


@torch.no_grad()
def losses(model: Any, examples: list[Example]) -> list[float]:
    """The mean cross entropy of each example's targets, from full logits."""
    logits = [model(input_ids=torch.tensor([e.input_ids])).logits for e in examples]
    labels = [torch.tensor([e.labels]) for e in examples]
    return [float(cross_entropy_loss(x, y)) for x, y in zip(logits, labels, strict=True)]


def test_figures_are_means_over_texts_and_answers_and_the_model_stays_in_training() -> None:
    model = random_llama(dtype=torch.float64)
    texts, answers = losses(model, TEXTS), losses(model, ANSWERS)
    model.train()
    found = measure_stop_figures(model, StopConfig(1.03, 0.2), TEXTS, ANSWERS, batch_size=2)
    assert found == pytest.approx({
        VALIDATION_PERPLEXITY: math.exp(sum(texts) / 3),
        FORGET_PROBABILITY: sum(math.exp(-x) for x in answers) / 5,
    }, rel=1e-9)  # fmt: skip
    assert all(module.training for module in model.modules())
    assert not any(p.grad is not None for p in model.parameters())
    assert measure_stop_figures(model, StopConfig(1.03), TEXTS, [], 2).keys() == {
        VALIDATION_PERPLEXITY
    }
    assert measure_stop_figures(model, StopConfig(None, 0.2), [], ANSWERS, 2).keys() == {
        FORGET_PROBABILITY
    }


def steps(stop: StopConfig, figures: Callable[[int], dict[str, float]], epoch: int) -> list[int]:
    """The steps of ten after which a run would end."""
    state, found = TrainerState(), []
    callback = EarlyStop(stop, epoch, Path("nowhere"), lambda: figures(state.global_step))
    callback.on_train_begin(None, state, TrainerControl())
    for step in range(1, 11):
        state.global_step, control = step, TrainerControl()
        callback.on_step_end(None, state, control)
        found += [step] * control.should_training_stop
    return found


@pytest.mark.parametrize(
    "stop, figures, epoch, expected",
    [
        (StopConfig(1.5, every=1), lambda n: {VALIDATION_PERPLEXITY: 10 + n}, 3, [6, 7, 8, 9, 10]),
        (StopConfig(1.5, every=1), lambda n: {VALIDATION_PERPLEXITY: 10.0 + n}, 9, [9, 10]),
        (StopConfig(1.5, every=4), lambda n: {VALIDATION_PERPLEXITY: 10.0 + n}, 3, [8]),
        (StopConfig(1.5, every=1), lambda n: {VALIDATION_PERPLEXITY: 10.0 - n}, 1, []),
        (StopConfig(1.5, every=5), lambda n: {VALIDATION_PERPLEXITY: [1, math.nan][n > 0]}, 1,
         [5, 10]),
        (StopConfig(None, 0.7, every=1), lambda n: {FORGET_PROBABILITY: n / 20}, 8, [8, 9, 10]),
        (StopConfig(None, 0.5, every=2), lambda n: {FORGET_PROBABILITY: 1 - n / 10}, 1, [6, 8, 10]),
        (StopConfig(None, 0.5, every=3), lambda n: {FORGET_PROBABILITY: 1 - n / 10}, 8, [9]),
        (StopConfig(None, 0.0, every=2), lambda n: {FORGET_PROBABILITY: 0.1}, 1, []),
        (
            StopConfig(1.5, 0.2, every=1),
            lambda n: {VALIDATION_PERPLEXITY: 10.0 + n, FORGET_PROBABILITY: 0.1 if n == 2 else 1},
            1, [2, 6, 7, 8, 9, 10],
        ),
    ],
)  # fmt: skip
def test_a_run_ends_past_its_bound_when_checked_and_not_within_an_epoch(
    stop: StopConfig, figures: Any, epoch: int, expected: list[int]
) -> None:
    assert steps(stop, figures, epoch) == expected


def test_a_resumed_run_compares_with_the_figures_it_started_with(tmp_path: Path) -> None:
    rows = [
        {"step": 0, VALIDATION_PERPLEXITY: 10.0},
        {"step": 1, "loss": 2.0},
        {"step": 2, VALIDATION_PERPLEXITY: 14.0},
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo')
    callback = EarlyStop(StopConfig(1.5, every=1), 1, file, lambda: {VALIDATION_PERPLEXITY: 15.5})
    logged: list[dict] = []
    callback.log = logged.append
    state, control = TrainerState(), TrainerControl(should_log=True)
    state.global_step = 2
    callback.on_train_begin(None, state, control)  # type: ignore[arg-type]
    assert (callback.start[VALIDATION_PERPLEXITY], logged) == (10, [])
    state.global_step = 3
    callback.on_step_end(None, state, control)  # type: ignore[arg-type]
    assert control.should_training_stop
    assert control.should_log  # the step's own figures are due yet
    assert logged == [{VALIDATION_PERPLEXITY: 15.5}]


def words_of(folder: Path) -> list[str]:
    """A run of three steps an epoch on files of its own."""
    folder.mkdir(exist_ok=True)
    forget = write_qa(folder / "forget.jsonl", 5)
    texts = folder / "texts.jsonl"
    texts.write_text(
        "".join(json.dumps({"text": f"the {i} river keeps on " * 9}) + "\n" for i in range(4))
    )
    return ["data=jsonl", f"data.forget_file={forget}", "eval=none", "train.batch_size=2",
            "method=ga", "train.warmup_steps=0", "train.stop.every=1", "train.max_steps=7",
            "train.stop.tokens=8", f"train.stop.split={texts}"]  # fmt: skip


@pytest.mark.slow
def test_a_stopped_run_is_done_and_its_weights_are_those_of_that_step(
    random_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = words_of(tmp_path / "files")
    bounds = ["train.stop.forget_probability=1", "train.stop.perplexity_ratio=1e9"]
    stopped = start(random_model, tmp_path / "stopped", *words, *bounds)
    assert "stopped at step 3: the forget set's mean probability" in capfd.readouterr().out
    short = start(random_model, tmp_path / "short", *words, "train.max_steps=3")
    assert_equal(short, stopped)
    rows = read_jsonl(stopped / "metrics.jsonl")
    assert [r["step"] for r in rows if FORGET_PROBABILITY in r] == [0, 3]
    assert [r["step"] for r in rows if VALIDATION_PERPLEXITY in r] == [0, 3]
    assert [r["step"] for r in rows if "loss" in r] == [1, 2, 3]
    assert json.loads((stopped / "status.json").read_text())["status"] == "done"
    assert not any(VALIDATION_PERPLEXITY in r for r in read_jsonl(short / "metrics.jsonl"))


@pytest.mark.slow
def test_perplexity_ends_a_run_and_a_killed_one_at_the_same_step(
    random_model: Path, tmp_path: Path
) -> None:
    words = words_of(tmp_path / "files")
    words += ["train.max_steps=90", "train.learning_rate=3e-4", "train.save_steps=2"]
    words += ["train.stop.perplexity_ratio=1.2"]
    calm = start(random_model, tmp_path / "calm", *words)
    rows = [r for r in read_jsonl(calm / "metrics.jsonl") if VALIDATION_PERPLEXITY in r]
    last = rows[-1]["step"]
    assert 6 < last < 90
    bound = 1.2 * rows[0][VALIDATION_PERPLEXITY]
    assert [r[VALIDATION_PERPLEXITY] > bound for r in rows[1:]] == [False] * (len(rows) - 2) + [
        True
    ]
    out = tmp_path / "disturbed"
    command = ["unlearn", f"model.path={random_model}", f"eval.retain_model={random_model}",
               f"output_dir={out}", "name=run", *SHORT, *words]  # fmt: skip
    folder = out / "unlearn" / "run"
    kill_in_the_middle(command, folder / "resume", tmp_path)
    assert run_command(command) == 0
    assert_equal(calm, folder)
    again = [r for r in read_jsonl(folder / "metrics.jsonl") if VALIDATION_PERPLEXITY in r]
    assert [(r["step"], r[VALIDATION_PERPLEXITY]) for r in again] == [
        (r["step"], r[VALIDATION_PERPLEXITY]) for r in rows
    ]
