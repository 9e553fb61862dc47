"""What the processes of one run tell each other. Works alone, under torchrun and under accelerate.

A thin layer over torch.distributed's object collectives; it starts no processes (launch.py does).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from undial_cli.cache import locked

T = TypeVar("T")


def joined() -> bool:
    """Whether torchrun, accelerate or SLURM has already started this process as one of several."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))


def active() -> bool:
    """Whether a process group is up."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's number, 0 when alone."""
    return dist.get_rank() if active() else 0


def world() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if active() else 1


def barrier() -> None:
    """Wait for all processes."""
    if active():
        dist.barrier()


def gather(items: list[T]) -> list[T]:
    """The items of all processes, in rank order, on every process. Picklable items only."""
    if not active():
        return items
    lists: list[Any] = [None] * world()
    dist.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def on_main(function: Callable[[], T]) -> T:
    """Call `function` on rank 0 only; every process gets its result, or its exception."""
    if not active():
        return function()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = function()
        except Exception as error:
            box[1] = error
    dist.broadcast_object_list(box, src=0)
    if box[1] is not None:
        raise box[1]
    return box[0]


@contextlib.contextmanager
def on_main_locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path` on the main process while all of them work."""
    with locked(path) if rank() == 0 else contextlib.nullcontext():
        barrier()
        yield
