"""Room on the disk: how many weights lie there to be chosen from."""

from __future__ import annotations

import pytest

from undial_cli.config.schema import TrainingRun
from undial_cli.planning.room import MOST_BEST, count_kept_weights
from undial_cli.runs.compose import compose_run

CHOOSES = ["train.select=forget_rouge", "train.eval_steps=4", "train.batch_size=5"]


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["train.eval_steps=4"], 0),
        ([*CHOOSES, "train.keep=last"], 0),
        (CHOOSES, MOST_BEST),
        ([*CHOOSES, "train.keep=all", "train.max_steps=10"], 3),  # after 4, 8 and 10
        ([*CHOOSES, "train.keep=all", "train.epochs=2"], 2),  # 8 steps: 17 samples are 4
    ],
)
def test_weights_to_choose_from_are_counted(words: list[str], count: int) -> None:
    run = compose_run("unlearn", words)
    assert isinstance(run, TrainingRun)
    assert count_kept_weights(run, samples=17) == count
