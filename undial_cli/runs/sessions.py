"""The training of a run as a session: joins what the run reads with where it writes."""

from __future__ import annotations

import torch

from undial_cli.config.schema import TrainingRun, UnlearnRun
from undial_cli.config.suites import resolve_role
from undial_cli.evaluation.selection_rule import parse_selection
from undial_cli.runs.evaluations import evaluate_model_at, evaluate_retain_model
from undial_cli.runs.inputs import RunInputs
from undial_cli.runs.model_card import write_model_card
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.training.selection import Selection
from undial_cli.training.session import TrainingSession


def make_session(
    resolved: ResolvedRun, inputs: RunInputs, path: str, device: torch.device
) -> TrainingSession:
    """The training of a run, from the model at `path`."""
    run, folder = resolved.run, resolved.folder
    assert isinstance(run, TrainingRun)
    return TrainingSession(
        run,
        path,
        resolved.trained_method,
        resolved.anchor,
        resolved.teacher,
        inputs.encoder.tokenizer,
        inputs.sets,
        inputs.samples,
        inputs.suite,
        inputs.watched,
        inputs.answers("forget"),
        folder.path,
        folder.checkpoint,
        lambda unfinished: write_model_card(run, unfinished),
        inputs.questions,
        make_selection(resolved, inputs, path, device),
    )


def make_selection(
    resolved: ResolvedRun, inputs: RunInputs, path: str, device: torch.device
) -> Selection | None:
    """By what the weights of a run are chosen, where they are.

    The target and the retain model are evaluated on the rows held apart, once for all runs on them.

    Raises:
        UserError: the target has no such figure there.
    """
    run, apart, divided = resolved.run, inputs.apart, inputs.divided
    assert isinstance(run, TrainingRun)
    if run.train.select is None or apart is None or divided is None:
        return None
    rule = parse_selection(run.train.select, run.eval)
    retain = target = None
    if isinstance(run, UnlearnRun):
        retain = evaluate_retain_model(resolved, apart, device) if rule.is_relative else None
        target = evaluate_model_at(run, apart, path, "target", device)
    selection = Selection(
        rule,
        apart.suite,
        retain,
        target,
        {name: resolve_role(name, run.eval.sets[name]) for name in apart.suite.rows},
        run.train.select_utility,
        run.train.keep,
        divided.record(),
    )
    selection.measure_target()
    return selection
