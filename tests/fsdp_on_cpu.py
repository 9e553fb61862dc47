"""`undial` under FSDP2 on CPU processes, one run after another: `fsdp_on_cpu.py WORDS -- WORDS`.

Run in several processes by test_fsdp.py and others. accelerate takes DistributedDataParallel on a
CPU even where FSDP is asked for; here it is told that FSDP is meant. A run fails unless the trained
model was really sharded, and what several processes evaluate too. With KILL_AFTER=N in the
environment each process kills itself after N steps of its runs together.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from typing import Any

from accelerate import state
from accelerate.utils import DistributedType

from undial_cli import cli
from undial_cli.evaluation.evaluate import evaluate_parts, evaluate_suite
from undial_cli.models.shards import is_sharded_model
from undial_cli.runs import evaluations
from undial_cli.system import processes
from undial_cli.training import loop, selection, session
from undial_cli.training.trainer import UnlearningTrainer

set_up = state.AcceleratorState.__init__
check_finite = loop.check_finite_weights
run_one = cli.run_command
end_step = UnlearningTrainer.end_step
steps = itertools.count(1)


def set_up_fsdp(self: Any, *words: Any, **keys: Any) -> None:
    """The accelerator's state, with FSDP where a plugin for it is given."""
    set_up(self, *words, **keys)
    if keys.get("fsdp_plugin") is not None:
        if self._mixed_precision != "no":  # as where accelerate takes FSDP by itself
            keys["fsdp_plugin"].set_mixed_precision(self._mixed_precision)
        for shared in (self._shared_state, state.PartialState._shared_state):
            shared["distributed_type"] = DistributedType.FSDP
        self._shared_state["fsdp_plugin"] = keys["fsdp_plugin"]


def check_sharded(model: Any, *words: Any) -> None:
    """The trainer's own check, and that the model was wrapped by FSDP."""
    is_zero3 = all(hasattr(p, "ds_tensor") and not p.numel() for p in model.parameters())
    is_zero2 = getattr(state.AcceleratorState(), "deepspeed_plugin", None) is not None and (
        state.AcceleratorState().deepspeed_plugin.zero_stage == 2
    )
    assert is_zero3 or is_zero2 or type(model).__name__.startswith("FSDP"), type(model)
    check_finite(model, *words)


def check_evaluated(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """An evaluation, and that each of several processes holds a part of the model only."""

    def evaluate_sharded(model: Any, *words: Any, **keys: Any) -> Any:
        assert is_sharded_model(model) or processes.get_process_count() == 1
        return evaluate(model, *words, **keys)

    return evaluate_sharded


def end_step_and_die(self: UnlearningTrainer) -> None:
    """The trainer's own end of a step, and after the last of them the end of this process."""
    end_step(self)
    if next(steps) == int(os.environ["KILL_AFTER"]):
        os.kill(os.getpid(), signal.SIGKILL)


def run_commands(argv: list[str]) -> int:
    """Run the commands that `--` separates, up to the first that fails; returns its exit code."""
    groups = itertools.groupby(argv, lambda word: word == "--")
    codes = (run_one(list(words)) for is_separator, words in groups if not is_separator)
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    state.AcceleratorState.__init__ = set_up_fsdp
    loop.check_finite_weights = check_sharded
    for asking in (session, selection):
        asking.evaluate_suite = check_evaluated(evaluate_suite)
    evaluations.evaluate_parts = check_evaluated(evaluate_parts)
    cli.run_command = run_commands
    if "KILL_AFTER" in os.environ:
        UnlearningTrainer.end_step = end_step_and_die
    cli.main()
