"""The evaluations of a run: of its target, its retain model and its checkpoint, and the report.

Joins the suite with what a run knows of its models, and writes evaluation/ and report/.
"""

from __future__ import annotations

import dataclasses
import gc
import random
from typing import Any

import numpy as np
import torch

from undial_cli import distributed, models
from undial_cli.evaluation import store
from undial_cli.evaluation.suite import FORGET, Evaluation, evaluate, forget_quality
from undial_cli.inputs import Inputs, model_path
from undial_cli.reporting import summary
from undial_cli.run_folder import RunFolder
from undial_cli.schema import Run, TrainingRun
from undial_cli.targets import retain_of


def load(run: Run, path: str, device: torch.device) -> Any:
    """A model of the run on this process's device."""
    quantized = isinstance(run, TrainingRun) and run.adapter.name == "qlora"
    model: Any = models.load_model(run.model, path, seed=run.seed, quantized=quantized)
    return model if quantized else model.to(device)


def undisturbed(run: Run, inputs: Inputs, model: Any) -> dict[str, float]:
    """The suite's metrics on a model in training; all random number generators are put back."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        found = evaluate(model, inputs.encoder, run.eval, inputs.eval_rows, "on the way")
        return found.metrics
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if gpu:
            torch.cuda.set_rng_state_all(gpu)


def of_model(
    run: Run, inputs: Inputs, path: str, title: str, device: torch.device
) -> Evaluation | None:
    """The evaluation of a model that does not change, from the cache where it was made before."""
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

    def compute() -> Evaluation:
        model = load(run, path, device)
        return evaluate(model, inputs.encoder, run.eval, inputs.eval_rows, title)

    return store.cached(depends_on, compute)


def of_retain_model(run: Run, inputs: Inputs, device: torch.device) -> Evaluation | None:
    """The evaluation of the retain model, where one is known."""
    place = retain_of(run)
    if place is None:
        return None
    return of_model(run, inputs, model_path(run, place), "retain model", device)


def of_checkpoint(
    run: Run, folder: RunFolder, inputs: Inputs, device: torch.device
) -> Evaluation | None:
    """The suite on what was saved, loaded as anyone would load it."""
    if not inputs.eval_rows:
        return None
    gc.collect()
    model: Any = models.load_model(run.model, str(folder.checkpoint))
    return evaluate(model.to(device), inputs.encoder, run.eval, inputs.eval_rows, "checkpoint")


def report(
    run: Run,
    folder: RunFolder,
    evaluation: Evaluation | None,
    others: dict[str, Evaluation | None],
) -> None:
    """Write evaluation/ and report/ (main process).

    Args:
        evaluation: of the model that the run is about; gains forget_quality, and per sample what
            the other models generated.
        others: evaluations of the `target` and the `retain` model, where there are any.
    """
    if evaluation is None or distributed.rank() != 0:
        return
    figures = {name: dict(e.metrics) for name, e in others.items() if e is not None}
    for name, other in others.items():
        for mine, theirs in zip(evaluation.samples, other.samples if other else [], strict=False):
            if "generation" in theirs:
                mine[f"{name}_generation"] = theirs["generation"]
    if "retain" in others and any(s["set"] == FORGET for s in evaluation.samples):
        quality, reason = forget_quality(evaluation, others.get("retain"))
        if quality is None:
            evaluation.missing["forget_quality"] = reason
        else:
            evaluation.metrics["forget_quality"] = quality
        target = others.get("target")
        if quality is not None and target is not None:
            figures["target"]["forget_quality"] = forget_quality(target, others["retain"])[0] or 0.0
    extra = {
        "suite": run.eval.name,
        "model": run.model.name,
        "data": run.data.name,
        "target": figures.get("target", {}),
        "reference": figures.get("retain", {}),
    }
    store.save(folder.evaluation, evaluation, extra)
    summary.write(run, folder)
