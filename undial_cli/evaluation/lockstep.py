"""Forwards of a sharded model in step: its layers are gathered by all processes together.

Which process has how many batches is known to nobody: decoding ends where the model ends it. So one
that is done runs along with the others until none has a batch left. Knows a model, and no engine.

Shapes: B rows, T tokens, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from undial_cli.evaluation.sharding import RUN_ALONG
from undial_cli.models.head import head_job
from undial_cli.models.shards import is_sharded_model
from undial_cli.system import processes


@contextlib.contextmanager
def forward_in_step(model: Any) -> Iterator[None]:
    """While open, all processes run a sharded model equally often, each on its own batches.

    Before each forward the processes tell each other who has a batch. One whose jobs are done
    (`sharding.shard_work`) runs along on one token that nobody looks at, until nobody has.
    """
    if processes.get_process_count() == 1 or not is_sharded_model(model):
        yield
        return
    ids_BT = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    runs_along = False

    def tell_others(*_: Any) -> None:
        if not runs_along:  # or it was told already
            processes.count_busy(True, model.device)

    @torch.no_grad()
    def run_along() -> None:
        nonlocal runs_along
        runs_along = True
        with head_job(model, lambda hidden_BTD, head: hidden_BTD[:, :1, :1]):
            while int(processes.count_busy(False, model.device)):
                model(input_ids=ids_BT, use_cache=False)
        runs_along = False

    # Before FSDP's own hook, which gathers: a process that is done must be told first.
    handle = model.register_forward_pre_hook(tell_others, prepend=True)
    token = RUN_ALONG.set(run_along)
    try:
        yield
    finally:
        RUN_ALONG.reset(token)
        handle.remove()
