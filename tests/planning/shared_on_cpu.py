"""`undial` on CPU processes, and what each of them takes and sends in its second step.

Run by torchrun from test_sharing.py: `shared_on_cpu.py FOLDER WORDS`; each process leaves
`FOLDER/RANK.json`.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from accelerate import state
from fsdp_on_cpu import set_up_fsdp
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from undial_cli.cli import main
from undial_cli.training import session
from undial_cli.training.trainer import UnlearningTrainer


class StepWatch(TorchDispatchMode):
    """What a process sends in a ring, and the tensors that it holds.

    The sizes of all storages are added up at every operation: FSDP empties some of them by hand.
    """

    def __init__(self, processes: int) -> None:
        super().__init__()
        self.processes, self.sent, self.peak = processes, 0.0, 0
        self.alive: dict[int, weakref.ref] = {}

    def hold_all(self) -> None:
        """Take in what is there already."""
        tensors = [x for x in gc.get_objects() if isinstance(x, torch.Tensor)]
        for tensor in tensors:
            self.hold(tensor._local_tensor if isinstance(tensor, DTensor) else tensor)
        self.look()

    def hold(self, tensor: torch.Tensor) -> None:
        """Take in a tensor's storage."""
        storage = tensor.untyped_storage()
        self.alive[id(storage)] = weakref.ref(storage)

    def look(self) -> None:
        """Note the level, if it is the highest so far."""
        storages = {key: ref() for key, ref in self.alive.items()}
        self.alive = {key: self.alive[key] for key, s in storages.items() if s is not None}
        self.peak = max(self.peak, sum(s.nbytes() for s in storages.values() if s is not None))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        space, _, name = func._schema.name.partition("::")
        if space == "c10d":
            others = self.processes - 1
            given, share = {
                "_allgather_base_": (args[1:2], others),
                "_reduce_scatter_base_": (args[1:2], others / self.processes),
                "allreduce_": (args[:1], 2 * others / self.processes),
            }.get(name, ((), 0))
            tensors = [x for x in tree_leaves(given) if isinstance(x, torch.Tensor)]
            self.sent += share * sum(x.nbytes for x in tensors)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.hold(tensor)
        self.look()
        return result


if __name__ == "__main__":
    state.AcceleratorState.__init__ = set_up_fsdp
    folder = Path(sys.argv.pop(1))
    watch = StepWatch(int(os.environ["WORLD_SIZE"]))
    step, run_training = UnlearningTrainer.training_step, session.run_training

    def watch_step(self: Any, *words: Any, **keys: Any) -> Any:
        if self.state.global_step != 1:
            return step(self, *words, **keys)
        watch.hold_all()
        with watch:
            return step(self, *words, **keys)

    def watch_training(*words: Any, **keys: Any) -> Any:
        trainer = run_training(*words, **keys)
        content = json.dumps({"sent": watch.sent, "peak": watch.peak})
        (folder / f"{os.environ['RANK']}.json").write_text(content)
        return trainer

    UnlearningTrainer.training_step = watch_step  # type: ignore[method-assign]
    session.run_training = watch_training
    main()
