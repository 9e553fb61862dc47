"""The way of a run, top to bottom: check, prepare, models, train, checkpoint, evaluate, report.

`execute` runs in the parent (or in every process of an outer launch); `work` runs in each process
of the run. Each step is one call into the file that knows it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from undial_cli import adapters, checks, distributed, hub, launch, models, requests, ui
from undial_cli.cache import whole_folder
from undial_cli.data.schedule import Schedule
from undial_cli.errors import UserError, WorldError
from undial_cli.evaluation import stages, store
from undial_cli.inputs import Inputs, made_run, method_of, model_path, prepare, training_rows
from undial_cli.methods.base import Method
from undial_cli.planning import plan
from undial_cli.quiet import quiet
from undial_cli.reporting import card, plan_table, report, summary
from undial_cli.run_folder import (
    RunFolder,
    check_folder,
    check_inputs,
    folder_of,
    open_folder,
    write_environment,
)
from undial_cli.schema import (
    EvaluateRun,
    FinetuneRun,
    Run,
    TeacherConfig,
    TrainingRun,
    UnlearnRun,
    digest,
    is_sharded,
)
from undial_cli.targets import target_of
from undial_cli.training import lean, stopping
from undial_cli.training.arguments import check_training
from undial_cli.training.callbacks import Evaluation, Watcher
from undial_cli.training.layers import choose_parameters
from undial_cli.training.loop import is_packed, make_schedule, make_teacher, train
from undial_cli.training.stopping import EarlyStop


@dataclass
class RunResult:
    """What a run left: its folder, its status, its metrics (those of results.json)."""

    folder: Path
    status: str
    metrics: dict[str, float | None] = field(default_factory=dict)


def execute(run: Run, show: bool = True) -> RunResult:
    """Do a run from its config to its folder; a finished one is not done again.

    Args:
        run: the resolved run.
        show: print the summary at the end.

    Raises:
        UserError: the input is wrong; no folder is left.
        WorldError: something else is; status.json says what.
    """
    quiet()
    checks.check_run(run)
    if isinstance(run, TrainingRun):
        check_training(run)
        hub.check(run)
    if distributed.joined():
        launch.start_processes(run)
    if isinstance(run, TrainingRun) and run.plan:
        return planned(run)
    folder = folder_of(run)
    distributed.on_main(lambda: check_folder(run, folder))
    try:
        inputs: Inputs | WorldError = prepare_all(run)
    except WorldError as error:
        inputs = error
    with distributed.on_main_locked(folder.path):
        if isinstance(inputs, Inputs):
            fingerprint = inputs.fingerprint
            distributed.on_main(lambda: check_inputs(run, folder, fingerprint))
        if is_done(folder) and not run.overwrite and not isinstance(run, EvaluateRun):
            if show:
                ui.say(f"already done: {folder.path} (overwrite=true runs it again)", "dim")
                summary.show(run, folder)
        else:
            fulfil(run, folder, inputs, show)
    if isinstance(run, TrainingRun) and run.push_to_hub:
        distributed.on_main(lambda: hub.push(run, folder))
    return RunResult(folder.path, "done", store.read_results(folder.evaluation).get("metrics", {}))


def prepare_all(run: Run) -> Inputs:
    """What a run reads; of sequential requests the first one's, once all have been read.

    Where there is no checkpoint yet, a request is read with the run's own target.
    """
    parts = requests.parts_of(run)
    if not parts:
        return prepare(run)
    for part in parts:
        training_rows(part.data, "forget")  # what is wrong with a request is said of it first
    found = [prepare(dataclasses.replace(part, model=run.model)) for part in parts]
    found[0].fingerprint["data"] = digest([inputs.fingerprint["data"] for inputs in found])
    return found[0]


def planned(run: TrainingRun) -> RunResult:
    """Say what the training would take; nothing is made and nothing written."""
    run = (requests.parts_of(run) or [run])[0]  # requests are planned alike
    if ui.is_speaker():
        inputs = prepare(run, weights=False)
        path = str(target_of(run).path or run.model.base)

        def make(run: TrainingRun) -> plan.Plan:
            return plan.make(run, path, inputs.sets, inputs.samples, *training_of(run))

        plan_table.show(run, make(run), make)
    return RunResult(folder_of(run).path, "planned")


def is_done(folder: RunFolder) -> bool:
    """Whether a folder holds a finished run, as seen by the main process."""
    return distributed.on_main(lambda: folder.status() == "done")


def fulfil(run: Run, folder: RunFolder, inputs: Inputs | WorldError, show: bool) -> None:
    """Open the folder, make the models it needs, do the work, close it, show what came out."""
    fresh = distributed.on_main(lambda: not folder.path.exists() or run.overwrite)
    found = inputs.record() if isinstance(inputs, Inputs) else None
    distributed.on_main(lambda: open_folder(run, folder, found))
    with ui.logging_to(folder.log):
        try:
            if isinstance(inputs, WorldError):
                raise inputs
            ui.say(f"{run.command}: {folder.path}", "bold")
            for note in () if requests.parts_of(run) else inputs.notes:  # each request says its own
                ui.say(note)
            make_models(run, inputs)
            begun = time.monotonic()
            distributed.on_main(lambda: begin(run, folder))
            if requests.parts_of(run):
                assert isinstance(run, UnlearnRun)
                serve(run, folder)
            elif launch.needs_workers(run):
                launch.start_workers(run, folder.path)
            else:
                work(run, folder, inputs)
            seconds = time.monotonic() - begun if fresh else None
            distributed.on_main(lambda: finish(folder, seconds))
            if run.report and distributed.rank() == 0:
                report.after([folder.path], folder.report)
            if show:
                summary.show(run, folder)
        except UserError:
            if fresh and not list(folder.path.glob("request_*")):  # served ones are kept
                distributed.on_main(lambda: discard(run, folder))
            raise
        except BaseException as error:
            fail(folder, error)
            raise


def serve(run: UnlearnRun, folder: RunFolder) -> None:
    """Sequential requests, one run after the other."""
    for number, part in enumerate(requests.parts_of(run)):
        ui.say(f"request {number + 1}: {run.data.requests[number]}", "bold")
        execute(part, show=False)
    distributed.on_main(lambda: requests.conclude(run, folder))


def begin(run: Run, folder: RunFolder) -> None:
    """Note the environment, and that the run is running."""
    processes = launch.num_processes(run) if launch.needs_workers(run) else distributed.world()
    write_environment(run, folder, processes)
    folder.set_status("running")


def finish(folder: RunFolder, seconds: float | None) -> None:
    """The run is done; the state to resume from is no longer needed."""
    folder.set_status("done", seconds=seconds)
    shutil.rmtree(folder.resume, ignore_errors=True)


def discard(run: Run, folder: RunFolder) -> None:
    """Remove the folder of refused input, and the folders above it that it alone was in."""
    shutil.rmtree(folder.path, ignore_errors=True)
    above = 2 + (run.name or "").count("/")  # its own, the command's, output_dir
    with contextlib.suppress(OSError):
        for parent in list(folder.path.parents)[:above]:
            parent.rmdir()


def fail(folder: RunFolder, error: BaseException) -> None:
    """Note why the run failed; traceback to the log only."""
    if distributed.rank() != 0:
        return
    ui.log_traceback()
    reason = str(error) if isinstance(error, WorldError) else f"{type(error).__name__}: {error}"
    reason = "interrupted" if isinstance(error, KeyboardInterrupt) else reason
    with contextlib.suppress(OSError):
        folder.set_status("failed", reason.strip().splitlines()[0])


def make_models(run: Run, inputs: Inputs) -> None:
    """Train the target and the retain model that the run needs and that are not there yet."""
    if isinstance(run, FinetuneRun):
        return
    for place, what in ((target_of(run), "target"), (inputs.reference.place, "retain")):
        if place is not None and place.path is None:
            made = made_run(run, place)
            if not is_done(folder_of(made)):
                ui.say(f"the {what} model is trained first, once; it is kept in the cache")
            execute(made, show=False)


def work(run: Run, folder: RunFolder, inputs: Inputs | None = None) -> None:
    """One process's part of a run; a worker prepares its inputs itself."""
    device = launch.start_processes(run)
    inputs = inputs or prepare(run)
    if isinstance(run, UnlearnRun):
        unlearn(run, folder, inputs, device)
    elif isinstance(run, FinetuneRun):
        finetune(run, folder, inputs, device)
    else:
        assert isinstance(run, EvaluateRun)
        evaluate(run, folder, inputs, device)


