"""The way of a run, top to bottom: check, prepare, models, train, checkpoint, evaluate, report.

`execute` runs in the parent (or in every process of an outer launch); `work` runs in each process
of the run. Each step is one call into the file that knows it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from undial_cli import checks, distributed, launch, methods, models, ui
from undial_cli.cache import locked
from undial_cli.data.load import load_training_set
from undial_cli.errors import UserError
from undial_cli.evaluation import store
from undial_cli.evaluation.suite import Evaluation, evaluate, forget_quality
from undial_cli.inputs import Inputs, prepare
from undial_cli.quiet import quiet
from undial_cli.reporting import card, summary
from undial_cli.run_folder import RunFolder, check_folder, folder_of, open_folder, write_environment
from undial_cli.schema import EvaluateRun, FinetuneRun, Run, TrainingRun, UnlearnRun
from undial_cli.targets import Place, making, retain_of, target_of
from undial_cli.training.arguments import check_training
from undial_cli.training.loop import make_schedule, make_teacher, train
from undial_cli.training.trainer import Term


@dataclass
class RunResult:
    """What a run left: its folder, its status, its metrics (those of results.json)."""

    folder: Path
    status: str
    metrics: dict[str, float] = field(default_factory=dict)


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
    if distributed.joined():
        launch.start_processes(run)
    folder = folder_of(run)
    distributed.on_main(lambda: check_folder(run, folder))
    if not (is_done(folder) and not run.overwrite):
        with on_main_locked(folder.path):
            if not is_done(folder) or run.overwrite:
                fulfil(run, folder, show)
    elif show:
        ui.say(f"already done: {folder.path} (overwrite=true runs it again)", "dim")
        summary.show(run, folder)
    return RunResult(folder.path, "done", store.read_metrics(folder.evaluation))


def is_done(folder: RunFolder) -> bool:
    """Whether a folder holds a finished run, as seen by the main process."""
    return distributed.on_main(lambda: folder.status() == "done")


@contextlib.contextmanager
def on_main_locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path` on the main process while all of them work."""
    with locked(path) if distributed.rank() == 0 else contextlib.nullcontext():
        distributed.barrier()
        yield


def fulfil(run: Run, folder: RunFolder, show: bool) -> None:
    """Open the folder, make the models it needs, do the work, close the folder, say what came out."""
    fresh = distributed.on_main(lambda: not folder.path.exists() or run.overwrite)
    world_failed: BaseException | None = None
    try:
        prepare(run)
    except UserError:
        raise
    except Exception as error:
        world_failed = error
    distributed.on_main(lambda: open_folder(run, folder))
    with ui.logging_to(folder.log):
        try:
            if world_failed is not None:
                raise world_failed
            ui.say(f"{run.command}: {folder.path}", "bold")
            make_models(run)
            distributed.on_main(lambda: begin(run, folder))
            if launch.needs_workers(run):
                launch.start_workers(run, folder.path)
            else:
                work(run, folder)
            distributed.on_main(lambda: finish(folder))
            if show:
                summary.show(run, folder)
        except UserError:
            if fresh:
                distributed.on_main(lambda: shutil.rmtree(folder.path, ignore_errors=True))
            raise
        except BaseException as error:
            fail(folder, error)
            raise


def begin(run: Run, folder: RunFolder) -> None:
    """Note the environment, and that the run is running."""
    processes = launch.num_processes(run) if launch.needs_workers(run) else distributed.world()
    write_environment(run, folder, processes)
    folder.set_status("running")


def finish(folder: RunFolder) -> None:
    """The run is done; the state to resume from is no longer needed."""
    folder.set_status("done")
    shutil.rmtree(folder.resume, ignore_errors=True)


def fail(folder: RunFolder, error: BaseException) -> None:
    """Note why the run failed; traceback to the log only."""
    if distributed.rank() != 0:
        return
    ui.log_traceback()
    interrupted = isinstance(error, KeyboardInterrupt)
    reason = "interrupted" if interrupted else f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        folder.set_status("failed", reason.strip().splitlines()[0])


def make_models(run: Run) -> None:
    """Train the target and the retain model that the run needs and that are not there yet."""
    if isinstance(run, FinetuneRun):
        return
    for place, what in ((target_of(run), "target"), (retain_of(run) if run.eval.sets else None, "retain")):
        if place is not None and place.path is None:
            made = made_run(run, place)
            if not is_done(folder_of(made)):
                ui.say(f"the {what} model is trained first, once: {folder_of(made).path}")
            execute(made, show=False)


