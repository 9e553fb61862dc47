"""Arithmetic over named figures: `(forget_quality + model_utility) / 2`.

Numbers, names, `+ - * / **`, parentheses and a few functions, and nothing else of Python: a text is
parsed, checked node by node, and worked out here, never run. Knows no metric.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from undial_cli.errors import UserError

LONGEST_EXPRESSION = 400  # letters; each may be a level that is worked out within the one before
OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,  # of floats alone: never complex, and no number of a million digits
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
# By name: the function, and how many figures it takes at least and at most.
FUNCTIONS: dict[str, tuple[Callable[..., float], int, int]] = {
    "abs": (math.fabs, 1, 1),
    "sqrt": (math.sqrt, 1, 1),
    "log": (math.log, 1, 1),
    "min": (min, 2, 100),
    "max": (max, 2, 100),
}
ALLOWED = f"numbers, metrics, + - * / **, parentheses, {', '.join(FUNCTIONS)}"


class NoNumber(Exception):
    """An expression that has no value for these figures, and why."""


@dataclass(frozen=True)
class Expression:
    """A checked expression; `names`: the figures that it reads, as they first stand in it."""

    text: str
    tree: ast.expr
    names: tuple[str, ...]

    @property
    def is_name(self) -> bool:
        """Whether it is one figure as it is."""
        return isinstance(self.tree, ast.Name)

    def compute(self, figures: Mapping[str, float]) -> float:
        """Its value.

        Raises:
            NoNumber: it divides by zero or the like.
        """
        try:
            value = compute_node(self.tree, figures)
        except ArithmeticError as error:
            raise NoNumber(str(error)) from error
        except ValueError as error:  # of a logarithm, a root, a power
            raise NoNumber("it is not defined for these figures") from error
        if not math.isfinite(value):
            raise NoNumber(f"it is {value}")
        return value


def parse_expression(text: str, key: str) -> Expression:
    """An expression from its text.

    Raises:
        UserError: it is none, or holds what is not allowed; the key names it.
    """
    where = f"{key}={text}"
    if len(text) > LONGEST_EXPRESSION:
        raise UserError(f"{key}: an expression of at most {LONGEST_EXPRESSION} letters is allowed")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{where}: no expression; allowed are {ALLOWED}") from error
    names: list[str] = []
    for node in list_checked_nodes(tree, where):
        if isinstance(node, ast.Name):
            names.append(node.id)
    if not names:
        raise UserError(f"{where}: names no metric; allowed are {ALLOWED}")
    return Expression(text, tree, tuple(dict.fromkeys(names)))


def list_checked_nodes(tree: ast.expr, where: str) -> list[ast.expr]:
    """The operands of an expression, all of them of an allowed kind; raises UserError."""
    nodes, ahead = list[ast.expr](), [tree]
    while ahead:
        node = ahead.pop(0)
        nodes.append(node)
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            ahead += [node.left, node.right]
        elif isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
            ahead.append(node.operand)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            least, most = FUNCTIONS.get(node.func.id, (None, 1, 0))[1:]
            if not least <= len(node.args) <= most:
                raise UserError(f"{where}: '{ast.unparse(node)}'; allowed are {ALLOWED}")
            ahead += node.args
        elif not (isinstance(node, ast.Name) or is_number(node)):
            raise UserError(f"{where}: '{ast.unparse(node)}'; allowed are {ALLOWED}")
    return nodes


def is_number(node: ast.expr) -> bool:
    """Whether a node is a finite number."""
    if not isinstance(node, ast.Constant) or type(node.value) not in (int, float):
        return False
    try:
        return math.isfinite(float(node.value))  # type: ignore[arg-type]
    except OverflowError:
        return False


def compute_node(node: ast.expr, figures: Mapping[str, float]) -> float:
    """The value of a checked node."""
    if isinstance(node, ast.Constant):
        return float(node.value)  # type: ignore[arg-type]
    if isinstance(node, ast.Name):
        return figures[node.id]
    if isinstance(node, ast.UnaryOp):
        return OPERATORS[type(node.op)](compute_node(node.operand, figures))
    if isinstance(node, ast.BinOp):
        sides = (compute_node(side, figures) for side in (node.left, node.right))
        return OPERATORS[type(node.op)](*sides)
    assert isinstance(node, ast.Call)
    assert isinstance(node.func, ast.Name)
    return FUNCTIONS[node.func.id][0](*(compute_node(part, figures) for part in node.args))
