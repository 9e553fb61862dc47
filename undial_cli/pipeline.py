"""The way of a run, top to bottom: check, prepare, models, train, checkpoint, evaluate, report.

`execute` runs in the parent (or in every process of an outer launch): first the runs that make the
models needed, then the requests, then the run itself, each in its folder. `work` runs in each
process of a run. Each step is one call into the file that knows it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from undial_cli import ui
from undial_cli.config.schema import (
    EvaluateRun,
    FinetuneRun,
    Run,
    TeacherConfig,
    TrainingRun,
    UnlearnRun,
    hash_json,
    is_sharded,
)
from undial_cli.data.schedule import Schedule
from undial_cli.errors import UserError, WorldError
from undial_cli.evaluation import results as store
from undial_cli.methods.base import Method
from undial_cli.models import adapters, lean, load
from undial_cli.planning import plan, plan_table
from undial_cli.reporting import report, summary
from undial_cli.runs import checks, evaluations, hub, launch, model_card, requests
from undial_cli.runs.inputs import RunInputs, load_training_rows, prepare_inputs
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.run_folder import (
    RunFolder,
    check_input_fingerprint,
    check_run_folder,
    create_run_folder,
    write_environment,
)
from undial_cli.system import hardware
from undial_cli.system import processes as distributed
from undial_cli.system.files import whole_folder
from undial_cli.system.quiet import silence_libraries
from undial_cli.training import stopping
from undial_cli.training.arguments import check_training_arguments
from undial_cli.training.callbacks import PeriodicEvaluation, Watcher
from undial_cli.training.layers import choose_trained_parameters
from undial_cli.training.loop import is_packed, make_schedule, make_teacher, run_training
from undial_cli.training.stopping import EarlyStop


@dataclass
class RunResult:
    """What a run left: its folder, its status, its metrics (those of results.json)."""

    folder: Path
    status: str
    metrics: dict[str, float | None] = field(default_factory=dict)


def execute(run: Run, show: bool = True) -> RunResult:
    """Do a run from its config to its folder, after all that it needs; a finished one is left.

    Args:
        run: the resolved run.
        show: print the summary at the end.

    Raises:
        UserError: the input is wrong; no folder is left.
        WorldError: something else is; status.json says what.
    """
    silence_libraries()
    whole = ResolvedRun(run)
    check(whole)
    if distributed.is_launched():
        hardware.join_process_group(run)
    if isinstance(run, TrainingRun) and run.plan:
        return planned(whole)
    folder = whole.folder
    with opened(whole) as inputs:
        if inputs is not None:
            for what, made in missing_models(whole):
                if not is_done(made.folder):
                    ui.say(f"the {what} model is trained first, once; it is kept in the cache")
                carry_out(made)
            with running(whole):
                for number, part in enumerate(whole.requests):
                    ui.say(f"request {number + 1}: {run.data.requests[number]}", "bold")
                    carry_out(part)
                compute(whole, inputs)
            if run.report and distributed.get_process_rank() == 0:
                report.try_write_report([folder.path], folder.report)
        elif show:
            ui.say(f"already done: {folder.path} (overwrite=true runs it again)", "dim")
        if show:
            summary.show_summary(run, folder.path)
    if isinstance(run, TrainingRun) and run.push_to_hub:
        distributed.run_on_main(lambda: hub.push_checkpoint(run, folder))
    return RunResult(
        folder.path, "done", store.read_results_json(folder.evaluation).get("metrics", {})
    )


def check(resolved: ResolvedRun) -> None:
    """Raise UserError for what is wrong with a run's config."""
    checks.check_run(resolved)
    if isinstance(resolved.run, TrainingRun):
        check_training_arguments(resolved.run)
        hub.check_hub_access(resolved.run)


def carry_out(needed: ResolvedRun) -> None:
    """A run that another one needs, and that itself needs nothing any more."""
    check(needed)
    with opened(needed) as inputs:
        if inputs is not None:
            with running(needed):
                compute(needed, inputs)


