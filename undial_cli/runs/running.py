"""A run in its folder, from the lock to the status: who may write to it, and what is left of it.

`open_run` surrounds all that a run does, `track_status` its own work. Knows nothing of that work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from undial_cli import ui
from undial_cli.config.identity import hash_json
from undial_cli.config.schema import (
    AlternativesRun,
    AuditRun,
    EvaluateRun,
    Run,
    TrainingRun,
    UnlearnRun,
)
from undial_cli.errors import Interrupted, OutOfMemory, UserError, WorldError
from undial_cli.runs import launch
from undial_cli.runs.evidence import is_purged
from undial_cli.runs.evidence_content import keep_evidence
from undial_cli.runs.inputs import RunInputs, load_training_rows, prepare_inputs
from undial_cli.runs.known_runs import forget_run, remember_run
from undial_cli.runs.plans import advise_after_shortage
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.run_folder import (
    RunFolder,
    check_input_fingerprint,
    check_result_files,
    check_run_folder,
    create_run_folder,
    list_result_files,
    write_environment,
)
from undial_cli.system import signals
from undial_cli.system.faults import translate_faults
from undial_cli.system.files import remove_folder, remove_unfinished
from undial_cli.system.private_files import note_private
from undial_cli.system.processes import (
    get_process_count,
    get_process_rank,
    hold_lock_on_main,
    run_on_main,
)
from undial_cli.training.best_weights import read_selection
from undial_cli.training.states import read_newest_step, remove_unsealed


@contextlib.contextmanager
def open_run(resolved: ResolvedRun) -> Iterator[RunInputs | None]:
    """A run's folder, locked and written to, and what the run reads; None if it is done.

    Refused input leaves no folder; what else goes wrong is noted in it. Afterwards its evidence is
    written.
    """
    with keep_evidence(resolved), enter_run_folder(resolved) as inputs:
        yield inputs


@contextlib.contextmanager
def enter_run_folder(resolved: ResolvedRun) -> Iterator[RunInputs | None]:
    """`open_run` without the evidence."""
    run, folder = resolved.run, resolved.folder
    signals.raise_signals()  # from here on there is something to be put in order
    run_on_main(lambda: check_run_folder(run, folder))
    try:
        with translate_faults(folder.path):
            inputs: RunInputs | WorldError = prepare_request_inputs(resolved)
    except WorldError as error:  # raised below, where the folder is there to note it in
        inputs = error
    with translate_faults(folder.path), hold_lock_on_main(folder.path):
        if isinstance(inputs, RunInputs):
            fingerprint = inputs.fingerprint
            run_on_main(lambda: check_input_fingerprint(run, folder, fingerprint))
        if isinstance(run, TrainingRun) and not run.overwrite and is_done(folder):
            run_on_main(lambda: check_result_files(folder))
            discard_states(folder)  # their removal may have been interrupted
        if is_done(folder) and not run.overwrite and not is_shown_anew(run, folder):
            yield None
            return
        is_new = run_on_main(lambda: not folder.path.exists() or run.overwrite)
        record = inputs.record() if isinstance(inputs, RunInputs) else None
        run_on_main(lambda: create_run_folder(run, folder, record))
        run_on_main(lambda: remember_run(folder))
        with ui.copy_to_log(folder.log):
            try:
                if isinstance(inputs, WorldError):
                    raise inputs
                ui.say(f"{run.command}: {folder.path}", "bold")
                for note in () if resolved.requests else inputs.notes:  # each request says its own
                    ui.say(note)
                with advise_on_shortage(resolved, inputs), translate_faults(folder.path):
                    yield inputs
            except UserError:
                if is_new and not list(folder.path.glob("request_*")):  # served ones are kept
                    run_on_main(lambda: discard_run_folder(folder))
                raise
            except BaseException as error:
                record_failure(folder, error)
                raise


@contextlib.contextmanager
def advise_on_shortage(resolved: ResolvedRun, inputs: RunInputs) -> Iterator[None]:
    """While open, a training that runs out of memory is said what would take less."""
    try:
        yield
    except OutOfMemory as error:
        raise WorldError(f"{error}; {advise_after_shortage(resolved, inputs)}") from error


def prepare_request_inputs(resolved: ResolvedRun) -> RunInputs:
    """What a run reads; of sequential requests the first one's, once all have been read.

    Where there is no checkpoint yet, a request is read with the run's own target.
    """
    if not resolved.requests:
        return prepare_inputs(resolved)
    parts = [request.run for request in resolved.requests]
    for part in parts:
        load_training_rows(part.data, "forget")  # what is wrong with a request is said of it first
    model = resolved.run.model
    inputs = [prepare_inputs(ResolvedRun(dataclasses.replace(part, model=model))) for part in parts]
    inputs[0].fingerprint["data"] = hash_json([part.fingerprint["data"] for part in inputs])
    return inputs[0]


def is_done(folder: RunFolder) -> bool:
    """Whether a folder holds a finished run, as seen by the main process."""
    return run_on_main(lambda: folder.status() == "done")


def is_shown_anew(run: Run, folder: RunFolder) -> bool:
    """Whether a finished run has something to do: what it computed is in the cache.

    Evaluations and audits are shown each time, unless their texts were purged, which would come
    back; an unlearned model may be audited later, and a file of other answers be gone.
    """
    if isinstance(run, AlternativesRun):
        return not Path(str(run.out)).expanduser().exists()
    if isinstance(run, UnlearnRun):
        # Of sequential requests each is audited by itself.
        wanted = run.audit.is_on and not run.data.requests
        return wanted and not (folder.audit / "audit.json").is_file()
    return isinstance(run, EvaluateRun | AuditRun) and not is_purged(folder)


@contextlib.contextmanager
def track_status(resolved: ResolvedRun) -> Iterator[None]:
    """The status and the time of a run's own work, from its beginning to its end."""
    run, folder = resolved.run, resolved.folder
    starts_workers = launch.needs_workers(run, resolved.processes)
    processes = resolved.processes if starts_workers else get_process_count()
    is_new = run_on_main(lambda: not folder.environment.exists())
    begun = time.monotonic()
    run_on_main(lambda: write_environment(run, folder, processes))
    run_on_main(lambda: folder.set_status("running"))
    yield
    seconds = time.monotonic() - begun if is_new else None  # of a run that was done in one go
    chosen = read_selection(folder.checkpoint)
    selected = {name: chosen.get(name) for name in ("step", "select", "figure")} if chosen else None
    run_on_main(lambda: folder.set_status("done", "", seconds, list_result_files(folder), selected))
    discard_states(folder)


