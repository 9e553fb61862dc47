"""Of evaluated steps the best is chosen: ties, what is no figure, and how much utility is kept."""

from __future__ import annotations

import dataclasses

import pytest

from undial_cli.config.suites import EvalConfig, EvalSetConfig
from undial_cli.errors import UserError
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.selection_rule import parse_selection
from undial_cli.evaluation.suite import Suite
from undial_cli.training.selection import Selection, StepRow

CONFIG = EvalConfig(
    name="own",
    sets={
        "forget": EvalSetConfig(split="f", role="forget", metrics=["probability", "rouge"]),
        "retain": EvalSetConfig(split="r", role="retain", metrics=["probability"]),
    },
)
ROLES = {"forget": "forget", "retain": "retain"}
TARGET = {"forget_probability": 0.9, "forget_rouge": 0.8, "retain_probability": 0.5}
RETAIN = {"forget_probability": 0.1, "forget_rouge": 0.2, "retain_probability": 0.5}


def make_selection(text: str, target: dict[str, float | None] | None = None) -> Selection:
    """A choice by a rule, on evaluations that are made up."""
    before = Evaluation({**(TARGET if target is None else target)}, [])
    suite = Suite(CONFIG, None, {})  # type: ignore[arg-type]
    rule = parse_selection(text, CONFIG)
    return Selection(rule, suite, Evaluation({**RETAIN}, []), before, ROLES, 0.9, "best", {})


def make_rows(*figures: float | None, utilities: tuple[float, ...] = ()) -> list[StepRow]:
    """The target's row, then one for each figure; the target's would be the best of all."""
    shares = utilities or (1.0,) * len(figures)
    rows = [StepRow(2 * i, f, u) for i, (f, u) in enumerate(zip(figures, shares, strict=True), 1)]
    return [StepRow(0, 0.0, 1.0), *rows]


@pytest.mark.parametrize(
    "text, figures, step",
    [
        ("forget_rouge", (0.5, 0.2, 0.3), 4),
        ("retain_probability", (0.5, 0.2, 0.3), 2),
        ("-forget_rouge", (-0.5, -0.3, -0.4), 4),
        ("forget_rouge", (0.5, 0.2, 0.2), 4),  # a tie: the earlier
        ("forget_rouge", (0.5, 0.2, 0.2 - 1e-9), 4),  # as well, but for rounding
        ("retain_probability", (1e-9, 1e-5, 1e-7), 4),  # small figures differ all the same
        ("forget_rouge", (None, 0.4, None), 4),
        ("forget_rouge", (None, None), None),
        ("forget_rouge", (), None),
    ],
)
def test_the_best_step_is_chosen(
    text: str, figures: tuple[float | None, ...], step: int | None
) -> None:
    chosen = make_selection(text).choose(make_rows(*figures))
    assert (chosen and chosen.step) == step


@pytest.mark.parametrize("rule", ["nearest_retain", "most_forgotten"])
def test_the_best_of_those_that_keep_the_utility_is_chosen(rule: str) -> None:
    selection = make_selection(rule)
    rows = make_rows(0.4, 0.3, 0.01, utilities=(0.99, 0.9, 0.899))
    chosen = selection.choose(rows)
    assert chosen == rows[2]
    assert selection.keeps_utility(rows[2])
    assert not selection.keeps_utility(rows[3])
    lost = make_rows(0.01, 0.3, 0.4, utilities=(0.2, 0.7, 0.7))
    assert selection.choose(lost) == lost[2]  # none keeps it: the one that keeps most


def test_what_is_chosen_until_a_step_was_the_best_when_it_was_evaluated() -> None:
    """Else its weights would not be there any more."""
    selection = make_selection("nearest_retain")
    figures, utilities = (0.5, 0.1, 0.4, 0.3, 0.3, 0.05), (0.2, 0.4, 0.95, 0.5, 0.91, 0.9)
    rows = make_rows(*figures, utilities=utilities)
    bests = [selection.choose(rows[:end]) for end in range(2, len(rows) + 1)]
    assert all(best in (rows[end], bests[end - 2]) for end, best in enumerate(bests, 1) if end > 1)
    assert [best.step for best in bests if best] == [2, 4, 6, 6, 10, 12]


def test_a_row_is_of_the_figures_of_its_model() -> None:
    selection = make_selection("nearest_retain")
    ours = {"forget_probability": 0.3, "forget_rouge": 0.5, "retain_probability": 0.4}
    figures, row = selection.read(Evaluation({**ours}, []), 4)
    assert row.step == 4
    assert row.figure == pytest.approx(0.25)
    assert row.utility == pytest.approx(0.8)
    assert {"selection": row.figure, "selection_utility": row.utility, **ours} == figures


def test_the_most_forgotten_may_lie_beyond_the_retain_model_and_needs_none() -> None:
    selection = make_selection("most_forgotten")
    alone = dataclasses.replace(selection, retain=None)
    ours = {"forget_probability": 0.0, "forget_rouge": 0.1, "retain_probability": 0.5}
    for each in (selection, alone):
        _, row = each.read(Evaluation({**ours}, []), 4)
        assert row.figure == pytest.approx(0.05)
        assert row.utility == pytest.approx(1.0)
    _, row = make_selection("nearest_retain").read(Evaluation({**ours}, []), 4)
    assert row.figure == pytest.approx(0.1)  # where nearest_retain counts the distance


def test_a_figure_that_the_target_lacks_is_refused() -> None:
    assert make_selection("forget_rouge").measure_target() is not None
    selection = make_selection("forget_rouge", {"forget_rouge": None})
    with pytest.raises(UserError, match="forget_rouge: the target has no such figure"):
        selection.measure_target()