@contextlib.contextmanager
def opened(resolved: ResolvedRun) -> Iterator[RunInputs | None]:
    """A run's folder, locked and written to, and what the run reads; None if it is done.

    Refused input leaves no folder; what else goes wrong is noted in it.
    """
    run, folder = resolved.run, resolved.folder
    distributed.run_on_main(lambda: check_run_folder(run, folder))
    try:
        inputs: RunInputs | WorldError = prepare_all(resolved)
    except WorldError as error:
        inputs = error
    with distributed.hold_lock_on_main(folder.path):
        if isinstance(inputs, RunInputs):
            fingerprint = inputs.fingerprint
            distributed.run_on_main(lambda: check_input_fingerprint(run, folder, fingerprint))
        if is_done(folder) and not run.overwrite and not isinstance(run, EvaluateRun):
            yield None
            return
        fresh = distributed.run_on_main(lambda: not folder.path.exists() or run.overwrite)
        found = inputs.record() if isinstance(inputs, RunInputs) else None
        distributed.run_on_main(lambda: create_run_folder(run, folder, found))
        with ui.copy_to_log(folder.log):
            try:
                if isinstance(inputs, WorldError):
                    raise inputs
                ui.say(f"{run.command}: {folder.path}", "bold")
                for note in () if resolved.requests else inputs.notes:  # each request says its own
                    ui.say(note)
                yield inputs
            except UserError:
                if fresh and not list(folder.path.glob("request_*")):  # served ones are kept
                    distributed.run_on_main(lambda: discard(run, folder))
                raise
            except BaseException as error:
                fail(folder, error)
                raise


def prepare_all(resolved: ResolvedRun) -> RunInputs:
    """What a run reads; of sequential requests the first one's, once all have been read.

    Where there is no checkpoint yet, a request is read with the run's own target.
    """
    if not resolved.requests:
        return prepare_inputs(resolved)
    parts = [part.run for part in resolved.requests]
    for part in parts:
        load_training_rows(part.data, "forget")  # what is wrong with a request is said of it first
    model = resolved.run.model
    found = [prepare_inputs(ResolvedRun(dataclasses.replace(part, model=model))) for part in parts]
    found[0].fingerprint["data"] = hash_json([inputs.fingerprint["data"] for inputs in found])
    return found[0]


def planned(whole: ResolvedRun) -> RunResult:
    """Say what the training would take; nothing is made and nothing written."""
    first = (whole.requests or [whole])[0]  # requests are planned alike
    if ui.is_speaker():
        inputs = prepare_inputs(first, weights=False)

        def make(run: TrainingRun) -> plan.TrainingPlan:
            training = training_of(ResolvedRun(run))
            return plan.make_plan(run, first.base, inputs.sets, inputs.samples, *training)

        assert isinstance(first.run, TrainingRun)
        plan_table.show_training_plan(first.run, make(first.run), make)
    return RunResult(first.folder.path, "planned")


def is_done(folder: RunFolder) -> bool:
    """Whether a folder holds a finished run, as seen by the main process."""
    return distributed.run_on_main(lambda: folder.status() == "done")


def missing_models(resolved: ResolvedRun) -> list[tuple[str, ResolvedRun]]:
    """The runs that make the target and the retain model, where no path is known of them."""
    if isinstance(resolved.run, FinetuneRun):
        return []
    places = {"target": resolved.target, "retain": resolved.retain}
    return [
        (what, resolved.made(place))
        for what, place in places.items()
        if place is not None and place.path is None
    ]


