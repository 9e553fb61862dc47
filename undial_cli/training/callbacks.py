"""What happens between training steps: metrics.jsonl, the progress bar, evaluation on the way."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from undial_cli import ui
from undial_cli.config.training import TrainConfig
from undial_cli.system import processes, signals
from undial_cli.system.files import parse_json, write_whole_text
from undial_cli.system.supervision import give_beat


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The objects of a metrics.jsonl; from a line that was cut off on, all are left out."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(parse_json(line))
        except ValueError:  # the process was ended while it wrote
            break
    return [row for row in rows if isinstance(row, dict)]


def write_metrics(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a metrics.jsonl whole or not at all."""
    write_whole_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def ends_on_checkpoint(train: TrainConfig) -> bool:
    """Whether the figures on the way end with the checkpoint's, and its weights are evaluated once.

    Loggers are closed before there are any, so with these the last step is evaluated by itself.
    """
    return bool(train.eval_steps) and train.select is None and not train.report_to


def log_checkpoint_figures(path: Path, figures: dict[str, Any]) -> None:
    """Append a checkpoint's figures to metrics.jsonl, once, as those of the last step in it."""
    rows = read_metrics(path)
    if rows:
        row = {"step": rows[-1]["step"], **{k: spell_non_finite(v) for k, v in figures.items()}}
        if row not in rows:
            write_metrics(path, [*rows, row])


class MetricsLog(TrainerCallback):
    """Appends one object per logged step to metrics.jsonl, moves the bar, tells the parent."""

    def __init__(self, path: Path, bar: ui.ProgressBar) -> None:
        self.path, self.bar = path, bar

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Forget what was logged after the step that the run resumes from."""
        if state.is_world_process_zero:
            done = state.global_step or -1  # who starts over measures step 0 again
            rows = [row for row in read_metrics(self.path) if row["step"] <= done]
            write_metrics(self.path, rows)

    def on_log(
        self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any
    ) -> None:
        """Write the step's figures."""
        # With `train_runtime` it is the Trainer's summary at the end, of no step.
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        row = {"step": state.global_step, **{k: spell_non_finite(v) for k, v in logs.items()}}
        if "learning_rate" in row:
            row["lr"] = row.pop("learning_rate")
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Show the latest logged figures on the bar."""
        last = state.log_history[-1] if state.log_history else {}
        note = ""
        if "loss" in last:
            note = (
                f"loss {last['loss']:.4f}  lr {last.get('learning_rate', 0):.1e}  "
                f"{last.get('tokens_per_second', 0):.0f} tok/s"
            )
        self.bar.advance(1, note)
        give_beat("training", state.global_step)


def spell_non_finite(value: Any) -> Any:
    """NaN and infinities as text: JSON has no number for them."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def is_last_step(state: TrainerState, control: TrainerControl) -> bool:
    """Whether no step follows: the schedule is done, or a callback has ended the training."""
    return control.should_training_stop or state.global_step >= state.max_steps


class LastStepLog(TrainerCallback):
    """Has the last step logged, whatever train.logging_steps is; after those that may end it."""

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        control.should_log |= is_last_step(state, control)


class EventCallback(TrainerCallback):
    """Does something at the Trainer's events of these names, given what the Trainer has then."""

    def __init__(self, **acts: Callable[..., None]) -> None:
        for event, act in acts.items():
            setattr(self, event, lambda args, state, control, act=act, **given: act(**given))


class StateSaving(TrainerCallback):
    """Has the state to resume from saved: after a while, again and again, and at a signal.

    By the clock, for small models would spend more time on saving every epoch than on training;
    the main process's decides for all, and a signal to any of them ends them all. The last of the
    callbacks: of a step that another one makes the last, the checkpoint is the state.

    Args:
        seconds: None: only at a signal.

    `sign`: the signal that ended the training.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds, self.last = seconds, time.monotonic()
        self.sign: signal.Signals | None = None

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        due = self.seconds is not None and time.monotonic() - self.last >= self.seconds
        # Saving is an exchange between processes, in which all must take part at the same step.
        wishes = processes.gather_items([(due, signals.get_held_signal())])
        if is_last_step(state, control):
            return
        self.sign = next((sign for _, sign in wishes if sign is not None), None)
        if wishes[0][0] or self.sign is not None:
            control.should_save = True
            self.last = time.monotonic()
        if self.sign is not None:
            ui.say(f"{self.sign.name}: the state of step {state.global_step} is being saved")
            control.should_training_stop = True


class Watcher(TrainerCallback):
    """Asks for figures of a model in training and logs them; training is left as it was.

    `log`, `save_model`: the trainer's, once it is there.
    """

    def __init__(self, ask: Callable[..., Any]) -> None:
        self.ask = ask
        self.log: Callable[[dict[str, Any]], None] = lambda figures: None
        self.save_model: Callable[[str], None] = lambda folder: None

    def figures(self, control: TrainerControl) -> dict[str, Any]:
        """What is asked for, logged."""
        figures = self.ask()
        self.log_figures(control, figures)
        return figures

    def log_figures(self, control: TrainerControl, figures: dict[str, Any]) -> None:
        """Log figures between two steps."""
        due = control.should_log
        self.log(figures)
        control.should_log = due  # logging clears it, and the step's own figures are due yet


class PeriodicEvaluation(Watcher):
    """Evaluates every N steps; after the callbacks that may end the training.

    Args:
        last: the last step, too. Its weights are evaluated once more as the checkpoint.
    """

    def __init__(self, every: int, last: bool, ask: Callable[[], dict[str, Any]]) -> None:
        super().__init__(ask)
        self.every, self.last = every, last

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step % self.every == 0 and (self.last or not is_last_step(state, control)):
            self.figures(control)
