"""Attacks by training: the model is fine-tuned for a while, then asked as it was trained.

What comes back faster than in a model that never saw it was not gone. The existing trainer trains a
copy, by plain fine-tuning; no checkpoint is written. Knows no method of unlearning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from transformers import TrainerControl, TrainerState

from undial_cli.audit.answers import ask_probes
from undial_cli.audit.attack import AttackedModel, AttackKind, AuditData, CannotServe, Outcome
from undial_cli.audit.probes import make_direct_probes
from undial_cli.audit.variants import join_variants, make_curves
from undial_cli.config.attacks import RelearnConfig
from undial_cli.config.schema import FinetuneRun, is_sharded, uses_deepspeed
from undial_cli.config.training import AdapterConfig, TrainConfig
from undial_cli.data.load import load_rows
from undial_cli.data.rows import Row
from undial_cli.data.samples import TrainingSet, encode_training_set
from undial_cli.errors import UserError
from undial_cli.evaluation.prompts import adapt_data_config
from undial_cli.evaluation.sharding import Journal
from undial_cli.methods.finetune import Supervised
from undial_cli.models import lean_forwards, lora
from undial_cli.models.contrastive import ContrastedModel
from undial_cli.models.head import evaluation_mode
from undial_cli.system import processes
from undial_cli.system.files import locate_in_cache, make_private_folder
from undial_cli.system.memory import give_back_memory
from undial_cli.system.private_files import note_private
from undial_cli.system.random_state import preserve_random_state
from undial_cli.training.callbacks import Watcher
from undial_cli.training.loop import is_packed, make_schedule, run_training


@dataclass(frozen=True)
class Part:
    """One training of an attack: what is trained, and the positions of the rows asked about."""

    training: TrainingSet
    asked: list[int]


class AskAt(Watcher):
    """Asks the model in training after some of its steps."""

    def __init__(self, steps: list[int], ask: Callable[[int], None]) -> None:
        super().__init__(lambda: {"asked": ask(self.step)})
        self.steps, self.step = steps, 0

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.step = state.global_step
        if self.step in self.steps:
            self.ask()


def relearn_rows(
    attacked: AttackedModel, data: AuditData, config: RelearnConfig, journal: Journal
) -> Outcome:
    """Fine-tune a copy of the model and ask it, once or after several steps."""
    run = make_training_run(attacked, data, config)
    if is_sharded(run) or uses_deepspeed(run):
        raise CannotServe(
            f"hardware={run.hardware.name} leaves no process a whole model to ask; "
            "relearn_lora, with hardware=ddp, trains one that fits"
        )
    parts = choose_parts(data, config, attacked.seed)
    by_step: dict[int, list[Outcome]] = {}
    for number, part in enumerate(parts):
        chosen = data.take_rows(part.asked)
        asked = relearn_part(attacked, chosen, part.training, run, config, journal, number)
        for step, outcome in asked.items():
            by_step.setdefault(step, []).append(outcome)
    steps = {step: merge_parts(data, outcomes) for step, outcomes in sorted(by_step.items())}
    outcome = join_variants(list(steps.values()), fmean)
    outcome.curves = {**make_curves("step", {str(n): o for n, o in steps.items()})}
    outcome.notes.append(describe_training(run, parts, config, max(steps)))
    return outcome


def relearn_part(
    attacked: AttackedModel,
    data: AuditData,
    training: TrainingSet,
    run: FinetuneRun,
    config: RelearnConfig,
    journal: Journal,
    number: int,
) -> dict[int, Outcome]:
    """One training from the model's own weights: what it said, by the steps it was asked after.

    Args:
        data: the rows that are asked about.
        number: of the training, among those of the attack.
    """
    probes, outcomes = make_direct_probes(data), dict[int, Outcome]()
    model: Any = attacked.load_attacked()
    if isinstance(model, ContrastedModel):
        raise CannotServe("two models that are decoded together are not trained as one")
    if run.train.lean == "auto":
        lean_forwards.make_lean(model)
    model = lora.adapt_model(model, run.adapter, run.seed)
    packs = is_packed(run, model)
    schedule = make_schedule(run, {"train": training.examples}, {}, "train", packs)
    steps = sorted(set(config.ask_at)) or [schedule.steps]

    def ask(step: int) -> None:
        with plain_forward(model), evaluation_mode(model), preserve_random_state():
            name, length = f"relearn-{number}-{step}", config.max_new_tokens
            outcomes[step] = ask_probes(attacked, data, probes, journal, name, length, model=model)

    with open_training_folder(journal, number) as folder, preserve_random_state():
        # The last step's answers are asked for when the optimiser's memory is free again. No name
        # for the watcher, which holds the trainer.
        watched = steps[:-1]
        run_training(run, model, Supervised(), schedule, None, folder, [AskAt(watched, ask)])
        give_back_memory()  # the trainer's
        model.zero_grad(set_to_none=True)
        for step in steps:
            # Those before which a training was resumed are in the journal, all of them: the state
            # to resume from is saved after them.
            if step not in outcomes:
                ask(step)
    return dict(sorted(outcomes.items()))


@contextlib.contextmanager
def plain_forward(model: Any) -> Iterator[None]:
    """The model's own forward, as it is asked before a training: without autocast around it."""
    wrapped = vars(model).pop("forward", None)  # accelerate's, an attribute of the instance
    try:
        yield
    finally:
        if wrapped is not None:
            model.forward = wrapped


