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

from undial_cli import ui
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.run_folder import RunFolder
from undial_cli.runs.run_yaml import load_run
from undial_cli.system import processes
from undial_cli.system.private_files import keep_ledger
from undial_cli.system.quiet import silence_libraries


def exit_with_parent(parent: int) -> None:
    """End this process when the one that started it is gone, however that was killed."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)  # sys.exit would end this thread alone


@record
def run_worker(path: Path, work: Callable[[ResolvedRun], None]) -> None:
    """Do a run's work as one of its processes; raise on failure: `record` tells the parent."""
    silence_libraries()
    folder = RunFolder(path)
    resolved = ResolvedRun(load_run(folder.run_yaml), folder)
    with ui.copy_to_log(folder.log), keep_ledger(folder.ledger):
        try:
            work(resolved)
        except BaseException:
            ui.log_traceback()
            raise


def work_and_leave(path: Path, work: Callable[[ResolvedRun], None]) -> NoReturn:
    """Work, and leave: the parent says in one line what failed, the log has it all."""
    # A parent that is killed outright tells nobody, and its workers would hold the GPUs.
    threading.Thread(target=exit_with_parent, args=(os.getppid(),), daemon=True).start()
    code = 1
    with contextlib.suppress(BaseException):
        run_worker(path, work)
        code = 0
    processes.exit_process(code)
