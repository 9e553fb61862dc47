"""What a run reads before it computes: rows, tokenizer, encoded examples, places of its models.

Called once by the parent, where everything wrong is found before anything is written, and again
by each worker.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from undial_cli.config.schema import DataConfig, Run, TrainingRun, UnlearnRun, hash_json
from undial_cli.config.splits import list_splits
from undial_cli.data import alternatives, samples
from undial_cli.data.counts import RowCounts
from undial_cli.data.encode import Encoder, Example
from undial_cli.data.load import load_rows
from undial_cli.data.rows import Row, count_repeated_rows
from undial_cli.data.schedule import TrainingSample
from undial_cli.data.template import describe_unread_keys
from undial_cli.errors import UserError, WorldError
from undial_cli.evaluation.suite import Suite, check_suite_fits
from undial_cli.methods.base import Method
from undial_cli.models import fingerprints, load
from undial_cli.models.capacity import check_training_set_fits
from undial_cli.runs.evaluation_inputs import (
    RetainReference,
    check_contrasted_models,
    check_helper_models,
    find_retain_reference,
    load_evaluation_rows,
)
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.row_notes import (
    check_data_keys,
    describe_overlap,
    describe_unread_columns,
    name_data_key,
)
from undial_cli.runs.targets import resolve_published_target
from undial_cli.system.files import hash_files
from undial_cli.system.sources import resolve_model_path
from undial_cli.training.fit import check_fit


@dataclass
class RunInputs:
    """What a run reads.

    Training sets by name (`forget`, `retain`, `train`), and of some the samples that their examples
    make; the suite with its rows, the encoder, and what the evaluation is compared with;
    `target_beside`: path of the data's own target where another model is evaluated; `watched`: the
    texts of `train.stop`; `counts`: what became of the rows of each training set; `notes`: what is
    to be said of the rows before anything is computed, a line each.
    """

    encoder: Encoder
    sets: dict[str, list[Example]]
    samples: dict[str, list[TrainingSample]]
    suite: Suite
    reference: RetainReference
    target_beside: str | None
    tokenizer_fingerprint: str
    fingerprint: dict[str, str]
    watched: list[Example] = field(default_factory=list)
    counts: dict[str, RowCounts] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """What the run folder keeps of them: hashes, and what became of the rows."""
        rows = {name: counts.record() for name, counts in self.counts.items()}
        return {**self.fingerprint, "rows": rows}

    def answers(self, name: str) -> list[Example]:
        """The examples of a set that are its own answers, not those to prefer."""
        examples = self.sets.get(name, [])
        pairs = self.samples.get(name)
        return [examples[i] for i in sorted({p[0][0] for p in pairs})] if pairs else examples


def prepare_inputs(resolved: ResolvedRun, weights: bool = True) -> RunInputs:
    """Load and encode what the run needs.

    Args:
        weights: those of the model must be there; without, their fingerprint is "".

    Raises:
        UserError: data or model are not what the config says.
        WorldError: the hub cannot be reached.
    """
    run, method, place = resolved.run, resolved.method, resolved.target
    check_data_keys(run.data)
    held = {name: load_training_rows(run.data, name) for name in (method.terms() if method else ())}
    rows = {name: part[: run.data.limit] for name, part in held.items()}
    notes = describe_overlap(run.data, rows)
    answers = collect_preferred_answers(run, method, rows)
    texts = load_watched_rows(run)
    if place.path is not None:
        resolve_model_path(place.path, "model.path")
    path = resolved.base
    adapter = run.adapter if isinstance(run, TrainingRun) else None
    check_contrasted_models(run, path, method)
    capacity = load.check_model(run.model, path, adapter, weights, find_deepest_layer(method))
    check_fit(run, path)
    tokenizer = load.load_tokenizer(run.model, path, weights)
    encoder = Encoder(tokenizer, run.model.template, run.data)
    notes += describe_unread_keys(tokenizer, run.model.template)
    suite = Suite(run.eval, encoder, load_evaluation_rows(run, encoder), run.seed)
    check_suite_fits(capacity, suite, run.data.max_length)  # encodes, and says what cannot be
    check_helper_models(run.eval)
    model = "made" if place.path is None else ""
    if place.path is not None and weights:
        model = fingerprints.fingerprint_weights(run.model, place.path)
    read = [rows, {name: part.content() for name, part in suite.rows.items()}]
    fingerprint = {
        "data": hash_json([*read, answers, texts] if answers or texts else read),
        "model": model,
    }
    if isinstance(run, UnlearnRun) and run.method.file is not None:
        fingerprint["method"] = hash_files(Path(run.method.file))
    encoded = {
        name: samples.encode_preference_pairs(encoder, part, name, answers)
        if name == "forget" and answers
        else samples.encode_training_set(
            encoder, part, name, method.focus if name == "forget" else None
        )
        for name, part in rows.items()
        if method is not None
    }
    for name, part in encoded.items():
        part.counts.beyond = len(held[name]) - len(rows[name])
        part.counts.repeated = count_repeated_rows(rows[name], run.data)
        notes.append(part.counts.line(name, run.data.max_length))
        check_training_set_fits(
            capacity, run.data.max_length, name, part.examples, part.row_numbers
        )
    notes += describe_unread_columns(run, rows, suite)
    watched = encode_watched_texts(encoder, run, texts)
    if watched:
        notes.append(f"train.stop: {len(watched):,} texts watched, of {len(texts):,} read")
    return RunInputs(
        encoder,
        {name: part.examples for name, part in encoded.items()},
        {name: part.samples for name, part in encoded.items() if part.samples},
        suite,
        find_retain_reference(resolved, suite),
        locate_published_target(resolved),
        fingerprints.fingerprint_tokenizer(encoder.tokenizer),
        fingerprint,
        watched,
        {name: part.counts for name, part in encoded.items()},
        notes,
    )


def collect_preferred_answers(
    run: Run, method: Method | None, rows: dict[str, list[Row]]
) -> list[list[list[str]]]:
    """The answers to prefer over those of the forget set, for a method that asks for them."""
    if method is None or method.alternatives is None or "forget" not in rows:
        return []
    assert isinstance(run, TrainingRun)
    train, forget = run.train, rows["forget"]
    drawn = train.epochs * len(rows[run.data.anchor])
    if train.max_steps is not None:
        drawn = train.max_steps * train.batch_size
    turns = drawn / len(forget)
    key = f"method={run.method.name}" if isinstance(run, UnlearnRun) else "data.forget_split"
    return alternatives.collect_alternatives(
        forget, run.data, method.alternatives, math.ceil(turns) + 1, run.seed, key
    )


def find_deepest_layer(method: Method | None) -> int | None:
    """The last layer that a method looks at."""
    depths = [term.layer for term in method.terms().values()] if method else []
    return max((d for d in depths if d is not None), default=None)


def load_watched_rows(run: Run) -> list[Row]:
    """The texts whose perplexity may end the training."""
    if not isinstance(run, TrainingRun) or run.train.stop.perplexity_ratio is None:
        return []
    stop = run.train.stop
    data = dataclasses.replace(run.data, path=None)
    return load_rows(data, [str(stop.split)], "train.stop.split", stop.path)


def encode_watched_texts(encoder: Encoder, run: Run, rows: list[Row]) -> list[Example]:
    """The first tokens of each text; only texts that are long enough."""
    if not rows:
        return []
    assert isinstance(run, TrainingRun)
    stop, found = run.train.stop, []
    short = dataclasses.replace(encoder, data=dataclasses.replace(run.data, max_length=stop.tokens))
    for row in rows:
        pieces = short.encode_document(row) if str(row.get(run.data.text_key, "")).strip() else []
        found += [p for p in pieces[:1] if len(p.input_ids) == stop.tokens]
        if len(found) == stop.limit:
            break
    if not found:
        raise UserError(f"train.stop.split={stop.split}: no text of {stop.tokens} tokens in it")
    return found


def locate_published_target(resolved: ResolvedRun) -> str | None:
    """The path of the data's own target, where another model is evaluated."""
    run = resolved.run
    place = resolve_published_target(run) if run.command == "evaluate" else None
    if place is None:
        return None
    with contextlib.suppress(UserError, WorldError, OSError):
        path = resolved.path_of(place)
        resolve_model_path(path)
        return path
    return None


def load_training_rows(data: DataConfig, name: str) -> list[Row]:
    """The rows of a training set, those beyond `data.limit` as well."""
    key = name_data_key(data, name)
    splits = list_splits(getattr(data, key.removeprefix("data.")))
    if not splits:
        raise UserError(f"{key}: not set, and this run needs it")
    return load_rows(data, splits, key)