@contextlib.contextmanager
def running(resolved: ResolvedRun) -> Iterator[None]:
    """The status and the time of a run's own work, from its beginning to its end."""
    run, folder = resolved.run, resolved.folder
    workers = launch.needs_workers(run, resolved.processes)
    processes = resolved.processes if workers else distributed.get_process_count()
    fresh = distributed.run_on_main(lambda: not folder.environment.exists())
    begun = time.monotonic()
    distributed.run_on_main(lambda: write_environment(run, folder, processes))
    distributed.run_on_main(lambda: folder.set_status("running"))
    yield
    seconds = time.monotonic() - begun if fresh else None
    distributed.run_on_main(lambda: folder.set_status("done", seconds=seconds))
    distributed.run_on_main(lambda: shutil.rmtree(folder.resume, ignore_errors=True))


def compute(resolved: ResolvedRun, inputs: RunInputs) -> None:
    """The work of a run that needs nothing any more: here, or in processes of its own."""
    run, folder = resolved.run, resolved.folder
    if resolved.requests:
        assert isinstance(run, UnlearnRun)
        parts = [part.folder for part in resolved.requests]
        distributed.run_on_main(lambda: requests.combine_requests(run, folder, parts))
    elif launch.needs_workers(run, resolved.processes):
        launch.start_workers(resolved.processes, folder.path)
    else:
        work(resolved, inputs)


def discard(run: Run, folder: RunFolder) -> None:
    """Remove the folder of refused input, and the folders above it that it alone was in."""
    shutil.rmtree(folder.path, ignore_errors=True)
    above = 2 + (run.name or "").count("/")  # its own, the command's, output_dir
    with contextlib.suppress(OSError):
        for parent in list(folder.path.parents)[:above]:
            parent.rmdir()


def fail(folder: RunFolder, error: BaseException) -> None:
    """Note why the run failed; traceback to the log only."""
    if distributed.get_process_rank() != 0:
        return
    ui.log_traceback()
    reason = str(error) if isinstance(error, WorldError) else f"{type(error).__name__}: {error}"
    reason = "interrupted" if isinstance(error, KeyboardInterrupt) else reason
    with contextlib.suppress(OSError):
        folder.set_status("failed", reason.strip().splitlines()[0])


def work(resolved: ResolvedRun, inputs: RunInputs | None = None) -> None:
    """One process's part of a run; a worker prepares its inputs itself."""
    device = hardware.join_process_group(resolved.run)
    inputs = inputs or prepare_inputs(resolved)
    if isinstance(resolved.run, EvaluateRun):
        evaluate(resolved, inputs, device)
    else:
        train_and_evaluate(resolved, inputs, device)


def train_and_evaluate(resolved: ResolvedRun, inputs: RunInputs, device: torch.device) -> None:
    """Reference and target evaluation, training, checkpoint, evaluation of the checkpoint."""
    run, folder = resolved.run, resolved.folder
    assert isinstance(run, TrainingRun)
    path, others = resolved.path_of(resolved.target), {}
    if isinstance(run, UnlearnRun):
        retain = evaluations.evaluate_retain_model(resolved, inputs, device)
        target = evaluations.evaluate_model_at(run, inputs, path, "target", device)
        others = {"target": target, "retain": retain}
    if not folder.checkpoint.is_dir():
        train_and_save(resolved, inputs, path, device)
    after = evaluations.evaluate_model_at(run, inputs, str(folder.checkpoint), "checkpoint", device)
    evaluations.write_evaluation(run, folder, inputs, after, others)

    def describe() -> None:
        results = store.read_results_json(folder.evaluation)
        if results:  # the model card again, now with what was measured
            model_card.write_model_card(run, folder.checkpoint, results)

    distributed.run_on_main(describe)


def evaluate(resolved: ResolvedRun, inputs: RunInputs, device: torch.device) -> None:
    """Evaluation of a model as it is."""
    run, path = resolved.run, resolved.path_of(resolved.target)
    reference = evaluations.evaluate_retain_model(resolved, inputs, device)
    found = evaluations.evaluate_model_at(run, inputs, path, "model", device)
    target = evaluations.load_target_evaluation(run, inputs)
    others = {"target": target, "retain": reference}
    evaluations.write_evaluation(run, resolved.folder, inputs, found, others)


