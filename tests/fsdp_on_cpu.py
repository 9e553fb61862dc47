"""`undial` under FSDP2 on CPU processes: run by torchrun from test_distributed.py.

accelerate takes DistributedDataParallel on a CPU even where FSDP is asked for; here it is told
that FSDP is meant. The run fails unless the trained model was really sharded.
"""

from __future__ import annotations

from typing import Any

from accelerate import state
from accelerate.utils import DistributedType

from undial_cli.cli import main
from undial_cli.training import loop

set_up = state.AcceleratorState.__init__
check_finite = loop.check_finite_weights


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
    assert type(model).__name__.startswith("FSDP"), type(model)
    check_finite(model, *words)


if __name__ == "__main__":
    state.AcceleratorState.__init__ = set_up_fsdp
    loop.check_finite_weights = check_sharded
    main()
