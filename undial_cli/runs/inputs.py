"""What a run reads before it computes: rows, tokenizer, encoded examples, places of its models.

Called once by the parent, where everything wrong is found before anything is written, and again
by each worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undial_cli import ui
from undial_cli.config.datasets import DataConfig
from undial_cli.config.identity import digest_json, hash_json
from undial_cli.config.schema import AlternativesRun, AuditRun, Run, TrainingRun, UnlearnRun
from undial_cli.config.splits import list_splits, name_data_key
from undial_cli.data import alternatives, samples
from undial_cli.data.contents import count_repeated_rows
from undial_cli.data.counts import RowCounts
from undial_cli.data.encode import Encoder
from undial_cli.data.example import Example
from undial_cli.data.load import load_rows
from undial_cli.data.other_questions import draw_for_set
from undial_cli.data.rows import Row
from undial_cli.data.schedule import TrainingSample
from undial_cli.data.selection import select_rows
from undial_cli.data.stored_rows import StoredRows
from undial_cli.data.template import describe_unread_keys
from undial_cli.data.tokens import fingerprint_tokenizer
from undial_cli.errors import UserError, WorldError
from undial_cli.evaluation.drawn_alternatives import AskedRow
from undial_cli.evaluation.held_apart import DividedSuite
from undial_cli.evaluation.suite import Suite, check_suite_fits
from undial_cli.methods.base import Method
from undial_cli.models import fingerprints, inspection, load
from undial_cli.models.capacity import check_tokenizer_fits, check_training_set_fits
from undial_cli.planning.room import check_disk_room
from undial_cli.runs.alternatives import prepare_questions
from undial_cli.runs.data_checks import check_training_data
from undial_cli.runs.data_notes import (
    check_data_keys,
    describe_overlap,
    describe_unread_columns,
)
from undial_cli.runs.evaluation_inputs import (
    RetainReference,
    check_contrasted_models,
    check_helper_model,
    check_helper_models,
    check_same_tokenizer,
    find_retain_reference,
    load_evaluation_rows,
)
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.selections import divide_for_selection, restrict_reference
from undial_cli.runs.targets import resolve_published_target
from undial_cli.system.files import hash_files
from undial_cli.system.source_paths import resolve_model_path
from undial_cli.training.fit import check_fit, check_rounded_target


@dataclass
class RunInputs:
    """What a run reads; its training sets by name (`forget`, `retain`, `train`)."""

    encoder: Encoder
    sets: dict[str, Sequence[Example]]
    samples: dict[str, list[TrainingSample]]  # of a set whose samples are several examples
    suite: Suite  # with its rows
    reference: RetainReference
    published_target: str | None  # the data's own, where another model is evaluated
    tokenizer_fingerprint: str
    fingerprint: dict[str, str]
    watched: list[Example] = field(default_factory=list)  # the texts of train.stop
    asked: list[AskedRow] = field(default_factory=list)  # for other answers
    # Of each forget example the examples whose questions a teacher is asked too.
    questions: list[tuple[int, ...]] = field(default_factory=list)
    counts: dict[str, RowCounts] = field(default_factory=dict)  # what became of a set's rows
    notes: list[str] = field(default_factory=list)  # lines on the rows, for the user to read
    digests: dict[str, str] = field(default_factory=dict)  # of the rows of each set, for evidence
    divided: DividedSuite | None = None  # of train.select: the suite in two,
    apart: RunInputs | None = None  # and the inputs with the part of it that is held apart

    def record(self) -> dict[str, Any]:
        """What the run folder keeps of them: hashes, and what became of the rows."""
        rows = {name: counts.record() for name, counts in self.counts.items()}
        return {**self.fingerprint, "rows": rows, "digests": self.digests}

    def answers(self, name: str) -> Sequence[Example]:
        """The examples of a set that are its own answers, not those to prefer."""
        examples = self.sets.get(name, [])
        pairs = self.samples.get(name)
        return [examples[i] for i in sorted({p[0][0] for p in pairs})] if pairs else examples


@dataclass
class TrainingRows:
    """The rows that a run trains on, by set, and what goes with them."""

    read: dict[str, Sequence[Row]]
    used: dict[str, Sequence[Row]]  # those within data.limit
    preferred: list[list[list[str]]]  # answers to prefer over those of the forget set
    watched: Sequence[Row]  # the texts of train.stop


def prepare_inputs(resolved: ResolvedRun, weights: bool = True) -> RunInputs:
    """Load and encode what the run needs, but weights: what is wrong is to be said within seconds.

    Args:
        weights: those of the model must be there; without, their fingerprint is "".

    Raises:
        UserError: data or model are not what the config says.
        WorldError: the hub cannot be reached.
    """
    run, method, path = resolved.run, resolved.method, resolved.base
    check_data_keys(run.data)
    rows = load_all_training_rows(run, method)
    notes = describe_overlap(run.data, rows.used)
    if resolved.target_model.path is not None:
        resolve_model_path(resolved.target_model.path, "model.path")
    check_contrasted_models(run, path, method)
    adapter = run.adapter if isinstance(run, TrainingRun) else None
    capacity = inspection.check_model(run.model, path, adapter, weights, find_deepest_layer(method))
    check_fit(run, path, method)
    if resolved.target_model.path is not None and weights:
        check_rounded_target(run, resolved.target_model.path)
    if isinstance(run, TrainingRun) and weights:
        samples = len(rows.used[resolved.anchor])
        notes += check_disk_room(run, resolved.folder.path, capacity, samples)
    tokenizer = load.load_tokenizer(run.model, path, weights)
    check_tokenizer_fits(capacity, tokenizer)
    encoder = Encoder(tokenizer, run.model.template, run.data)
    notes += describe_unread_keys(tokenizer, run.model.template)
    suite = Suite(run.eval, encoder, load_evaluation_rows(run, encoder), run.seed)
    check_suite_fits(capacity, suite, run.data.max_length)  # encodes, and says what cannot be
    check_helper_models(run.eval)
    if isinstance(run, AuditRun | UnlearnRun) and run.audit.is_on:
        judge = run.audit.judge.path
        check_helper_model("audit.judge.path", judge, run.eval.allow_pickle, speaks=True)
    fingerprint = fingerprint_inputs(resolved, rows, suite, weights)
    sets = encode_training_sets(run, method, encoder, rows)
    for name, part in sets.items():
        notes.append(part.counts.describe(name, run.data.max_length))
        check_training_set_fits(capacity, run.data.max_length, name, part)
    notes += check_training_data(run.data, rows.used, sets).describe(run.data.max_length)
    notes += describe_unread_columns(run, rows.used, suite)
    asked = list[AskedRow]()
    if isinstance(run, AlternativesRun):
        read, used = len(rows.read["forget"]), rows.used["forget"]
        asked = prepare_questions(run, used, encoder, capacity)
        notes.append(f"forget: {read:,} rows read, {len(asked):,} asked")
    questions, others = list[tuple[int, ...]](), method and method.other_questions
    if others and "forget" in sets:
        questions, lines = draw_for_set(
            others, rows.used["forget"], sets["forget"], run.data, run.seed
        )
        notes += lines
    watched = encode_watched_texts(encoder, run, rows.watched)
    if watched:
        notes.append(f"train.stop: {len(watched):,} texts watched, of {len(rows.watched):,} read")
    inputs = RunInputs(
        encoder,
        {name: part.examples for name, part in sets.items()},
        {name: part.samples for name, part in sets.items() if part.samples},
        suite,
        find_retain_reference(resolved, suite),
        locate_published_target(resolved, suite),
        fingerprint_tokenizer(encoder.tokenizer),
        fingerprint,
        watched,
        asked,
        questions,
        {name: part.counts for name, part in sets.items()},
        notes,
        digest_sets(rows, suite),
    )
    return hold_rows_apart(run, inputs)


def hold_rows_apart(run: Run, inputs: RunInputs) -> RunInputs:
    """The inputs with the rows that are reported, where others are held apart to choose by."""
    divided = divide_for_selection(run, inputs.suite, inputs.reference)
    if divided is None:
        return inputs
    inputs.notes.append(f"train.select: held apart to choose by are {divided.describe()}")
    apart, reported = (
        dataclasses.replace(
            inputs, suite=part, reference=restrict_reference(inputs.reference, part)
        )
        for part in (divided.apart, divided.reported)
    )
    return dataclasses.replace(reported, divided=divided, apart=apart)


def digest_sets(rows: TrainingRows, suite: Suite) -> dict[str, str]:
    """The SHA-256 of each set's rows as canonical JSON: those trained on, those evaluated."""
    sets: dict[str, Any] = dict(rows.used)
    sets |= {f"eval.sets.{name}": part.rows for name, part in suite.rows.items()}
    return {
        name: content.digest if isinstance(content, StoredRows) else digest_json(content)
        for name, content in sets.items()
    }


