"""One process of a run that the launcher started: `python -m undial_cli.cli worker RUN_FOLDER`.

Knows the run folder that it reads, and is told what is to be done with the run.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from torch.distributed.elastic.multiprocessing.errors import ErrorHandler, record

from undial_cli import ui
from undial_cli.errors import Interrupted
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.run_folder import RunFolder
from undial_cli.runs.run_yaml import load_run
from undial_cli.system import processes, signals
from undial_cli.system.faults import translate_faults
from undial_cli.system.files import write_whole_text
from undial_cli.system.private_files import keep_ledgers, note_private
from undial_cli.system.quiet import silence_libraries
from undial_cli.system.supervision import give_beat


class WholeFileHandler(ErrorHandler):
    """Tells the parent by a whole file or by none.

    Workers that fail together are ended as they write, and torch's parent breaks at half a file.
    """

    def record_exception(self, e: BaseException) -> None:
        """Write the exception's kind and words where torch's parent looks for them."""
        file = self._get_error_file_path()
        if file is not None:
            words = {
                "message": f"{type(e).__name__}: {e}",
                "extraInfo": {"timestamp": str(int(time.time()))},
            }
            write_whole_text(Path(file), json.dumps({"message": words}))


@functools.partial(record, error_handler=WholeFileHandler())
def run_worker(path: Path, work: Callable[[ResolvedRun], None]) -> None:
    """Do a run's work as one of its processes; raise on failure, which the parent is told."""
    give_beat("preparing")
    silence_libraries()
    folder = RunFolder(path)
    resolved = ResolvedRun(load_run(folder.run_yaml), folder)
    with ui.copy_to_log(folder.log), keep_ledgers([folder.ledger]):
        signals.raise_signals()
        try:
            with translate_faults(path):
                work(resolved)
        except Interrupted:
            raise
        except BaseException:
            with contextlib.suppress(OSError):  # the disk may be what failed
                note_private(folder.log)
                ui.log_traceback()
            raise


def work_and_leave(path: Path, work: Callable[[ResolvedRun], None]) -> NoReturn:
    """Work, and leave: the parent says in one line what failed, the log has it all."""
    try:
        run_worker(path, work)
        code = 0
    except BaseException as error:
        code = error.exit_code if isinstance(error, Interrupted) else 1
    signals.exit_on_signals()
    processes.exit_process(code)
