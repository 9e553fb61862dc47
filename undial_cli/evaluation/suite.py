"""A suite: named sets with their rows and metrics, ready to be asked of any model of one tokenizer.

evaluate.py asks them. Knows no model and no run folder.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from undial_cli import ui
from undial_cli.config.suites import MULTIPLE_CHOICE, EvalConfig, find_set_of_role
from undial_cli.data.encode import Encoder
from undial_cli.data.rows import Row
from undial_cli.evaluation.catalog import METRICS, Metric, find_set_metric
from undial_cli.evaluation.extraction import AUTHORS_PREFIXES
from undial_cli.evaluation.prompts import PromptItem, make_prompt_items
from undial_cli.models.capacity import ModelCapacity, check_sequences_fit


@dataclass
class SetRows:
    """The rows of a set, those of its solved examples, or why it is not there.

    `counts`: how many rows it holds (`held`), and how many of them were not taken and why, each by
    a short phrase; what is left are `rows`. `asked`: the indices of the rows that are asked; None:
    of all.
    """

    rows: list[Row] = field(default_factory=list)
    shots: list[Row] = field(default_factory=list)
    missing: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    asked: frozenset[int] | None = None

    def list_asked(self) -> list[Row]:
        """The rows that are asked, in their order."""
        return [row for i, row in enumerate(self.rows) if self.asked is None or i in self.asked]

    def content(self) -> dict[str, Any]:
        """What the figures of the set depend on."""
        content = {"rows": self.rows, "shots": self.shots, "missing": self.missing}
        return content if self.asked is None else {**content, "asked": sorted(self.asked)}


@dataclass(frozen=True)
class Suite:
    """A suite with its rows, ready for any model of one tokenizer.

    `whole`: of a suite that asks some of another one's rows, that one.
    """

    config: EvalConfig
    encoder: Encoder
    rows: dict[str, SetRows]
    seed: int = 0
    whole: Suite | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to evaluate."""
        return not self.rows and not self.config.harness.tasks

    @property
    def set_names(self) -> set[str]:
        """The sets that have rows."""
        return {name for name, rows in self.rows.items() if not rows.missing}

    def metrics(self, name: str) -> list[Metric]:
        """The metrics that a set is evaluated with, those that joint ones read included.

        A joint metric of a set without rows reads nothing.
        """
        names = list(self.config.sets[name].metrics)
        for metric in map(METRICS.__getitem__, self.config.metrics):
            sets = {find_set_of_role(self.config, role, metric.name) for role in metric.roles}
            if name in sets and sets <= self.set_names:
                names += filter(self.has_helper, metric.reads)
        return [metric for key in dict.fromkeys(names) if (metric := find_set_metric(key))]

    def has_helper(self, name: str) -> bool:
        """Whether the helper model is set that a set's metric needs, if it needs one."""
        metric = find_set_metric(name)
        helpers = [need for need in metric.needs if need.endswith("_model")] if metric else []
        return all(getattr(self.config, helper) is not None for helper in helpers)

    def needs(self, name: str) -> set[str]:
        """What the engines must find for a set.

        Answers are scored wherever anything is: a loss that is not finite tells that no other
        figure of a sample is one (the greedy tokens of NaN match nothing, and would pass for
        forgetting).
        """
        needs = {need for metric in self.metrics(name) for need in metric.needs}
        return needs | {"answer"} if needs else needs

    def jobs(self, name: str) -> int:
        """How many jobs of the engines a set makes, for the progress bar."""
        needs, items = self.needs(name), self.items[name]
        authors = self.config.sets[name].prefixes == "authors"
        passes = len(AUTHORS_PREFIXES) + 1 if authors else 1
        per_item = ("answer" in needs) + ("gradient" in needs) + passes * ("continuations" in needs)
        prompts = sum(bool(item.prompt_ids) for item in items)
        return len(items) * per_item + prompts * ("generation" in needs)

    @functools.cached_property
    def items(self) -> dict[str, list[PromptItem]]:
        """The items of every set that has rows."""
        if self.whole is not None:  # encoded once, and what is said of a row is said once
            return {
                name: [item for item in self.whole.items[name] if item.index in (rows.asked or ())]
                for name, rows in self.rows.items()
                if not rows.missing
            }
        return {
            name: make_prompt_items(
                self.encoder,
                name,
                self.config.sets[name],
                rows.rows,
                rows.shots,
                self.needs(name),
                self.config.max_new_tokens,
            )
            for name, rows in self.rows.items()
            if not rows.missing
        }


def check_suite_fits(capacity: ModelCapacity, suite: Suite, max_length: int) -> None:
    """Raise UserError for a row that a model cannot take; say how often it answers shorter."""
    for name, items in suite.items.items():
        options = suite.config.sets[name]
        key = f"eval.sets.{name}.max_tokens={options.max_tokens or 'null'}"
        capped = options.max_tokens or options.kind == MULTIPLE_CHOICE
        check_sequences_fit(
            capacity,
            name,
            key if capped else f"data.max_length={max_length}",
            ((item.index, ids) for item in items for ids in item.sequences()),
        )
        if capacity.positions is None or "generation" not in suite.needs(name):
            continue
        asked = options.max_new_tokens or suite.config.max_new_tokens
        shorter = sum(len(item.prompt_ids) + asked > capacity.positions for item in items)
        if shorter:
            ui.say(
                f"{name}: {shorter} of {len(items)} answers may have fewer than {asked} tokens: "
                f"prompt and answer share the model's {capacity.positions} positions",
                "yellow",
            )