def load_all_training_rows(run: Run, method: Method | None) -> TrainingRows:
    """The rows of each set that a term of the method trains on, and those that go with them."""
    names = method.terms() if method is not None else ()
    names = ("forget",) if isinstance(run, AlternativesRun) else names
    read = {name: load_training_rows(run.data, name) for name in names}
    used = {name: rows[: run.data.limit] for name, rows in read.items()}
    preferred = collect_preferred_answers(run, method, used)
    return TrainingRows(read, used, preferred, load_watched_rows(run))


def fingerprint_inputs(
    resolved: ResolvedRun, rows: TrainingRows, suite: Suite, weights: bool
) -> dict[str, str]:
    """Hashes of what a run reads; a folder whose run read something else is never resumed."""
    run, path = resolved.run, resolved.target_model.path
    model = "made" if path is None else ""
    if path is not None and weights:
        model = fingerprints.fingerprint_weights(run.model, path)
    data = [rows.used, {name: part.content() for name, part in suite.rows.items()}]
    if rows.preferred or rows.watched:
        data += [rows.preferred, rows.watched]
    fingerprint = {"data": hash_json(data), "model": model}
    if isinstance(run, UnlearnRun) and run.method.file is not None:
        fingerprint["method"] = hash_files(Path(run.method.file))
    if run.eval.metric_file is not None:
        fingerprint["metrics"] = hash_files(Path(run.eval.metric_file))
    return fingerprint