def make_training_run(
    attacked: AttackedModel, data: AuditData, config: RelearnConfig
) -> FinetuneRun:
    """The fine-tuning that an attack stands for, on the hardware of the audit's run."""
    steps = max(config.ask_at) if config.ask_at else config.max_steps
    if steps is None and (config.texts is not None or config.train_on == "retain"):
        # As long as a training on the forget rows: what is compared is what is trained on.
        forget = len(encode_rows(data, data.rows, data.forget_set).examples)
        steps = max(1, round(config.epochs * math.ceil(forget / config.batch_size)))
    adapter = AdapterConfig()
    if config.lora_rank is not None:
        adapter = AdapterConfig("lora", config.lora_rank, config.lora_alpha, 0.0, ["all-linear"])
    run = attacked.run
    return FinetuneRun(
        command="finetune",
        model=run.model,
        data=data.encoder.data,
        hardware=run.hardware,
        eval=run.eval,
        seed=attacked.seed,
        report=False,
        adapter=adapter,
        train=TrainConfig(
            learning_rate=config.learning_rate,
            batch_size=config.batch_size,
            epochs=config.epochs,
            max_steps=steps,
            scheduler="constant",
            weight_decay=0.0,
        ),
    )


def choose_parts(data: AuditData, config: RelearnConfig, seed: int) -> list[Part]:
    """What is trained and what is asked about after it.

    Raises:
        CannotServe: the data have no such rows.
    """
    everything = list(range(len(data.rows)))
    if config.texts is not None:
        plain = dataclasses.replace(data.encoder.data, path=None)
        try:
            rows = load_rows(plain, [config.texts], "texts")
        except UserError as error:
            raise CannotServe(str(error)) from error
        return [Part(encode_rows(data, rows, None), everything)]
    if config.train_on == "forget":
        return [Part(encode_rows(data, data.rows, data.forget_set), everything)]
    if config.train_on == "retain":
        if data.retain_set is None or not data.retain_rows:
            raise CannotServe("the suite has no retain set to train on")
        return [Part(encode_rows(data, data.retain_rows, data.retain_set), everything)]
    halves = split_subjects(data.subjects, seed)
    if not all(halves):
        raise CannotServe("one row cannot be split into halves")
    trained = [[data.rows[i] for i in half] for half in halves]
    return [
        Part(encode_rows(data, rows, data.forget_set), other)
        for rows, other in zip(trained, reversed(halves), strict=True)
    ]


