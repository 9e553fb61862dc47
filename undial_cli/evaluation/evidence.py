"""What an evaluation found: the evidence of one row, the figures of all, why one is not there.

A value that is not finite is no figure: it is counted, and its figure is null, with the reason in
`missing`. Knows no metric. Imports no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from undial_cli.config.suites import EvalSetConfig

if TYPE_CHECKING:
    from undial_cli.evaluation.scoring import Score


class MissingFigure(Exception):
    """A metric that cannot be computed, and why."""


class NoRetainModel(MissingFigure):
    """A metric that needs a retain model where there is none."""


class NullFigure(MissingFigure):
    """A metric that is null: its samples are there, and give no number that could be trusted."""


@dataclass
class Evaluation:
    """What a suite found: aggregates by name, one object per sample, what is missing and why.

    A value that is not finite is null (None), in a sample as in an aggregate.

    `incomplete`: something is missing that another try may find (a helper model, a library).
    `statistics`: n, interval and the like of metrics; `notes`: what a metric's figure does not
    say; `rows`: per set, how many rows were read, scored, cut.
    """

    metrics: dict[str, float | None]
    samples: list[dict[str, Any]]
    missing: dict[str, str] = field(default_factory=dict)
    incomplete: bool = False
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    rows: dict[str, dict[str, int]] = field(default_factory=dict)

    def samples_with(self, set_name: str, key: str) -> list[dict[str, Any]]:
        """The samples of a set that a per-sample value applies to.

        Raises:
            NullFigure: some of the values are not finite.
        """
        samples = [s for s in self.samples if key in s and is_of_set(s, set_name)]
        broken = sum(s[key] is None for s in samples)
        if broken:
            raise NullFigure(f"{broken} of {len(samples)} samples have no finite {key}")
        return samples

    def values(self, set_name: str, key: str) -> Any:
        """A per-sample value of all samples of a set (or SET_GROUP) that it applies to.

        Raises:
            NullFigure: some of the values are not finite.
        """
        return [sample[key] for sample in self.samples_with(set_name, key)]

    def figure(self, name: str) -> float:
        """A figure that is there; raises NullFigure for one that is null."""
        value = self.metrics[name]
        if value is None:
            raise NullFigure(f"{name} is null")
        return value

    def record(self, name: str, compute: Callable[[], float]) -> None:
        """Add a figure: a number, null with its reason, or why there is none."""
        try:
            value = compute()
            if not math.isfinite(value):
                raise NullFigure(f"it is {value}")
            self.metrics[name] = value
        except MissingFigure as reason:
            self.missing[name] = str(reason)
            if isinstance(reason, NullFigure):
                self.metrics[name] = None


def name_row_group(value: Any) -> str:
    """What the rows with this value in `group_by` are called, behind the name of their set."""
    return re.sub(r"\W+", "_", str(value).strip()).strip("_").lower() or "none"


def is_of_set(sample: Mapping[str, Any], name: str) -> bool:
    """Whether a sample is of a set, or of a group of a set (SET_GROUP)."""
    return sample["set"] == name or (
        "group" in sample and f"{sample['set']}_{sample['group']}" == name
    )


def list_groups(samples: Iterable[Mapping[str, Any]], set_name: str) -> list[str]:
    """The groups of a set, by the names their figures have."""
    groups = {s["group"] for s in samples if s["set"] == set_name and "group" in s}
    return [f"{set_name}_{group}" for group in sorted(groups)]


@dataclass
class Evidence:
    """What the engines found of one row: scores of its answers, its generation, other figures.

    `reference`: what a generation is compared with; `others`: what it may be as well; `scored`: the
    text of the scored answer.
    """

    options: EvalSetConfig
    reference: str
    scored: str
    answers: Mapping[str, list[Score]]
    generation: str | None = None
    figures: dict[str, float | None] = field(default_factory=dict)
    others: tuple[str, ...] = ()

    @property
    def references(self) -> tuple[str, ...]:
        """All that a generation may be."""
        return (self.reference, *self.others)

    @property
    def compared(self) -> str | None:
        """The part of the generation that the set's `answer_pattern` finds; without it, all."""
        pattern, text = self.options.answer_pattern, self.generation
        if pattern is None or text is None:
            return text
        match = re.search(pattern, text)
        return text if match is None else match[1].strip()

    @property
    def broken(self) -> bool:
        """Whether the model's loss on the answer is not finite: then no other figure is one."""
        return self.answer is not None and not math.isfinite(self.answer.ce)

    @property
    def answer(self) -> Score | None:
        """The answer's score, if it has a target token."""
        scores = self.answers.get("answer") or []
        return scores[0] if scores and scores[0].tokens else None

    def alternatives(self) -> tuple[float, list[float]] | None:
        """Mean CE of the paraphrase and of the perturbed answers, where all have target tokens."""
        true, false = self.answers.get("paraphrase") or [], self.answers.get("perturbed") or []
        if not (true and false) or not all(s.tokens for s in [*true, *false]):
            return None
        return true[0].ce, [s.ce for s in false]

    def choices(self) -> tuple[list[float], int] | None:
        """Log-likelihood of each choice of a question, and the number of the right one, from 0."""
        if "before" not in self.answers or self.answer is None:
            return None
        before, after = self.answers["before"], self.answers["after"]
        scores = [*before, self.answer, *after]
        return [-sum(score.token_ce) for score in scores], len(before)

    def answer_log_probs(self) -> list[float]:
        """Log-probabilities of the answer's tokens, end token left out."""
        score = self.answer
        return [-ce for ce in score.token_ce[: len(score.matches)]] if score else []


def replace_nonfinite(value: Any) -> Any:
    """The same with NaN and infinities, at any depth, as None: JSON has no number for them."""
    if isinstance(value, dict):
        return {k: replace_nonfinite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [replace_nonfinite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
