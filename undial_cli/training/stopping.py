"""Early stop: when general text has become too unlikely, or the forget set unlikely enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState

from undial_cli import ui
from undial_cli.config.training import StopConfig
from undial_cli.data.example import Example
from undial_cli.evaluation.lockstep import forward_in_step
from undial_cli.evaluation.scoring import Score, score_answers
from undial_cli.models.head import evaluation_mode
from undial_cli.training.callbacks import Watcher, read_metrics

VALIDATION_PERPLEXITY, FORGET_PROBABILITY = "validation_perplexity", "forget_probability"
MeasureFigures = Callable[[], dict[str, float]]


def measure_stop_figures(
    model: Any,
    stop: StopConfig,
    texts: Sequence[Example],
    forget: Sequence[Example],
    batch_size: int,
) -> dict[str, float]:
    """The figures that decide, on a model in training; shared over processes.

    Perplexity is the exponential of the mean over texts of their mean token loss, probability the
    mean over answers of the exponential of minus theirs.
    """
    figures = {}

    def scores(examples: Sequence[Example]) -> list[Score]:
        return [s for (s,) in score_answers(model, [[e] for e in examples], batch_size, 0)]

    with evaluation_mode(model), forward_in_step(model):
        if stop.perplexity_ratio is not None:
            losses = [s.ce for s in scores(texts)]
            # 700: a model that is ruined must stop the run, not overflow.
            figures[VALIDATION_PERPLEXITY] = math.exp(min(sum(losses) / len(losses), 700))
        if stop.forget_probability is not None:
            chances = [math.exp(-s.ce) for s in scores(forget)]
            figures[FORGET_PROBABILITY] = sum(chances) / len(chances)
    return figures


class EarlyStop(Watcher):
    """Ends the training once a figure has passed its bound, but not within the first epoch.

    The weights are kept as they are then. What the figures were at the start is in metrics.jsonl,
    also for a run that is resumed.
    """

    def __init__(
        self, stop: StopConfig, steps_per_epoch: int, metrics: Path, ask: MeasureFigures
    ) -> None:
        super().__init__(ask)
        self.stop, self.steps_per_epoch, self.metrics = stop, steps_per_epoch, metrics
        self.start: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.global_step == 0:
            self.start = self.ask()
            self.log(self.start)
        else:
            rows = read_metrics(self.metrics)
            self.start = next(
                (r for r in rows if VALIDATION_PERPLEXITY in r or FORGET_PROBABILITY in r), {}
            )

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step % self.stop.every or state.global_step < self.steps_per_epoch:
            return
        figures = self.figures(control)
        reason = self.reason(figures)
        if reason:
            ui.say(f"stopped at step {state.global_step}: {reason}")
            control.should_training_stop = True

    def reason(self, figures: dict[str, float]) -> str:
        """Which bound is passed, in words."""
        ratio, level = self.stop.perplexity_ratio, self.stop.forget_probability
        if ratio is not None:
            now, start = figures[VALIDATION_PERPLEXITY], self.start[VALIDATION_PERPLEXITY]
            if not now <= ratio * start:  # NaN is no perplexity to go on with
                return (
                    f"validation perplexity {now:.2f} is above {ratio:g} x its start, {start:.2f}"
                )
        if level is not None and figures[FORGET_PROBABILITY] <= level:
            now = figures[FORGET_PROBABILITY]
            return f"the forget set's mean probability {now:.3f} is at most {level:g}"
        return ""
