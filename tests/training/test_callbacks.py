"""What happens between steps: the log that a run resumes from, saving by the clock, figures."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState

from undial_cli.config.schema import UnlearnRun
from undial_cli.runs.compose import compose_run
from undial_cli.system import signals
from undial_cli.training.callbacks import (
    EventCallback,
    MetricsLog,
    PeriodicEvaluation,
    StateSaving,
    ends_on_checkpoint,
    log_checkpoint_figures,
    read_metrics,
)


class Bar:
    """A progress bar that notes what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def advance(self, count: int, note: str = "") -> None:
        self.notes += [note] * count


def state_at(step: int, **fields: Any) -> TrainerState:
    return TrainerState(global_step=step, max_steps=10, is_world_process_zero=True, **fields)


@pytest.fixture
def log(tmp_path: Path) -> MetricsLog:
    return MetricsLog(tmp_path / "metrics.jsonl", Bar())  # type: ignore[arg-type]


def test_a_line_that_was_cut_off_ends_the_metrics(log: MetricsLog) -> None:
    assert read_metrics(log.path) == []
    log.path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(log.path) == [{"step": 1, "loss": 2.0}]


def test_a_resumed_run_forgets_what_was_logged_after_its_state(log: MetricsLog) -> None:
    rows = [{"step": step, "loss": 1.0} for step in (0, 1, 2, 3)]
    log.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    log.on_train_begin(None, state_at(2), TrainerControl())
    assert read_metrics(log.path) == rows[:3]


def test_a_run_that_starts_over_forgets_what_it_measured_before_its_first_step(
    log: MetricsLog,
) -> None:
    log.path.write_text('{"step": 0, "forget_probability": 1.0}\n')
    log.on_train_begin(None, state_at(0), TrainerControl())
    assert read_metrics(log.path) == []


def test_a_logged_step_is_a_line_in_which_every_number_is_json(log: MetricsLog) -> None:
    log.on_log(None, state_at(4), None, {"loss": math.nan, "grad_norm": 0.5, "learning_rate": 1e-4})
    log.on_log(None, state_at(4), None, {"train_runtime": 1.0})
    log.on_log(None, state_at(4), None, None)
    assert read_metrics(log.path) == [{"step": 4, "loss": "nan", "grad_norm": 0.5, "lr": 1e-4}]


def test_only_the_main_process_writes_metrics(log: MetricsLog) -> None:
    other = TrainerState(global_step=1, is_world_process_zero=False)
    log.on_train_begin(None, other, None)
    log.on_log(None, other, None, {"loss": 1.0})
    assert not log.path.exists()


def test_the_bar_shows_the_latest_figures(log: MetricsLog) -> None:
    figures = {"loss": 1.25, "learning_rate": 1e-4, "tokens_per_second": 99.6}
    log.on_step_end(None, state_at(1), None)
    log.on_step_end(None, state_at(2, log_history=[figures]), None)
    log.on_step_end(None, state_at(3, log_history=[{"forget_rouge": 0.5}]), None)
    assert log.bar.notes == ["", "loss 1.2500  lr 1.0e-04  100 tok/s", ""]  # type: ignore[attr-defined]


def test_a_state_is_saved_when_time_has_passed_and_not_after_the_last_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    saving, saved = StateSaving(60), []
    for step, seconds in ((1, 30), (2, 40), (3, 50), (4, 20), (10, 100)):
        now[0] += seconds
        control = TrainerControl()
        saving.on_step_end(None, state_at(step), control)
        saved += [step] * control.should_save
    assert saved == [2, 4]


@pytest.fixture
def held() -> Iterator[None]:
    """A signal that is held back."""
    signals._state = signals.SignalState(signals.Answer.HOLD)
    signals.receive_signal(signal.SIGTERM, None)
    yield
    signals._state = signals.SignalState()


