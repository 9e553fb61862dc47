"""The loggers of transformers that a run reports to (`train.report_to`): where, and in which log.

Left to themselves they begin a new log with every start, TensorBoard's below the Trainer's folder,
which is removed once a run is done. A run that goes on is to go on in the log that it began, and
one that begins anew in another. Only the main process reports.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from transformers import Trainer
from transformers.integrations.integration_utils import TensorBoardCallback, WandbCallback

from undial_cli.config.identity import make_default_name
from undial_cli.config.schema import TrainingRun
from undial_cli.system import processes
from undial_cli.system.files import write_whole_text


@contextlib.contextmanager
def open_loggers(trainer: Trainer, run: TrainingRun, folder: Path, step: int) -> Iterator[None]:
    """While open, the trainer's loggers report to the log of this run.

    Args:
        folder: the run's.
        step: that the training goes on from; what was logged after it is not to be shown.
    """
    if processes.get_process_rank() != 0 or not run.train.report_to:
        yield
        return
    identity = read_log_identity(folder / "resume")
    if trainer.args.run_name is None:  # by which Trackio knows a run again
        trainer.args.run_name = f"{run.name or make_default_name(run)}-{identity}"
    with contextlib.ExitStack() as stack:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):
                logs = os.environ.get("TENSORBOARD_LOGGING_DIR") or folder / "tensorboard"
                # Step 0 is measured anew by who starts over.
                callback.tb_writer = callback._SummaryWriter(
                    log_dir=str(logs), purge_step=step + 1 if step else 0
                )
            elif isinstance(callback, WandbCallback):
                stack.enter_context(open_wandb_run(identity))
        yield


def read_log_identity(resume: Path) -> str:
    """What names the log of a run from its first start until it is done."""
    file = resume / "log_identity.txt"
    if not file.is_file():
        write_whole_text(file, uuid.uuid4().hex[:8])
    return file.read_text().strip()


@contextlib.contextmanager
def open_wandb_run(identity: str) -> Iterator[None]:
    """While open, Weights & Biases goes on with the run of that id; one that is open is left so."""
    import wandb  # type: ignore[import-not-found]

    if wandb.run is not None:
        yield
        return
    known = {"WANDB_RUN_ID": identity, "WANDB_RESUME": "allow"}
    added = {name: value for name, value in known.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    except BaseException:
        wandb.finish(exit_code=1)
        raise
    finally:
        for name in added:
            del os.environ[name]
    wandb.finish()  # or the next training of this process, of another request, would go on in it
