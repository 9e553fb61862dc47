"""Python's collector of garbage, which looks at all that is alive. Imports no torch."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def spare_imports() -> Iterator[None]:
    """Collect nothing while modules are imported, and never look through them afterwards.

    Nothing of them is garbage. The modules of a run are 5,000, and the collector took a quarter of
    the time that they are imported in, and as long again for each collection of a run.
    """
    before = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        gc.enable()
