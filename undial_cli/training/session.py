"""Train and save: from the model at a path to a checkpoint in Hugging Face format.

Knows what is trained, on what and by what method; not which run asked for it, nor what becomes of
the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli import ui
from undial_cli.config.schema import TrainingRun, UnlearnRun, is_sharded, uses_deepspeed
from undial_cli.config.training import TeacherConfig
from undial_cli.data.example import Example
from undial_cli.data.schedule import Schedule, TrainingSample
from undial_cli.evaluation.evaluate import evaluate_suite
from undial_cli.evaluation.suite import Suite
from undial_cli.methods.base import Method
from undial_cli.models import adapters, fingerprints, lean_forwards, lora, paths
from undial_cli.models.load import load_run_model
from undial_cli.models.quantise import choose_rounding
from undial_cli.system import signals
from undial_cli.system.files import make_private_folder, remove_folder, whole_folder
from undial_cli.system.processes import run_on_main, wait_for_all
from undial_cli.system.random_state import preserve_random_state
from undial_cli.training import merging
from undial_cli.training.best_weights import BestWeights, copy_weights, write_selection
from undial_cli.training.callbacks import PeriodicEvaluation, Watcher, ends_on_checkpoint
from undial_cli.training.layers import choose_trained_parameters
from undial_cli.training.loop import is_packed, make_schedule, run_training
from undial_cli.training.saliency import train_salient_modules
from undial_cli.training.selection import Selection
from undial_cli.training.states import find_damage, seal_state
from undial_cli.training.stopping import EarlyStop, measure_stop_figures
from undial_cli.training.teacher import make_teacher


@dataclass(frozen=True)
class TrainingSession:
    """One training.

    `path`: the model that it starts from. `anchor`: the set that its epochs count. `sets`,
    `samples`: training sets by name, and what their examples are drawn as. `suite`, `watched`,
    `answers`: what is evaluated on the way, the texts and the forget set of an early stop.
    `questions`: of each forget example the examples whose questions the teacher is asked too.
    `selection`: by what the best weights are chosen, where they are.
    `folder`: where metrics.jsonl and the state to resume from lie. `complete`: puts beside the
    weights of a checkpoint what else belongs to it.
    """

    run: TrainingRun
    path: str
    method: Method
    anchor: str
    teacher: TeacherConfig
    tokenizer: PreTrainedTokenizerBase
    sets: dict[str, Sequence[Example]]
    samples: dict[str, list[TrainingSample]]
    suite: Suite
    watched: list[Example]
    answers: Sequence[Example]
    folder: Path
    checkpoint: Path
    complete: Callable[[Path], None]
    questions: Sequence[tuple[int, ...]] = ()
    selection: Selection | None = None

    @property
    def start_weights(self) -> Path:
        """Where the weights before training are kept for a method that is made of both."""
        return self.folder / "resume" / "start"


def train_and_save(session: TrainingSession, device: torch.device) -> None:
    """Train a model by its method and write the checkpoint, whole or not at all."""
    run, path, method = session.run, session.path, session.method
    merges = is_saved_merged(session)
    # A sharded model is dealt out from the host's memory: whole, it may not fit on one device.
    model = load_run_model(run, path, torch.device("cpu") if is_sharded(run) else device)
    if device.type == "cpu":
        announce_cpu_limits(run)
    if run.train.lean == "auto":
        lean_forwards.make_lean(model)
    if method.from_start and (run.adapter.name == "none" or merges):
        run_on_main(lambda: save_start_weights(session, model))
    lora.announce_modules(model, run.adapter)
    revision = fingerprints.find_adapter_revision(run.model, path)
    model = lora.adapt_model(model, run.adapter, run.seed, revision)
    choose_trained_parameters(model, method, run.train.layers)
    if isinstance(run, UnlearnRun) and run.method.saliency is not None:
        size = run.hardware.micro_batch_size or run.train.batch_size
        train_salient_modules(
            model, session.sets["forget"], run.method.saliency, size, session.folder / "resume"
        )
    packs = is_packed(run, model)
    schedule = make_schedule(run, session.sets, session.samples, session.anchor, packs)
    for line in schedule.describe_unseen():
        ui.say(line)
    weights = run_on_main(lambda: fingerprints.fingerprint_weights(run.model, path, run.seed))
    teacher = make_teacher(
        run, session.teacher, model, method.terms(), schedule, weights, session.questions
    )
    base = adapters.unwrap_adapter(model)
    use_cache = getattr(base.config, "use_cache", None)
    watchers = make_watchers(session, model, schedule)
    best = next((watcher for watcher in watchers if isinstance(watcher, BestWeights)), None)
    with signals.hold_signals():  # until the checkpoint is written, if the last step is done
        trainer = run_training(run, model, method, schedule, teacher, session.folder, watchers)
        if use_cache is not None:  # the Trainer switches it off, and it is saved with the config
            base.config.use_cache = use_cache
        save_checkpoint(session, trainer, merges, best)
    if uses_deepspeed(run):
        unset_hf_deepspeed_config()  # or transformers would load the next model in shares, too


def announce_cpu_limits(run: TrainingRun) -> None:
    """Say what of a run's settings does less on a CPU than on a GPU."""
    if run.adapter.name == "qlora":
        ui.say(
            "adapter=qlora on a CPU saves memory and is slow: every product unpacks its weights "
            "first (adapter=lora does not)",
            "yellow",
        )
    if "paged" in run.train.optim:
        ui.say(f"train.optim={run.train.optim}: nothing is paged on a CPU", "yellow")


