"""The evaluations of a run: of its target, its retain model and its checkpoint, and the report.

Joins the suite with what a run knows of its models, and writes evaluation/ and report/.
"""

from __future__ import annotations

import dataclasses
import gc
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from undial_cli import distributed, models
from undial_cli.cache import folder_state
from undial_cli.evaluation import statistics, store, verdict
from undial_cli.evaluation.catalog import join
from undial_cli.evaluation.config import role_of
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.harness import random_state
from undial_cli.evaluation.helpers import HELPERS
from undial_cli.evaluation.suite import evaluate
from undial_cli.inputs import Inputs
from undial_cli.reporting import summary
from undial_cli.resolved import ResolvedRun
from undial_cli.run_folder import RunFolder
from undial_cli.schema import Run, TrainingRun

# Keys of eval that change nothing of what is found on a model.
IRRELEVANT = ("retain_model", "retrain_auc", "batch_size", "data", "name", "limit", "intervals")


def load(run: Run, path: str, device: torch.device) -> Any:
    """A model of the run on this process's device."""
    model: Any = models.load_model(run.model, path, seed=run.seed, quantized=quantized(run))
    return model if getattr(model, "is_loaded_in_4bit", False) else model.to(device)


def quantized(run: Run) -> bool:
    """Whether a run trains on 4-bit weights."""
    return isinstance(run, TrainingRun) and run.adapter.name == "qlora"


def undisturbed(inputs: Inputs, model: Any) -> dict[str, float | None]:
    """The suite's metrics on a model in training; all random number generators are put back."""
    with random_state():
        return evaluate(model, inputs.suite, "on the way", alone=True).metrics


def depends_on(run: Run, inputs: Inputs, path: str) -> Any:
    """All that the evaluation of a model depends on, as JSON-able content."""
    chosen = dataclasses.asdict(run.eval)
    for name in IRRELEVANT:
        del chosen[name]
    folders = [run.eval.harness.include_path, *(getattr(run.eval, key) for key in HELPERS)]
    sampled = any(s.top_p or s.top_k or s.prefixes == "authors" for s in run.eval.sets.values())
    return [
        distributed.on_main(lambda: models.weights_fingerprint(run.model, path, run.seed)),
        dataclasses.asdict(run.model.template),
        [
            run.model.dtype,
            run.model.attn_implementation,
            inputs.tokenizer_fingerprint,
            quantized(run),
        ],
        [run.data.max_length, run.data.turns],
        [run.data.question_key, run.data.answer_key, run.data.text_key],
        chosen,
        [folder_state(Path(f).expanduser()) for f in folders if f is not None],
        [run.eval.limit if run.eval.harness.tasks else None, run.seed if sampled else None],
        {name: rows.content() for name, rows in inputs.suite.rows.items()},
    ]


def of_model(
    run: Run, inputs: Inputs, path: str, title: str, device: torch.device
) -> Evaluation | None:
    """The evaluation of a model by its path, from the cache where it was made before."""
    if inputs.suite.empty:
        return None

    def compute(journal: store.Journal) -> Evaluation:
        model = load(run, path, device)
        return evaluate(model, inputs.suite, title, journal, path)

    gc.collect()
    return store.cached(depends_on(run, inputs, path), compute)


def of_retain_model(
    resolved: ResolvedRun, inputs: Inputs, device: torch.device
) -> Evaluation | None:
    """The evaluation of the retain model, or its given results, where there are any."""
    if inputs.suite.empty or inputs.reference.results is not None:
        return inputs.reference.results
    place = inputs.reference.place
    if place is None:
        return None
    return of_model(resolved.run, inputs, resolved.path_of(place), "retain model", device)


def of_target_if_known(run: Run, inputs: Inputs) -> Evaluation | None:
    """The target's evaluation beside that of another model, if it is in the cache."""
    path = inputs.target_beside
    if path is None or inputs.suite.empty:
        return None
    return store.load(store.place_of(depends_on(run, inputs, path)))


def report(
    run: Run,
    folder: RunFolder,
    inputs: Inputs,
    evaluation: Evaluation | None,
    others: dict[str, Evaluation | None],
) -> None:
    """Write evaluation/ and report/ (main process).

    Args:
        evaluation: of the model that the run is about; gains the metrics that are relative to the
            retain model, and per sample what the other models generated.
        others: evaluations of the `target` and the `retain` model, where there are any.
    """
    if evaluation is None or distributed.rank() != 0:
        return
    retain, target = others.get("retain"), others.get("target")
    if "retain" in others:
        reason = inputs.reference.missing
        join(evaluation, retain, run.eval, relative=True, no_retain=reason)
        if target is not None:
            join(target, retain, run.eval, relative=True, no_retain=reason)
    for name, other in others.items():
        add_theirs(evaluation, name, other, texts=run.eval.store_text == "full")
    roles = {name: role_of(name, run.eval.sets[name]) for name in inputs.suite.rows}
    extra: dict[str, Any] = {
        "suite": run.eval.name,
        "model": run.model.name,
        "data": run.data.name,
        "roles": roles,
    }
    compared = {"target": target, "reference": retain}
    extra |= {name: {} if e is None else e.metrics for name, e in compared.items()}
    extra |= statistics.of_results(evaluation, compared, run.eval)
    evaluation.statistics = extra.pop("statistics")
    extra["damaged"] = verdict.damage(
        evaluation.metrics, extra["target"], extra["reference"], evaluation.missing, roles
    )
    store.save(folder.evaluation, evaluation, extra)
    summary.write(run, folder)


def add_theirs(ours: Evaluation, name: str, other: Evaluation | None, texts: bool) -> None:
    """Put beside each sample what another model got on it: `NAME_SCORE`, and `NAME_generation`.

    Samples are matched by set, index and, as the pieces of a document share their index, their
    order there. One of another prompt is another row; results made elsewhere may hold no prompt.
    """
    theirs = by_place(other) if other is not None else {}
    for place, mine in by_place(ours).items():
        found = theirs.get(place, {})
        if found.get("prompt", mine.get("prompt")) != mine.get("prompt", found.get("prompt")):
            continue
        scores = [
            key
            for key, value in mine.items()
            if isinstance(value, float) and not key.startswith(("target_", "retain_"))
        ]
        mine.update(
            {f"{name}_{key}": found[key] for key in scores if isinstance(found.get(key), float)}
        )
        if texts and "generation" in found:
            mine[f"{name}_generation"] = found["generation"]


def by_place(evaluation: Evaluation) -> dict[tuple[str, int, int], dict[str, Any]]:
    """The samples by set, index, and their number among those of that index."""
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    count: Counter[tuple[str, int]] = Counter()
    for sample in evaluation.samples:
        row = sample["set"], sample["index"]
        found[(*row, count[row])] = sample
        count[row] += 1
    return found
