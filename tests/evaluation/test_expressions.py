"""An expression is arithmetic over figures and nothing else of Python."""

from __future__ import annotations

import math
import random

import pytest
from conftest import refused

from undial_cli.evaluation.expressions import NoNumber, parse_expression

FIGURES = {"a": 0.25, "b": 0.5, "c_1": 3.0}
RIGHT = {
    "a": 0.25,
    "(a + b) / 2": 0.375,
    "-abs(a - b) * 2 ** c_1": -2.0,
    "min(a, b, c_1) + max(a, 1e-3)": 0.5,
    "sqrt(a) - log(1)": 0.5,
    "+a - -b": 0.75,
}
# What must not be read as anything else than refused.
WRONG = (
    "__import__('os').system('true')", "a.b", "a[0]", "a()", "abs(a, b)", "min(a)",
    "abs(a, *b)", "min(a, key=b)", "print(a)", "eval('1')", "(lambda: a)()", "[a for a in b]",
    "a if b else c_1", "a and b", "a < b", "not a", "~a", "a // b", "a % b", "a @ b", "'a'", "True",
    "None", "1j * a", "a := 1", "a; b", "import os", "", "a +", "a b", "f'{a}'", "{a}", "...",
    "1 + 1", "a" * 401, "(" * 300 + "a", "1e999 * a",
)  # fmt: skip


def test_an_expression_is_worked_out_as_python_would() -> None:
    for text, value in RIGHT.items():
        expression = parse_expression(text, "train.select")
        assert expression.compute(FIGURES) == pytest.approx(value)
    assert parse_expression("b - a + b", "k").names == ("b", "a")


def test_drawn_expressions_agree_with_python() -> None:
    draw = random.Random(0)

    def make_text(depth: int) -> str:
        if depth == 0:
            return draw.choice([*FIGURES, "0.5", "2"])
        one, other = make_text(depth - 1), make_text(draw.randrange(depth))
        return draw.choice([f"({one}) {draw.choice('+-*/')} ({other})", f"-({one})", f"abs({one})"])

    seen = 0
    for _ in range(200):
        text = f"a + {make_text(4)}"
        try:
            value = eval(text, {}, {**FIGURES, "abs": abs})
        except ZeroDivisionError:
            value = math.nan
        expression = parse_expression(text, "k")
        if math.isfinite(value):
            seen += 1
            assert expression.compute(FIGURES) == pytest.approx(value)
        else:
            with pytest.raises(NoNumber):
                expression.compute(FIGURES)
    assert seen > 100


@pytest.mark.parametrize("text", WRONG)
def test_what_is_no_arithmetic_is_refused(text: str) -> None:
    refused(lambda: parse_expression(text, "train.select"), "train.select", "allowed")


def test_what_has_no_value_is_no_number() -> None:
    for text in (
        "a / (b - b)",
        "log(a - a)",
        "sqrt(-a)",
        "(-a) ** b",
        "9 ** (9 ** 9) * a",
        "(a - a) ** -1",
    ):
        with pytest.raises(NoNumber):
            parse_expression(text, "k").compute(FIGURES)


def test_the_deepest_expression_that_is_taken_is_worked_out() -> None:
    assert parse_expression("-" * 398 + "a", "k").compute(FIGURES) == 0.25
    assert parse_expression("a" + "-a" * 199, "k").compute(FIGURES) == pytest.approx(0.25 * -198)