def training_of(resolved: ResolvedRun) -> tuple[Method, str, TeacherConfig]:
    """What a run minimises, the set that its epochs count, and where the teacher's signal lives."""
    run, method = resolved.run, resolved.method
    assert method is not None
    if isinstance(run, UnlearnRun):
        anchor = run.data.anchor if run.method.gamma else "retain"
        return method, anchor, run.teacher
    return method, "train", TeacherConfig()


def train_and_save(
    resolved: ResolvedRun, inputs: RunInputs, path: str, device: torch.device
) -> None:
    """Train the model at `path` and write the run's checkpoint in Hugging Face format."""
    run, folder = resolved.run, resolved.folder
    assert isinstance(run, TrainingRun)
    method, anchor, cache = training_of(resolved)
    tokenizer = inputs.encoder.tokenizer
    merge, reason = run.adapter.merge, load.explain_merge(run.model, path)
    if run.adapter.name != "none" and not merge and reason is not None:
        ui.say(f"{reason}: the checkpoint is saved merged", "yellow")
        merge = True
    model: Any = evaluations.load_run_model(run, path, held_on(run, device))
    if run.train.lean == "auto":
        lean.make_lean(model)
    start = folder.resume / "start"
    if method.from_start and (run.adapter.name == "none" or merge):
        distributed.run_on_main(lambda: snapshot(model, start))
    adapters.announce_modules(model, run.adapter)
    model = load.adapt_model(
        model, run.adapter, run.seed, load.find_adapter_revision(run.model, path)
    )
    choose_trained_parameters(model, method)
    packs = is_packed(run, model)
    schedule = make_schedule(run, inputs.sets, inputs.samples, anchor, packs)
    for line in schedule.unseen():
        ui.say(line)
    weights = distributed.run_on_main(lambda: load.fingerprint_weights(run.model, path, run.seed))
    teacher = make_teacher(run, cache, model, method.terms(), schedule, weights)
    base = load.unwrap_adapter(model)
    use_cache = getattr(base.config, "use_cache", None)
    watching = watchers(run, folder, inputs, model, schedule)
    trainer = run_training(run, model, method, schedule, teacher, folder.path, watching)
    if use_cache is not None:
        base.config.use_cache = use_cache  # the Trainer switches it off
    save_checkpoint(run, folder, trainer, tokenizer, merge, method, start)


def watchers(
    run: TrainingRun, folder: RunFolder, inputs: RunInputs, model: Any, schedule: Schedule
) -> list[Watcher]:
    """What looks at the model while it is trained."""
    found: list[Watcher] = []
    stop, size = run.train.stop, run.eval.batch_size
    if run.train.eval_steps:
        every = run.train.eval_steps
        found.append(
            PeriodicEvaluation(every, lambda: evaluations.evaluate_in_training(inputs, model))
        )
    if stop.is_on:
        metrics, forget = folder.path / "metrics.jsonl", inputs.answers("forget")
        found.append(
            EarlyStop(
                stop,
                schedule.steps_per_epoch,
                metrics,
                lambda: stopping.measure_stop_figures(model, stop, inputs.watched, forget, size),
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
    with whole_folder(folder.checkpoint, distributed.run_on_main) as unfinished:
        if merge and run.adapter.name != "none":
            merged = adapters.merge_adapter(trainer.accelerator.unwrap_model(trainer.model))
            distributed.run_on_main(lambda: merged.save_pretrained(unfinished))
        else:
            trainer.save_model(str(unfinished))
        distributed.wait_for_all()

        def complete() -> None:
            (unfinished / "training_args.bin").unlink(missing_ok=True)
            method.finish(unfinished, start if start.is_dir() else None)
            tokenizer.save_pretrained(unfinished)
            model_card.write_model_card(run, unfinished)

        distributed.run_on_main(complete)