def split_subjects(subjects: list[int], seed: int) -> tuple[list[int], list[int]]:
    """The positions of rows in two halves that share no subject; of rows, where there is but one.

    Which subjects go where is drawn by the seed.
    """
    units = subjects if len(set(subjects)) > 1 else list(range(len(subjects)))
    drawn = np.random.default_rng(seed).permutation(sorted(set(units))).tolist()
    first = set(drawn[: len(drawn) // 2])
    return (
        [i for i, unit in enumerate(units) if unit in first],
        [i for i, unit in enumerate(units) if unit not in first],
    )


def encode_rows(data: AuditData, rows: Sequence[Row], set_name: str | None) -> TrainingSet:
    """Rows as they are trained on; of a set of the suite with its own columns.

    Raises:
        CannotServe: none can be trained on.
    """
    encoder = data.encoder
    if set_name is not None:
        adapted = adapt_data_config(encoder.data, data.suite.config.sets[set_name])
        # A document is trained in pieces of data.max_length, however much of it is asked for.
        adapted = dataclasses.replace(adapted, max_length=encoder.data.max_length)
        encoder = dataclasses.replace(encoder, data=adapted)
    try:
        return encode_training_set(encoder, rows, set_name or "texts")
    except UserError as error:
        raise CannotServe(str(error)) from error


def merge_parts(data: AuditData, outcomes: list[Outcome]) -> Outcome:
    """What trainings got of different rows as one outcome, in the order of the rows."""
    of_number = {n: (o, i) for o in outcomes for i, n in enumerate(o.numbers)}
    chosen = [of_number[number] for number in data.numbers]
    names = dict.fromkeys(name for outcome in outcomes for name in outcome.scores)
    return Outcome(
        list(data.numbers),
        {name: [o.scores[name][i] if name in o.scores else None for o, i in chosen]
         for name in names},
        [o.texts[i] for o, i in chosen],
        [o.prompts[i] for o, i in chosen],
    )  # fmt: skip


def describe_training(
    run: FinetuneRun, parts: list[Part], config: RelearnConfig, steps: int
) -> str:
    """What was trained, in a line for the user."""
    rows = " and ".join(str(len(set(part.training.row_numbers))) for part in parts)
    source = "a file" if config.texts else config.train_on
    weights = "all weights"
    if config.lora_rank is not None:
        weights = f"a LoRA of rank {config.lora_rank} on all linear layers"
    length = f"{steps} step{'s' if steps > 1 else ''} of {config.batch_size}"
    rate = f"learning rate {config.learning_rate:g}, constant"
    trained = f"trained on {rows} rows ({source})"
    return f"{trained}: {length}, AdamW, {rate}, {weights}, {run.model.dtype}"


@contextlib.contextmanager
def open_training_folder(journal: Journal, number: int) -> Iterator[Path]:
    """Where a training logs and keeps its state, for all processes; gone when it is done.

    With a journal's folder the state of a training that was interrupted stays, to go on from.
    """
    base = journal.folder or make_private_folder(locate_in_cache("relearning"))
    if journal.folder is None:
        base = Path(processes.run_on_main(lambda: tempfile.mkdtemp(dir=base)))
    folder = base / f"training-{number}"
    processes.run_on_main(lambda: make_private_folder(folder))
    note_private(base)
    done = False
    try:
        yield folder
        done = True
    finally:
        if done:
            processes.run_on_main(lambda: shutil.rmtree(folder, ignore_errors=True))
        if journal.folder is None and processes.get_process_rank() == 0:
            shutil.rmtree(base, ignore_errors=True)


def check_relearning(data: AuditData, config: RelearnConfig) -> None:
    """Raise CannotServe where the data hold nothing that can be trained on."""
    choose_parts(data, config, seed=0)


RELEARN = AttackKind(relearn_rows, check_relearning, changes_weights=True)