def made_run(run: Run, place: Place) -> FinetuneRun:
    """The finetune run behind a place that has no path."""
    rows = load_training_set(run.data, list(place.splits), "data.train_split")
    base = models.weights_fingerprint(run.model, str(run.model.base))
    return making(run, place.splits, [rows, base])


def model_path(run: Run, place: Place) -> str:
    """The path of a place: as configured, or where it was made."""
    return place.path or str(folder_of(made_run(run, place)).checkpoint)


def work(run: Run, folder: RunFolder) -> None:
    """One process's part of a run."""
    device = launch.start_processes(run)
    inputs = prepare(run)
    if isinstance(run, UnlearnRun):
        unlearn(run, folder, inputs, device)
    elif isinstance(run, FinetuneRun):
        finetune(run, folder, inputs, device)
    else:
        assert isinstance(run, EvaluateRun)
        evaluate_only(run, folder, inputs, device)


def unlearn(run: UnlearnRun, folder: RunFolder, inputs: Inputs, device: torch.device) -> None:
    """Reference and target evaluation, training, checkpoint, evaluation of the checkpoint."""
    reference = retain_evaluation(run, inputs, device)
    path = model_path(run, target_of(run))
    model = load(run, path, device)
    before = known_evaluation(run, inputs, path, "target", lambda: model)
    if not folder.checkpoint.is_dir():
        terms = unlearning_terms(run)
        train_and_save(run, folder, inputs, model, terms, run.data.anchor, run.teacher.cache, path)
    del model
    after = checkpoint_evaluation(run, folder, inputs, device)
    report(run, folder, after, {"target": before, "retain": reference})


def finetune(run: FinetuneRun, folder: RunFolder, inputs: Inputs, device: torch.device) -> None:
    """Plain fine-tuning, checkpoint, evaluation of the checkpoint."""
    if not folder.checkpoint.is_dir():
        path = str(target_of(run).path)
        terms = {"train": Term(methods.CrossEntropy(), 1.0)}
        train_and_save(run, folder, inputs, load(run, path, device), terms, "train", "auto", path)
    after = checkpoint_evaluation(run, folder, inputs, device)
    report(run, folder, after, {})


def evaluate_only(run: EvaluateRun, folder: RunFolder, inputs: Inputs, device: torch.device) -> None:
    """Evaluation of a model as it is."""
    reference = retain_evaluation(run, inputs, device)
    path = model_path(run, target_of(run))
    after = known_evaluation(run, inputs, path, "model", lambda: load(run, path, device))
    report(run, folder, after, {"retain": reference})


def load(run: Run, path: str, device: torch.device) -> Any:
    """A model of the run on this process's device."""
    quantized = isinstance(run, TrainingRun) and run.adapter.name == "qlora"
    model = models.load_model(run.model, path, seed=run.seed, quantized=quantized)
    return model if quantized else model.to(device)


def unlearning_terms(run: UnlearnRun) -> dict[str, Term]:
    """`gamma * forget + alpha * retain`; a term of weight 0 is not there."""
    method, terms = run.method, {}
    if method.gamma:
        terms["forget"] = Term(methods.forget_loss(method), method.gamma)
    if method.retain != "none" and method.alpha:
        terms["retain"] = Term(methods.retain_loss(method), method.alpha)
    return terms


def train_and_save(
    run: TrainingRun,
    folder: RunFolder,
    inputs: Inputs,
    model: Any,
    terms: dict[str, Term],
    anchor: str,
    cache: str,
    path: str,
) -> None:
    """The run's training, and its checkpoint in Hugging Face format."""
    tokenizer = inputs.encoder.tokenizer
    target_is_adapter = models.adapter_base(models.folder_source(path, run.model)) is not None
    merge = run.adapter.merge or (target_is_adapter and run.adapter.name != "none")
    if merge and not run.adapter.merge:
        ui.say("the target is an adapter itself: the checkpoint is saved merged", "yellow")
    schedule = make_schedule(run, inputs.sets, anchor, tokenizer)
    adapted = models.adapt(model, run.adapter, run.seed)
    teacher = make_teacher(run, cache, adapted, terms, schedule)
    during = None
    if run.train.eval_steps and inputs.eval_rows:
        during = lambda: undisturbed(lambda: evaluate_model(run, inputs, adapted, "on the way").metrics)  # noqa: E731
    trainer = train(run, adapted, tokenizer, terms, schedule, teacher, folder.path, during)
    save_checkpoint(run, folder, trainer, tokenizer, merge)


