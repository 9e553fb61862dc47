"""One process of a run that the launcher started: `python -m undial_cli.cli worker RUN_FOLDER`.

Knows the run folder that it reads, and is told what is to be done with the run.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from torch.distributed.elastic.multiprocessing.errors import record

from undial_cli import distributed, ui
from undial_cli.compose import load_run
from undial_cli.quiet import quiet
from undial_cli.resolved import ResolvedRun
from undial_cli.run_folder import RunFolder


def end_with(parent: int) -> None:
    """End this process when the one that started it is gone, however that was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


@record
def do_work(path: Path, work: Callable[[ResolvedRun], None]) -> None:
    """Do a run's work as one of its processes; raise on failure: `record` tells the parent."""
    quiet()
    folder = RunFolder(path)
    resolved = ResolvedRun(load_run(folder.run_yaml), folder)
    with ui.logging_to(folder.log):
        try:
            work(resolved)
        except BaseException:
            ui.log_traceback()
            raise


def work_and_leave(path: Path, work: Callable[[ResolvedRun], None]) -> NoReturn:
    """Work, and leave: the parent says in one line what failed, the log has it all."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    code = 1
    with contextlib.suppress(BaseException):
        do_work(path, work)
        code = 0
    distributed.leave(code)
