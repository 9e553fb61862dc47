"""The house that docs/architecture.md describes, measured on the code: rooms, arrows and names."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import undial_cli

PACKAGE = Path(undial_cli.__file__).parent
ROOTS = (PACKAGE, PACKAGE.parent)
# From the top down: an import runs only downward.
ROOMS = (
    "cli", "tables", "sweeps", "asking", "pipeline", "runs", "audit", "planning", "reporting",
    "training", "evaluation", "methods", "models", "data", "losses", "system", "config", "ui",
    "errors",
)  # fmt: skip
# Words that say nothing of what a name stands for.
EMPTY_WORDS = {
    "found", "place", "there", "kept", "own", "said", "mine", "what", "ink", "beside", "about",
}  # fmt: skip
# Names that stand in two modules and mean the same in both.
SAME_CONTRACT = {
    "METHODS",  # of one file of methods, and of all
}


def name_module(file: Path) -> str:
    """A file of the package as a module: `runs.compose`; the package itself is ``."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {name_module(f): ast.parse(f.read_text("utf-8")) for f in PACKAGE.rglob("*.py")}


def find_imports(tree: ast.Module) -> Iterator[str]:
    """The modules of the package that a module imports, at its top and inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("undial_cli"):
            source = (node.module or "").partition(".")[2]
            for alias in node.names:
                inner = f"{source}.{alias.name}".lstrip(".")
                yield inner if inner in TREES else source


IMPORTS = {
    module: {name for name in find_imports(tree) if name not in ("", module)}
    for module, tree in TREES.items()
    if module
}


def find_functions() -> Iterator[tuple[str, str]]:
    """Module and name of every function at the top level of a module."""
    for module, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield module, node.name


def find_definitions(tree: ast.Module) -> Iterator[str]:
    """What a module defines at its top level: functions, classes and constants."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def find_locals(function: ast.AST) -> Iterator[str]:
    """The parameters and the variables of a function."""
    for node in ast.walk(function):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def test_every_module_stands_in_a_room() -> None:
    assert {module.split(".")[0] for module in TREES if module} <= set(ROOMS)
    assert len([f for f in PACKAGE.iterdir() if f.name != "__pycache__"]) <= 20


def test_no_import_runs_upward() -> None:
    level = {room: number for number, room in enumerate(ROOMS)}
    upward = [
        f"{module} imports {name}"
        for module, names in IMPORTS.items()
        for name in names
        if level[name.split(".")[0]] < level[module.split(".")[0]]
    ]
    assert not upward


def test_no_modules_import_each_other_in_a_circle() -> None:
    left = {module: set(names) for module, names in IMPORTS.items()}
    while True:  # what imports nothing that is left, or is imported by nothing, is on no circle
        imported = {name for names in left.values() for name in names}
        circles = {m: names & left.keys() for m, names in left.items() if m in imported}
        circles = {module: names for module, names in circles.items() if names}
        if circles == left:
            break
        left = circles
    assert not left


def test_a_function_is_a_verb_and_a_noun() -> None:
    functions = list(find_functions())
    short = [f"{module}.{name}" for module, name in functions if "_" not in name.strip("_")]
    assert len(short) < 0.12 * len(functions), short


def test_a_name_stands_for_one_thing() -> None:
    modules = defaultdict(set)
    for module, tree in TREES.items():
        for name in find_definitions(tree):
            modules[name].add(module)
    twice = {name for name, where in modules.items() if len(where) > 1 and name[:2] != "__"}
    assert twice <= SAME_CONTRACT


def test_locals_are_named_for_what_they_hold() -> None:
    functions = [
        (module, node)
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.Lambda)
    ]
    empty = {
        f"{module}: {name}"
        for module, function in functions
        for name in find_locals(function)
        if name in EMPTY_WORDS
    }
    assert not empty


def test_the_story_of_a_run_is_short() -> None:
    assert len((PACKAGE / "pipeline.py").read_text("utf-8").splitlines()) <= 200


def test_the_documented_modules_exist() -> None:
    text = (PACKAGE.parent / "docs" / "architecture.md").read_text("utf-8")
    named = set(re.findall(r"\b((?:\w+/)*\w+\.py)\b", text))
    wrong = [name for name in named if not any((folder / name).is_file() for folder in ROOTS)]
    assert not wrong
