"""What an attack is given and what it gives: the contract of every file of this folder.

An attack knows the rows that were to be forgotten and one model at a time, and gives scores row by
row: 0 where nothing came back, 1 where all did. What they mean against the target's and the retain
model's is recovery.py's and verdicts.py's.

Shapes: R forget rows that are attacked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from undial_cli.config.attacks import AttackConfig, AuditConfig
from undial_cli.config.schema import Run
from undial_cli.config.suites import MULTIPLE_CHOICE
from undial_cli.data.encode import Encoder
from undial_cli.data.rows import Row
from undial_cli.evaluation.sharding import Journal
from undial_cli.evaluation.suite import Suite
from undial_cli.system.memory import give_back_memory


class CannotServe(Exception):
    """An attack that this data, model or machine cannot serve, and why; the others go on."""


@dataclass(frozen=True)
class AuditData:
    """The rows that an audit asks for, and what else the data set has.

    `forget_set`: the set of the suite that the rows are of; `numbers`: of each row in that set,
    counted from 0; `subjects`: whom each row is about (a row whose subject is not known is one of
    its own); `folder`: where the data lies, for files that an attack names.
    """

    suite: Suite
    config: AuditConfig
    forget_set: str
    rows: list[Row]
    numbers: list[int]
    subjects: list[int]
    retain_set: str | None = None
    retain_rows: list[Row] = field(default_factory=list)
    holdout_set: str | None = None
    holdout_rows: list[Row] = field(default_factory=list)

    @property
    def encoder(self) -> Encoder:
        """What encodes rows for all models of the audit."""
        return self.suite.encoder

    @property
    def asks_choices(self) -> bool:
        """Whether the rows are questions that come with their choices."""
        return self.suite.config.sets[self.forget_set].kind == MULTIPLE_CHOICE

    def take_retain_rows(self) -> AuditData:
        """The retain rows in place of the forget rows: whether the model still works."""
        count = len(self.retain_rows)
        return dataclasses.replace(
            self,
            forget_set=str(self.retain_set),
            rows=self.retain_rows,
            numbers=list(range(count)),
            subjects=list(range(count)),
        )

    def select_rows(self, limit: int | None) -> AuditData:
        """At most so many rows, spread evenly over them all, and so over the subjects."""
        if limit is None or limit >= len(self.rows):
            return self
        chosen = [int(i) for i in np.linspace(0, len(self.rows) - 1, limit).round()]
        return self.take_rows(chosen)

    def take_rows(self, chosen: list[int]) -> AuditData:
        """The rows at the given positions."""
        return dataclasses.replace(
            self,
            rows=[self.rows[i] for i in chosen],
            numbers=[self.numbers[i] for i in chosen],
            subjects=[self.subjects[i] for i in chosen],
        )


@dataclass
class Outcome:
    """What an attack got from one model.

    `numbers`: the forget rows it asked for, [R]; `scores`: by name, a value from 0 (nothing) to 1
    (all of it) for each, None where it does not apply, [R]; `texts`: the answer that gave most of
    each row away, [R] or [] where nothing is generated; `prompts`: what it was the answer to;
    `curves`: further figures by name (by k, by step, by layer), JSON-able; `notes`: lines for the
    user.
    """

    numbers: list[int]
    scores: dict[str, list[float | None]]
    texts: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class AttackedModel:
    """One model of an audit: loaded when it is first asked for, and let go of before another.

    `role`: target, retain or unlearned; `load`: gives the model in eval mode on this process's
    device, its keywords those of models.load.load_model; `others`: the models it is compared with,
    by role (itself included).
    """

    def __init__(
        self,
        role: str,
        path: str,
        run: Run,
        device: torch.device,
        load: Callable[..., Any],
    ) -> None:
        self.role, self.path, self.run, self.device = role, path, run, device
        self._load, self._model = load, None
        self.others: dict[str, AttackedModel] = {role: self}

    @property
    def model(self) -> Any:
        """The model, in eval mode; attacks leave it as they found it."""
        if self._model is None:
            self._model = self.load_attacked()
        return self._model

    def release(self) -> None:
        """Let go of the weights: two models do not fit."""
        if self._model is not None:
            self._model = None
            give_back_memory()

    def load_attacked(self, **arguments: Any) -> Any:
        """A copy of its own, to be changed; nobody else holds a model then."""
        for other in self.others.values():
            other.release()
        give_back_memory()  # of a copy that an attack before this one changed
        return self._load(self.path, **arguments)

    @property
    def seed(self) -> int:
        """Seeds whatever an attack draws."""
        return self.run.seed

    @property
    def batch_size(self) -> int:
        """Sequences per forward pass."""
        return self.run.eval.batch_size


# Carries out an attack on one model; raises CannotServe.
RunAttack = Callable[[AttackedModel, AuditData, Any, Journal], Outcome]
# Why the data cannot serve an attack (CannotServe), found before any model is loaded.
CheckAttack = Callable[[AuditData, Any], None]
# What an attack says only once it was made on all models: changes the outcomes, by role.
JoinOutcomes = Callable[[dict[str, Outcome], Any], None]


def serve_always(data: AuditData, config: AttackConfig) -> None:
    """For attacks that any data can serve."""


def leave_outcomes(outcomes: dict[str, Outcome], config: AttackConfig) -> None:
    """For attacks that say all they have to say model by model."""


@dataclass(frozen=True)
class AttackKind:
    """What a `kind` stands for.

    `run`: carries it out; `check`, `join`: see above; `compares`: roles of the models that it needs
    beside the attacked one; `changes_weights`: whether it is done with copies of its own, after
    those attacks that share the model in memory; `asks_choices`: whether questions with choices
    serve it.
    """

    run: RunAttack
    check: CheckAttack = serve_always
    join: JoinOutcomes = leave_outcomes
    compares: tuple[str, ...] = ()
    changes_weights: bool = False
    asks_choices: bool = False
