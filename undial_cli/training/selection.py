"""By what the best of a training's weights are chosen: figures on the way, a row for each step.

Knows the rule, the rows that are held apart and what is compared with; no weights and no folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from undial_cli.errors import UserError
from undial_cli.evaluation.evaluate import evaluate_suite
from undial_cli.evaluation.evidence import Evaluation, MissingFigure
from undial_cli.evaluation.selection_rule import (
    SELECT_KEY,
    SELECTION,
    SelectionRule,
    compute_utility_share,
)
from undial_cli.evaluation.suite import Suite
from undial_cli.evaluation.suite_metrics import add_joint_metrics
from undial_cli.system.random_state import preserve_random_state

# What is left of the target's utility, in metrics.jsonl.
UTILITY = f"{SELECTION}_utility"


@dataclass(frozen=True)
class StepRow:
    """An evaluated step: what is compared, None where there is none, and why.

    `utility`: of a rule that asks for it, the share that is left of the target's.
    """

    step: int
    figure: float | None
    utility: float | None = None
    missing: str = ""


@dataclass(frozen=True)
class Selection:
    """By what the weights of a training are chosen.

    `suite`: asks the rows that are held apart. `retain`, `target`: evaluations on these rows, where
    there are any. `roles`: of the sets. `utility`: the share of the target's that a rule asks
    for. `keep`: train.keep. `rows`: which rows are held apart, for the record.
    """

    rule: SelectionRule
    suite: Suite
    retain: Evaluation | None
    target: Evaluation | None
    roles: dict[str, str]
    utility: float
    keep: str
    rows: dict[str, Any]

    def measure(self, model: Any, step: int) -> tuple[dict[str, Any], StepRow]:
        """The figures of a model in training and its row; random numbers go on as if unasked."""
        with preserve_random_state():
            return self.read(evaluate_suite(model, self.suite, "on the way", alone=True), step)

    def measure_target(self) -> tuple[dict[str, Any], StepRow] | None:
        """Those of the model before the first step, where it was evaluated.

        Raises:
            UserError: what it has no figure of, the trained weights will have none of either.
        """
        if self.target is None:
            return None
        figures, row = self.read(self.target, 0)
        if row.figure is None:
            raise UserError(
                f"{SELECT_KEY}={self.rule.text}: the target has no such figure on the rows held "
                f"apart: {row.missing}"
            )
        return figures, row

    def read(self, evaluation: Evaluation, step: int) -> tuple[dict[str, Any], StepRow]:
        """An evaluation's figures with those that are relative to other models, and its row."""
        config = self.suite.config
        add_joint_metrics(evaluation, self.retain, config, relative=True, target=self.target)
        figures: dict[str, Any] = dict(evaluation.metrics)
        row = StepRow(step, None)
        try:
            retain = self.retain.metrics if self.retain is not None else {}
            row = StepRow(step, self.rule.compute(figures, retain))
        except MissingFigure as reason:
            known = (evaluation.missing.get(name) for name in self.rule.names)
            row = StepRow(step, None, missing="; ".join(filter(None, [str(reason), *known])))
        figures[SELECTION] = row.figure
        if self.rule.keeps_utility and self.target is not None:
            share = compute_utility_share(figures, self.target.metrics, self.roles)
            row, figures[UTILITY] = dataclasses.replace(row, utility=share), share
        return figures, row

    def choose(self, rows: Iterable[StepRow]) -> StepRow | None:
        """The row of the best step, of equal ones the earlier; never the one before training.

        Where a rule asks for utility and none keeps enough of it, the one that keeps most.
        """
        known = [row for row in rows if row.step and row.figure is not None]
        useful = [row for row in known if self.keeps_utility(row)]
        best: StepRow | None = None
        for row in useful or known:
            if best is None or self.is_better(row, best, not useful):
                best = row
        return best

    def is_better(self, row: StepRow, other: StepRow, by_utility: bool) -> bool:
        """Whether a step is better than an earlier one, by its figure or by what it keeps."""
        if by_utility:
            return self.rule.is_less(other.utility or 0.0, row.utility or 0.0)
        assert row.figure is not None
        assert other.figure is not None
        figures = (other.figure, row.figure)
        return self.rule.is_less(*(reversed(figures) if self.rule.is_minimised else figures))

    def keeps_utility(self, row: StepRow) -> bool:
        """Whether a step may be chosen for its figure; any may, where the rule asks for none."""
        return not self.rule.keeps_utility or (row.utility or 0.0) >= self.utility
