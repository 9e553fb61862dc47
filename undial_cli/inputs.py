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

from undial_cli import models
from undial_cli.cache import hash_file
from undial_cli.capacity import check_training
from undial_cli.data import samples
from undial_cli.data.counts import RowCounts
from undial_cli.data.encode import Encoder, Example
from undial_cli.data.load import load_rows
from undial_cli.data.rows import Row, count_repeated
from undial_cli.data.schedule import Sample
from undial_cli.data.splits import splits_of
from undial_cli.data.template import describe_unread_keys
from undial_cli.errors import UserError, WorldError
from undial_cli.evaluation.preparation import (
    Reference,
    check_contrast,
    check_helpers,
    evaluation_rows,
    find_reference,
)
from undial_cli.evaluation.suite import Suite, check_suite
from undial_cli.fit import check_fit
from undial_cli.methods.base import Method
from undial_cli.resolved import ResolvedRun
from undial_cli.row_notes import check_keys, data_key, describe_overlap, describe_unread
from undial_cli.schema import DataConfig, Run, TrainingRun, UnlearnRun, digest
from undial_cli.sources import model_source
from undial_cli.targets import published_target


@dataclass
class Inputs:
    """What a run reads.

    Training sets by name (`forget`, `retain`, `train`), and of some the samples that their examples
    make; the suite with its rows, the encoder, and what the evaluation is compared with;
    `target_beside`: path of the data's own target where another model is evaluated; `watched`: the
    texts of `train.stop`; `counts`: what became of the rows of each training set; `notes`: what is
    to be said of the rows before anything is computed, a line each.
    """

    encoder: Encoder
    sets: dict[str, list[Example]]
    samples: dict[str, list[Sample]]
    suite: Suite
    reference: Reference
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


def prepare(resolved: ResolvedRun, weights: bool = True) -> Inputs:
    """Load and encode what the run needs.

    Args:
        weights: those of the model must be there; without, their fingerprint is "".

    Raises:
        UserError: data or model are not what the config says.
        WorldError: the hub cannot be reached.
    """
    run, method, place = resolved.run, resolved.method, resolved.target
    check_keys(run.data)
    held = {name: training_rows(run.data, name) for name in (method.terms() if method else ())}
    rows = {name: part[: run.data.limit] for name, part in held.items()}
    notes = describe_overlap(run.data, rows)
    answers = preferred(run, method, rows)
    texts = watched_rows(run)
    if place.path is not None:
        model_source(place.path, "model.path")
    path = resolved.base
    adapter = run.adapter if isinstance(run, TrainingRun) else None
    check_contrast(run, path, method)
    capacity = models.check_model(run.model, path, adapter, weights, deepest(method))
    check_fit(run, path)
    tokenizer = models.load_tokenizer(run.model, path, weights)
    encoder = Encoder(tokenizer, run.model.template, run.data)
    notes += describe_unread_keys(tokenizer, run.model.template)
    suite = Suite(run.eval, encoder, evaluation_rows(run, encoder), run.seed)
    check_suite(capacity, suite, run.data.max_length)  # encodes, and says what cannot be
    check_helpers(run.eval)
    model = "made" if place.path is None else ""
    if place.path is not None and weights:
        model = models.weights_fingerprint(run.model, place.path)
    read = [rows, {name: part.content() for name, part in suite.rows.items()}]
    fingerprint = {
        "data": digest([*read, answers, texts] if answers or texts else read),
        "model": model,
    }
    if isinstance(run, UnlearnRun) and run.method.file is not None:
        fingerprint["method"] = hash_file(Path(run.method.file))
    encoded = {
        name: samples.paired(encoder, part, name, answers)
        if name == "forget" and answers
        else samples.plain(encoder, part, name, method.focus if name == "forget" else None)
        for name, part in rows.items()
        if method is not None
    }
    for name, part in encoded.items():
        part.counts.beyond = len(held[name]) - len(rows[name])
        part.counts.repeated = count_repeated(rows[name], run.data)
        notes.append(part.counts.line(name, run.data.max_length))
        check_training(capacity, run.data.max_length, name, part.examples, part.row_numbers)
    notes += describe_unread(run, rows, suite)
    watched = watched_examples(encoder, run, texts)
    if watched:
        notes.append(f"train.stop: {len(watched):,} texts watched, of {len(texts):,} read")
    return Inputs(
        encoder,
        {name: part.examples for name, part in encoded.items()},
        {name: part.samples for name, part in encoded.items() if part.samples},
        suite,
        find_reference(resolved, suite),
        beside(resolved),
        models.tokenizer_fingerprint(encoder.tokenizer),
        fingerprint,
        watched,
        {name: part.counts for name, part in encoded.items()},
        notes,
    )


def preferred(run: Run, method: Method | None, rows: dict[str, list[Row]]) -> list[list[list[str]]]:
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
    return samples.other_answers(
        forget, run.data, method.alternatives, math.ceil(turns) + 1, run.seed, key
    )


def deepest(method: Method | None) -> int | None:
    """The last layer that a method looks at."""
    depths = [term.layer for term in method.terms().values()] if method else []
    return max((d for d in depths if d is not None), default=None)


def watched_rows(run: Run) -> list[Row]:
    """The texts whose perplexity may end the training."""
    if not isinstance(run, TrainingRun) or run.train.stop.perplexity_ratio is None:
        return []
    stop = run.train.stop
    data = dataclasses.replace(run.data, path=None)
    return load_rows(data, [str(stop.split)], "train.stop.split", stop.path)


def watched_examples(encoder: Encoder, run: Run, rows: list[Row]) -> list[Example]:
    """The first tokens of each text; only texts that are long enough."""
    if not rows:
        return []
    assert isinstance(run, TrainingRun)
    stop, found = run.train.stop, []
    short = dataclasses.replace(encoder, data=dataclasses.replace(run.data, max_length=stop.tokens))
    for row in rows:
        pieces = short.documents(row) if str(row.get(run.data.text_key, "")).strip() else []
        found += [p for p in pieces[:1] if len(p.input_ids) == stop.tokens]
        if len(found) == stop.limit:
            break
    if not found:
        raise UserError(f"train.stop.split={stop.split}: no text of {stop.tokens} tokens in it")
    return found


def beside(resolved: ResolvedRun) -> str | None:
    """The path of the data's own target, where another model is evaluated."""
    run = resolved.run
    place = published_target(run) if run.command == "evaluate" else None
    if place is None:
        return None
    with contextlib.suppress(UserError, WorldError, OSError):
        path = resolved.path_of(place)
        model_source(path)
        return path
    return None


def training_rows(data: DataConfig, name: str) -> list[Row]:
    """The rows of a training set, those beyond `data.limit` as well."""
    key = data_key(data, name)
    splits = splits_of(getattr(data, key.removeprefix("data.")))
    if not splits:
        raise UserError(f"{key}: not set, and this run needs it")
    return load_rows(data, splits, key)
