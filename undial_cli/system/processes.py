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

import torch.distributed as dist

from undial_cli.errors import UserError, bad_value
from undial_cli.system.locks import WorkLock
from undial_cli.system.supervision import give_beat

T = TypeVar("T")

# What torchrun and accelerate tell each process that they start.
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
MEETING_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")


def is_launched() -> bool:
    """Whether torchrun, accelerate or SLURM has already started this process as one of several."""
    return all(name in os.environ for name in LAUNCHER_VARIABLES)


def check_launcher_environment() -> None:
    """The variables of a launcher are there together and make sense, or none of them is.

    Raises:
        UserError: some are missing, or one is no number that can be.
    """
    given = [name for name in LAUNCHER_VARIABLES if name in os.environ]
    if not given:
        return
    numbers = {name: os.environ[name] for name in given}
    for name, text in numbers.items():
        if not text.isdecimal():
            raise bad_value(name, text, "a number >= 0 in the environment, as torchrun sets it")
    missing = [name for name in LAUNCHER_VARIABLES if name not in os.environ]
    if not missing and int(numbers["WORLD_SIZE"]) > 1:
        missing = [name for name in MEETING_VARIABLES if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"{', '.join(given)}: set in the environment, as torchrun and accelerate do, but not "
            f"{', '.join(missing)}; unset them to start the run by itself"
        )
    port = os.environ.get("MASTER_PORT", "")
    if port and not (port.isdecimal() and int(port) < 65536):
        raise bad_value("MASTER_PORT", port, "a port's number in the environment, as torchrun sets")
    if int(numbers["RANK"]) >= int(numbers["WORLD_SIZE"]):
        size = numbers["WORLD_SIZE"]
        raise bad_value("RANK", numbers["RANK"], f"less than WORLD_SIZE={size}")


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