def unlearn(run: UnlearnRun, folder: RunFolder, inputs: Inputs, device: torch.device) -> None:
    """Reference and target evaluation, training, checkpoint, evaluation of the checkpoint."""
    reference = stages.of_retain_model(run, inputs, device)
    path = model_path(run, target_of(run))
    before = stages.of_model(run, inputs, path, "target", device)
    if not folder.checkpoint.is_dir():
        train_and_save(run, folder, inputs, path, device, *training_of(run))
    after = stages.of_model(run, inputs, str(folder.checkpoint), "checkpoint", device)
    stages.report(run, folder, inputs, after, {"target": before, "retain": reference})
    distributed.on_main(lambda: describe(run, folder))


def finetune(run: FinetuneRun, folder: RunFolder, inputs: Inputs, device: torch.device) -> None:
    """Plain fine-tuning, checkpoint, evaluation of the checkpoint."""
    if not folder.checkpoint.is_dir():
        path = str(target_of(run).path)
        train_and_save(run, folder, inputs, path, device, *training_of(run))
    after = stages.of_model(run, inputs, str(folder.checkpoint), "checkpoint", device)
    stages.report(run, folder, inputs, after, {})
    distributed.on_main(lambda: describe(run, folder))


def describe(run: TrainingRun, folder: RunFolder) -> None:
    """The model card again, now with what was measured."""
    results = store.read_results(folder.evaluation)
    if results:
        card.write(run, folder.checkpoint, results)


