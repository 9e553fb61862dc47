"""What `train.select` needs of a run, and which of its rows are held apart to choose by.

What cannot be chosen by is refused here, before anything is computed. Loads no weights.
"""

from __future__ import annotations

import dataclasses

from undial_cli.config.schema import Run, TrainingRun, UnlearnRun
from undial_cli.config.training import TrainConfig
from undial_cli.errors import UserError
from undial_cli.evaluation.held_apart import DividedSuite, divide_suite
from undial_cli.evaluation.retain_results import restrict_results
from undial_cli.evaluation.selection_rule import (
    MOST_FORGOTTEN,
    SELECT_KEY,
    SelectionRule,
    is_relative_figure,
    parse_selection,
)
from undial_cli.evaluation.suite import Suite
from undial_cli.runs.evaluation_inputs import RetainReference

# Read with train.select alone.
SELECTION_KEYS = ("select_share", "select_utility", "keep")


def check_selection(run: TrainingRun) -> None:
    """Raise UserError for a choice of weights that the run's keys do not allow."""
    train, where = run.train, f"{SELECT_KEY}={run.train.select}"
    if train.select is None:
        for name in SELECTION_KEYS:
            if getattr(train, name) != getattr(TrainConfig(), name):
                raise UserError(
                    f"train.{name}={getattr(train, name)}: without effect without {SELECT_KEY}"
                )
        return
    if not run.eval.sets:
        raise UserError(f"{where}: nothing is evaluated with eval={run.eval.name}")
    if train.eval_steps is None:
        raise UserError(
            f"{where}: needs train.eval_steps, the steps after which weights are evaluated"
        )
    rule = parse_selection(train.select, run.eval)
    if rule.is_relative and not isinstance(run, UnlearnRun):
        raise UserError(
            f"{where}: compares with a retain model or a target, and '{run.command}' evaluates "
            "neither; allowed are metrics of the trained model alone"
        )


def divide_for_selection(run: Run, suite: Suite, reference: RetainReference) -> DividedSuite | None:
    """The suite in two, where weights are chosen: what is held apart, and what is reported.

    Raises:
        UserError: a set that is read cannot be divided, or the retain model is not there.
    """
    if not isinstance(run, TrainingRun) or run.train.select is None:
        return None
    rule, where = parse_selection(run.train.select, run.eval), f"{SELECT_KEY}={run.train.select}"
    if needs_retain_model(rule, run) and reference.location is None and reference.results is None:
        reason = reference.missing or "no retain model is known: set eval.retain_model"
        hint = f"; {MOST_FORGOTTEN} needs none" if rule.is_nearest else ""
        raise UserError(f"{where}: needs a retain model; {reason}{hint}")
    divided = divide_suite(suite, run.train.select_share)
    for part in (divided.apart, divided.reported):
        for name, rows in part.rows.items():
            is_read = any(figure.startswith(f"{name}_") for figure in rule.names)
            if is_read and rows.missing:
                raise UserError(f"{where}: the set '{name}' cannot be read: {rows.missing}")
    return divided


def needs_retain_model(rule: SelectionRule, run: TrainingRun) -> bool:
    """Whether a rule reads figures that are relative to a retain model."""
    without = {"utility_score"}  # relative to the target alone
    without |= {"privleak"} if run.eval.retrain_auc is not None else set()
    return rule.is_nearest or any(map(is_relative_figure, set(rule.names) - without))


def restrict_reference(reference: RetainReference, part: Suite) -> RetainReference:
    """Given results of a retain model on one part of the rows; a model is asked for that part."""
    if reference.results is None:
        return reference
    return dataclasses.replace(reference, results=restrict_results(reference.results, part))
