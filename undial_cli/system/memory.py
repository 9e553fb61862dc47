"""What the C library does with freed memory: kept from step to step, given back between models.

By itself glibc hands large blocks back to the kernel, which clears every page of the next one, and
cuts its heap up until it searches long for a free piece. Elsewhere nothing is changed.
Imports no torch.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Any

# Parameters of mallopt (malloc.h), and their values: no block is mapped by itself, and the heap
# shrinks only where it is told to.
M_MMAP_MAX, NO_MAPPED_BLOCKS = -4, 0
M_TRIM_THRESHOLD, NEVER_TRIM = -1, -1


def keep_freed_memory() -> None:
    """Have this process use freed memory again, for as long as it runs."""
    mallopt = find_c_function("mallopt")
    if mallopt is not None:
        mallopt(M_MMAP_MAX, NO_MAPPED_BLOCKS)
        mallopt(M_TRIM_THRESHOLD, NEVER_TRIM)


def give_back_memory() -> None:
    """Collect what is in reference cycles, as models are, and hand free memory to the kernel."""
    gc.collect()
    trim = find_c_function("malloc_trim")
    if trim is not None:
        trim(0)


def find_c_function(name: str) -> Callable[..., Any] | None:
    """A function of the C library that this process runs with, if it has it."""
    return getattr(ctypes.CDLL(None), name, None)