def save_checkpoint(
    run: TrainingRun, folder: RunFolder, trainer: Any, tokenizer: Any, merge: bool
) -> None:
    """Write checkpoint/ whole or not at all."""
    unfinished = folder.path / ".checkpoint.unfinished"
    distributed.on_main(lambda: shutil.rmtree(unfinished, ignore_errors=True))
    if merge and run.adapter.name != "none":
        merged = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        distributed.on_main(lambda: merged.save_pretrained(unfinished))
    else:
        trainer.save_model(str(unfinished))
    distributed.barrier()

    def close() -> None:
        (unfinished / "training_args.bin").unlink(missing_ok=True)
        tokenizer.save_pretrained(unfinished)
        card.write(run, unfinished)
        unfinished.rename(folder.checkpoint)

    distributed.on_main(close)


def undisturbed(function: Callable[[], Any]) -> Any:
    """Call `function` and put all random number generators back to where they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        return function()
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if gpu:
            torch.cuda.set_rng_state_all(gpu)


def evaluate_model(run: Run, inputs: Inputs, model: nn.Module, title: str) -> Evaluation:
    """The run's suite on a model."""
    return evaluate(model, inputs.encoder, run.eval, inputs.eval_rows, title)


def known_evaluation(
    run: Run, inputs: Inputs, path: str, title: str, model: Callable[[], Any]
) -> Evaluation | None:
    """The evaluation of an unchanging model, from the cache where it was made before."""
    if not inputs.eval_rows:
        return None
    chosen = dataclasses.asdict(run.eval)
    for irrelevant in ("retain_model", "batch_size", "data", "name"):
        del chosen[irrelevant]
    depends_on = [
        distributed.on_main(lambda: models.weights_fingerprint(run.model, path)),
        dataclasses.asdict(run.model.template),
        [run.model.dtype, run.model.attn_implementation, run.model.tokenizer_path],
        [run.data.max_length, run.data.question_key, run.data.answer_key, run.data.text_key],
        chosen,
        inputs.eval_rows,
    ]
    return store.cached(depends_on, lambda: evaluate_model(run, inputs, model(), title))


def retain_evaluation(run: Run, inputs: Inputs, device: torch.device) -> Evaluation | None:
    """The evaluation of the retain model, where one is known."""
    place = retain_of(run)
    if place is None or not inputs.eval_rows:
        return None
    path = model_path(run, place)
    found = known_evaluation(run, inputs, path, "retain model", lambda: load(run, path, device))
    gc.collect()
    return found


def checkpoint_evaluation(
    run: Run, folder: RunFolder, inputs: Inputs, device: torch.device
) -> Evaluation | None:
    """The suite on what was saved, loaded as anyone would load it."""
    if not inputs.eval_rows:
        return None
    gc.collect()
    model = models.load_model(run.model, str(folder.checkpoint)).to(device)
    return evaluate_model(run, inputs, model, "checkpoint")


def report(
    run: Run,
    folder: RunFolder,
    evaluation: Evaluation | None,
    others: dict[str, Evaluation | None],
) -> None:
    """Write evaluation/ and report/ (main process)."""
    if evaluation is None or distributed.rank() != 0:
        return
    figures: dict[str, dict[str, float]] = {}
    for name, other in others.items():
        if other is not None:
            figures[name] = dict(other.metrics)
            for mine, theirs in zip(evaluation.samples, other.samples, strict=True):
                if "generation" in theirs:
                    mine[f"{name}_generation"] = theirs["generation"]
    retain = others.get("retain")
    if any(s["set"] == "forget" for s in evaluation.samples):
        quality, reason = forget_quality(evaluation, retain)
        if quality is None:
            evaluation.missing["forget_quality"] = reason
        else:
            evaluation.metrics["forget_quality"] = quality
            target = others.get("target")
            if target is not None:
                value, _ = forget_quality(target, retain)
                if value is not None:
                    figures["target"]["forget_quality"] = value
    store.save(
        folder.evaluation,
        evaluation,
        {
            "suite": run.eval.name,
            "model": run.model.name,
            "data": run.data.name,
            "target": figures.get("target", {}),
            "reference": figures.get("retain", {}),
        },
    )
    summary.write(run, folder)