@pytest.mark.usefixtures("held")
def test_a_signal_has_the_state_of_the_step_saved_and_the_training_ended(capsys: Any) -> None:
    saving, control = StateSaving(None), TrainerControl()
    saving.on_step_end(None, state_at(3), control)
    assert (saving.sign, control.should_save, control.should_training_stop) == (
        signal.SIGTERM, True, True
    )  # fmt: skip
    assert capsys.readouterr().out == "SIGTERM: the state of step 3 is being saved\n"


@pytest.mark.usefixtures("held")
def test_a_signal_at_the_last_step_lets_the_training_end() -> None:
    """A state of it would be gone on from: after an early stop, with a step too many."""
    for step, stopped in ((10, False), (3, True)):
        saving, control = StateSaving(0), TrainerControl(should_training_stop=stopped)
        saving.on_step_end(None, state_at(step), control)
        assert saving.sign is None
        assert not control.should_save


def test_an_evaluation_on_the_way_is_logged_and_the_steps_own_figures_are_still_due() -> None:
    logged: list[dict[str, Any]] = []
    evaluation = PeriodicEvaluation(2, True, lambda: {"forget_rouge": 0.5})
    control = TrainerControl(should_log=True)

    def log(figures: dict[str, Any]) -> None:
        logged.append(figures)
        control.should_log = False  # as the Trainer's own does

    evaluation.log = log
    for step in (1, 2, 3, 4):
        evaluation.on_step_end(None, state_at(step), control)
    assert logged == [{"forget_rouge": 0.5}] * 2
    assert control.should_log


@pytest.mark.parametrize(
    ("every", "last", "stopped", "steps"),
    [
        (4, True, 11, [4, 8]),
        (5, True, 11, [5, 10]),
        (5, False, 11, [5]),
        (2, False, 6, [2, 4]),
        (2, True, 6, [2, 4, 6]),
    ],
)
def test_the_last_step_is_left_to_the_checkpoint_where_that_is_asked(
    every: int, last: bool, stopped: int, steps: list[int]
) -> None:
    """`stopped`: the step at which a callback before ends the training; 11: none does."""
    step, seen = 0, []
    evaluation = PeriodicEvaluation(every, last, lambda: seen.append(step) or {})
    for step in range(1, min(10, stopped) + 1):
        control = TrainerControl(should_training_stop=step == stopped)
        evaluation.on_step_end(None, state_at(step), control)
    assert seen == steps


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        (["train.eval_steps=2"], True),
        ([], False),
        (["train.eval_steps=2", "train.select=forget_rouge"], False),
        (["train.eval_steps=2", "train.report_to=[tensorboard]"], False),
    ],
)
def test_figures_end_on_the_checkpoint_unless_a_logger_or_a_choice_needs_them_in_training(
    words: list[str], ends: bool
) -> None:
    run = compose_run("unlearn", words)
    assert isinstance(run, UnlearnRun)
    assert ends_on_checkpoint(run.train) is ends


def test_a_checkpoints_figures_are_those_of_the_last_step_that_was_logged(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    log_checkpoint_figures(file, {"forget_rouge": 0.5})
    assert not file.exists()
    file.write_text('{"step": 1, "loss": 2.0}\n{"step": 7, "loss": 1.0}\n{"step": 7, "forg')
    for _ in range(2):  # a run that was broken off after it writes them again
        log_checkpoint_figures(file, {"forget_rouge": 0.5, "model_utility": math.nan})
    assert read_metrics(file)[2:] == [{"step": 7, "forget_rouge": 0.5, "model_utility": "nan"}]


def test_an_event_is_given_what_the_trainer_has_then() -> None:
    seen: list[Any] = []
    callback = EventCallback(on_train_begin=lambda model, **_: seen.append(model))
    callback.on_train_begin(None, state_at(0), TrainerControl(), model="wrapped")  # type: ignore[arg-type]
    callback.on_step_end(None, state_at(1), TrainerControl(), model="wrapped")  # type: ignore[arg-type]
    assert seen == ["wrapped"]