def encode_training_sets(
    run: Run, method: Method | None, encoder: Encoder, rows: TrainingRows
) -> dict[str, samples.TrainingSet]:
    """The examples of each training set, with what became of its rows."""
    sets = {}
    for name, used in rows.used.items() if isinstance(run, TrainingRun) else ():
        if name == "forget" and rows.preferred:
            encoded = samples.encode_preference_pairs(encoder, used, name, rows.preferred)
        else:
            focus = method.focus if method is not None and name == "forget" else None
            encoded = samples.encode_training_set(encoder, used, name, focus)
        encoded.counts.beyond = len(rows.read[name]) - len(used)
        encoded.counts.repeated = count_repeated_rows(used, run.data)
        sets[name] = encoded
    return sets


def collect_preferred_answers(
    run: Run, method: Method | None, rows: dict[str, Sequence[Row]]
) -> list[list[list[str]]]:
    """The answers to prefer over those of the forget set, for a method that asks for them."""
    if method is None or method.alternatives is None or "forget" not in rows:
        return []
    assert isinstance(run, TrainingRun)
    train, forget = run.train, rows["forget"]
    drawn = train.epochs * len(rows[run.data.anchor])
    if train.max_steps is not None:
        drawn = train.max_steps * train.batch_size
    turns = drawn / len(forget)  # how often each row comes up, each time with another answer
    key = f"method={run.method.name}" if isinstance(run, UnlearnRun) else "data.forget_split"
    return alternatives.collect_alternatives(
        forget, run.data, method.alternatives, math.ceil(turns) + 1, run.seed, key
    )


def find_deepest_layer(method: Method | None) -> int | None:
    """The last layer that a method looks at."""
    depths = [term.layer for term in method.terms().values()] if method else []
    return max((d for d in depths if d is not None), default=None)


def load_watched_rows(run: Run) -> Sequence[Row]:
    """The texts whose perplexity may end the training."""
    if not isinstance(run, TrainingRun) or run.train.stop.perplexity_ratio is None:
        return []
    stop = run.train.stop
    data = dataclasses.replace(run.data, path=None)
    return load_rows(data, [str(stop.split)], "train.stop.split", stop.path)


def encode_watched_texts(encoder: Encoder, run: Run, rows: Sequence[Row]) -> list[Example]:
    """The first tokens of each text; only texts that are long enough."""
    if not rows:
        return []
    assert isinstance(run, TrainingRun)
    stop, watched = run.train.stop, []
    short = dataclasses.replace(encoder, data=dataclasses.replace(run.data, max_length=stop.tokens))
    for row in rows:
        pieces = short.encode_document(row) if str(row.get(run.data.text_key, "")).strip() else []
        watched += [p for p in pieces[:1] if len(p.input_ids) == stop.tokens]
        if len(watched) == stop.limit:
            break
    if not watched:
        raise UserError(f"train.stop.split={stop.split}: no text of {stop.tokens} tokens in it")
    return watched


def locate_published_target(resolved: ResolvedRun, suite: Suite) -> str | None:
    """The path of the data's own target, where another model is evaluated or audited."""
    run = resolved.run
    if isinstance(run, AuditRun):
        return locate_audit_target(resolved, run, suite)
    location = resolve_published_target(run) if run.command == "evaluate" else None
    if location is None:
        return None
    # Only shown for comparison: a target out of reach is no reason to refuse the run.
    with contextlib.suppress(UserError, WorldError, OSError):
        path = resolved.find_path(location)
        resolve_model_path(path)
        return path
    return None


def locate_audit_target(resolved: ResolvedRun, run: AuditRun, suite: Suite) -> str | None:
    """The path of the model that the audited one was made of; made first, where it is to be."""
    location = resolve_published_target(run)
    if location is None and run.model.path is None:
        location = resolved.target_model  # it is the target that is audited
    if location is None or location.path is None:
        return location and resolved.find_path(location)
    try:
        resolve_model_path(location.path, "audit.target")
        with load.blame_key("audit.target"):
            inspection.check_model(run.model, location.path)
    except (UserError, WorldError) as error:
        if run.audit.target is not None:
            raise
        ui.say(f"without a target model: {error}", "yellow")  # only the configs name it
        return None
    check_same_tokenizer(run, suite, location.path, "audit.target")
    return location.path


def load_training_rows(data: DataConfig, name: str) -> Sequence[Row]:
    """The rows of a training set, those beyond `data.limit` as well."""
    key = name_data_key(data, name)
    splits = list_splits(getattr(data, key.removeprefix("data.")))
    if not splits:
        raise UserError(f"{key}: not set, and this run needs it")
    rows = load_rows(data, splits, key)
    return select_rows(rows, data.where, key, "data.where") if name == "forget" else rows