def is_saved_merged(session: TrainingSession) -> bool:
    """Whether a fresh adapter is saved as part of the weights: as asked, or as it must be."""
    run = session.run
    reason = paths.explain_merge(run.model, session.path)
    if run.adapter.name != "none" and not run.adapter.merge and reason is not None:
        ui.say(f"{reason}: the checkpoint is saved merged", "yellow")
        return True
    return run.adapter.merge


def make_watchers(session: TrainingSession, model: Any, schedule: Schedule) -> list[Watcher]:
    """What looks at the model while it is trained."""
    run, stop = session.run, session.run.train.stop
    watchers: list[Watcher] = []
    if stop.is_on:
        watchers.append(
            EarlyStop(
                stop,
                schedule.steps_per_epoch,
                session.folder / "metrics.jsonl",
                lambda: measure_stop_figures(
                    model, stop, session.watched, session.answers, run.eval.batch_size
                ),
            )
        )
    # After the early stop: what is the last step is known, whatever makes it the last.
    every = run.train.eval_steps
    if every and session.selection is not None:
        watchers.append(
            BestWeights(
                every,
                session.selection,
                session.folder,
                adapters.unwrap_adapter(model),
                partial(complete_weights, session),
                partial(session.selection.measure, model),
            )
        )
    elif every:
        last = not ends_on_checkpoint(run.train)
        watchers.append(
            PeriodicEvaluation(every, last, lambda: evaluate_in_training(session.suite, model))
        )
    return watchers


def evaluate_in_training(suite: Suite, model: Any) -> dict[str, float | None]:
    """The suite's metrics on a model in training; all random number generators are put back."""
    with preserve_random_state():
        return evaluate_suite(model, suite, "on the way", alone=True).metrics


def save_start_weights(session: TrainingSession, model: Any) -> None:
    """Write the weights before training whole or not at all, unless they are there as written."""
    folder = session.start_weights
    if find_damage(folder):
        remove_folder(folder)
        make_private_folder(folder.parent)
        with whole_folder(folder, private=True) as unfinished:
            (load_whole(session) if choose_rounding(session.run) else model).save_pretrained(
                unfinished
            )
            seal_state(unfinished)


def load_whole(session: TrainingSession) -> Any:
    """The model before training, none of its layers rounded, in the host's memory."""
    return load_run_model(session.run, session.path, torch.device("cpu"), rounds=False)


def complete_weights(session: TrainingSession, folder: Path) -> None:
    """Put the tokenizer beside saved weights, and take away what is of no use there."""
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle
    adapters.order_adapter_modules(folder)
    session.tokenizer.save_pretrained(folder)


def save_checkpoint(
    session: TrainingSession, trainer: Any, merges: bool, best: BestWeights | None
) -> None:
    """Write the checkpoint folder, whole or not at all, with its tokenizer."""
    adapts = session.run.adapter.name != "none"
    chosen = best.find_chosen_weights() if best is not None else None
    if chosen is not None and merges and adapts:  # then they are merged as the last ones are
        adapters.load_adapter_weights(trainer.accelerator.unwrap_model(trainer.model), chosen)
        chosen = None
    with whole_folder(session.checkpoint, run_on_main) as unfinished:
        if merges and choose_rounding(session.run):
            run_on_main(lambda: save_merged_whole(session, trainer, unfinished))
        elif merges and adapts:
            merged = adapters.merge_adapter(trainer.accelerator.unwrap_model(trainer.model))
            run_on_main(lambda: merged.save_pretrained(unfinished))
        elif chosen is not None:
            run_on_main(lambda: copy_weights(chosen, unfinished))
        else:
            trainer.save_model(str(unfinished))  # by all processes: each holds a part if sharded
        wait_for_all()

        def complete() -> None:
            start = session.start_weights
            complete_weights(session, unfinished)
            session.method.finish(unfinished, start if start.is_dir() else None)
            if best is not None:
                write_selection(unfinished, best.make_record())
            session.complete(unfinished)

        run_on_main(complete)


def save_merged_whole(session: TrainingSession, trainer: Any, folder: Path) -> None:
    """Write the whole weights with the trained adapter merged into them, and say what is lost."""
    trained, run = trainer.accelerator.unwrap_model(trainer.model), session.run
    merged, loss = merging.merge_into_whole(
        trained, load_whole(session), run.adapter, run.seed, session.sets.values()
    )
    merged.save_pretrained(folder)
    merging.write_merge_loss(folder, loss)
    ui.say(loss.describe(), "yellow")