def discard_states(folder: RunFolder) -> None:
    """Remove the states of a run that is done."""
    run_on_main(lambda: shutil.rmtree(folder.resume, ignore_errors=True))


def discard_run_folder(folder: RunFolder) -> None:
    """Remove the folder of refused input; those above it go with the lock that made them."""
    with contextlib.suppress(OSError):
        remove_folder(folder.path)
    forget_run(folder)


def record_failure(folder: RunFolder, error: BaseException) -> None:
    """Note why the run failed; traceback to the log only."""
    if get_process_rank() != 0:
        return
    if isinstance(error, KeyboardInterrupt):
        record_interruption(folder, error)
        return
    note_private(folder.log)  # a traceback may quote a row
    with contextlib.suppress(OSError):  # the disk may be what failed
        ui.log_traceback()
    remove_unfinished(folder.path)  # of no use any more, and their room is needed
    remove_unsealed(folder.resume)
    reason = str(error) if isinstance(error, WorldError) else f"{type(error).__name__}: {error}"
    try:
        folder.set_status("failed", reason.strip().splitlines()[0])
    except OSError as failure:
        ui.print_error(f"{folder.path}/status.json could not be written ({failure.strerror})")


def record_interruption(folder: RunFolder, error: KeyboardInterrupt) -> None:
    """Note which signal ended the run, and from which step on it will go on."""
    reason = error.sign.name if isinstance(error, Interrupted) else "SIGINT"
    step = None if folder.checkpoint.exists() else read_newest_step(folder.resume)
    if step is not None:
        reason += f" after step {step}, whose state is saved"
    if isinstance(error, Interrupted):
        error.reason = error.reason or reason  # of the innermost run, which another one needs
    with contextlib.suppress(OSError):
        ui.append_to_logs(f"interrupted by {reason}\n")
        folder.set_status("interrupted", reason)