def evaluate(run: EvaluateRun, folder: RunFolder, inputs: Inputs, device: torch.device) -> None:
    """Evaluation of a model as it is."""
    reference = stages.of_retain_model(run, inputs, device)
    found = stages.of_model(run, inputs, model_path(run, target_of(run)), "model", device)
    target = stages.of_target_if_known(run, inputs)
    stages.report(run, folder, inputs, found, {"target": target, "retain": reference})


def training_of(run: TrainingRun) -> tuple[Method, str, TeacherConfig]:
    """What a run minimises, the set that its epochs count, and where the teacher's signal lives."""
    method = method_of(run)
    assert method is not None
    if isinstance(run, UnlearnRun):
        anchor = run.data.anchor if run.method.gamma else "retain"
        return method, anchor, run.teacher
    return method, "train", TeacherConfig()


def train_and_save(
    run: TrainingRun,
    folder: RunFolder,
    inputs: Inputs,
    path: str,
    device: torch.device,
    method: Method,
    anchor: str,
    cache: TeacherConfig,
) -> None:
    """Train the model at `path` and write the run's checkpoint in Hugging Face format."""
    tokenizer = inputs.encoder.tokenizer
    merge, reason = run.adapter.merge, models.why_merged(run.model, path)
    if run.adapter.name != "none" and not merge and reason is not None:
        ui.say(f"{reason}: the checkpoint is saved merged", "yellow")
        merge = True
    model: Any = stages.load(run, path, held_on(run, device))
    if run.train.lean == "auto":
        lean.make_lean(model)
    start = folder.resume / "start"
    if method.from_start and (run.adapter.name == "none" or merge):
        distributed.on_main(lambda: snapshot(model, start))
    adapters.say_modules(model, run.adapter)
    model = models.adapt(model, run.adapter, run.seed, models.revision_of(run.model, path))
    choose_parameters(model, method)
    packs = is_packed(run, model)
    schedule = make_schedule(run, inputs.sets, inputs.samples, anchor, packs)
    for line in schedule.unseen():
        ui.say(line)
    weights = distributed.on_main(lambda: models.weights_fingerprint(run.model, path, run.seed))
    teacher = make_teacher(run, cache, model, method.terms(), schedule, weights)
    base = models.base_of(model)
    use_cache = getattr(base.config, "use_cache", None)
    watching = watchers(run, folder, inputs, model, schedule)
    trainer = train(run, model, method, schedule, teacher, folder.path, watching)
    if use_cache is not None:
        base.config.use_cache = use_cache  # the Trainer switches it off
    save_checkpoint(run, folder, trainer, tokenizer, merge, method, start)


def watchers(
    run: TrainingRun, folder: RunFolder, inputs: Inputs, model: Any, schedule: Schedule
) -> list[Watcher]:
    """What looks at the model while it is trained."""
    found: list[Watcher] = []
    stop, size = run.train.stop, run.eval.batch_size
    if run.train.eval_steps:
        every = run.train.eval_steps
        found.append(Evaluation(every, lambda: stages.undisturbed(inputs, model)))
    if stop.is_on:
        metrics, forget = folder.path / "metrics.jsonl", inputs.answers("forget")
        found.append(
            EarlyStop(
                stop,
                schedule.steps_per_epoch,
                metrics,
                lambda: stopping.measure(model, stop, inputs.watched, forget, size),
            )
        )
    return found


def snapshot(model: Any, folder: Path) -> None:
    """Write a model's weights whole or not at all, unless they are there."""
    if not folder.is_dir():
        with whole_folder(folder) as unfinished:
            model.save_pretrained(unfinished)


def held_on(run: TrainingRun, device: torch.device) -> torch.device:
    """Where a model is before training: a sharded one is not to fill its device whole."""
    return torch.device("cpu") if is_sharded(run) else device


def save_checkpoint(
    run: TrainingRun,
    folder: RunFolder,
    trainer: Any,
    tokenizer: Any,
    merge: bool,
    method: Method,
    start: Path,
) -> None:
    """Write checkpoint/ whole or not at all; `start`: where weights before training may lie."""
    with whole_folder(folder.checkpoint, distributed.on_main) as unfinished:
        if merge and run.adapter.name != "none":
            merged = adapters.merge(trainer.accelerator.unwrap_model(trainer.model))
            distributed.on_main(lambda: merged.save_pretrained(unfinished))
        else:
            trainer.save_model(str(unfinished))
        distributed.barrier()

        def complete() -> None:
            (unfinished / "training_args.bin").unlink(missing_ok=True)
            method.finish(unfinished, start if start.is_dir() else None)
            tokenizer.save_pretrained(unfinished)
            card.write(run, unfinished)

        distributed.on_main(complete)
