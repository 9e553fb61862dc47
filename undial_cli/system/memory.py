"""Memory that a model had, given back once it has gone. Imports no torch."""

from __future__ import annotations

import ctypes
import gc


def give_back_memory() -> None:
    """Collect what is in reference cycles, as models are, and hand free memory to the kernel.

    By itself glibc keeps what is freed below anything that is still used: gigabytes, after a model.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)
