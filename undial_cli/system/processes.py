"""What the processes of one run tell each other. Works alone, under torchrun and under accelerate.

A thin layer over torch.distributed's object collectives; it starts no processes (launch.py does).
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist

from undial_cli.errors import WorldError
from undial_cli.system.locks import WorkLock
from undial_cli.system.supervision import give_beat

T = TypeVar("T")


def exit_process(code: int) -> NoReturn:
    """End this process of several at once, with an exit code.

    What was registered for the end is done, but the interpreter is not taken down: gloo's thread
    may still free Python objects, and aborts (SIGABRT, now and then) when that is under way.
    """
    if code == 0 and has_process_group():  # of a failed run the others may never come
        wait_for_all()
        dist.destroy_process_group()
    atexit._run_exitfuncs()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def has_process_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_process_rank() -> int:
    """This process's number, 0 when alone."""
    return dist.get_rank() if has_process_group() else 0


def get_process_count() -> int:
    return dist.get_world_size() if has_process_group() else 1


def wait_for_all() -> None:
    if has_process_group():
        with mark_exchange():
            dist.barrier()


@contextlib.contextmanager
def mark_exchange() -> Iterator[None]:
    """Tell the parent that this process comes to an exchange, and that all of them came."""
    give_beat()
    yield
    give_beat()


def gather_items(items: list[T]) -> list[T]:
    """The items of all processes, in rank order, on every process. Picklable items only."""
    if not has_process_group():
        return items
    lists: list[Any] = [None] * get_process_count()
    with mark_exchange():
        dist.all_gather_object(lists, items)
    return [item for part in lists for item in part]


def count_busy(is_busy: bool, device: torch.device) -> torch.Tensor:
    """How many processes say that they have something to do: on the device, not waited for."""
    count = torch.tensor(int(is_busy), device=device)
    if has_process_group():
        with mark_exchange():
            dist.all_reduce(count)
    return count


def run_on_main(function: Callable[[], T]) -> T:
    """Call `function` on rank 0 only; every process gets its result, or its exception."""
    if not has_process_group():
        return function()
    outcome: list[Any] = [None, None]
    if get_process_rank() == 0:
        try:
            outcome[0] = function()
        except Exception as error:  # the others would wait for a result for ever
            outcome[1] = error
    with mark_exchange():
        dist.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[1], WorldError):
        outcome[1].is_said = get_process_rank() > 0
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


@contextlib.contextmanager
def hold_lock_on_main(path: Path) -> Iterator[None]:
    """Hold the lock of `path` on the main process while all of them work."""
    lock = WorkLock(path)
    while not run_on_main(lock.try_acquire):  # the others hear of each try: no exchange runs out
        pass
    try:
        yield
    finally:
        if get_process_rank() == 0:
            lock.release()
