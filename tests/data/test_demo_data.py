"""The bundled data sets are what scripts/make_demo_data.py writes, and hold what methods need."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from typing import Any

from undial_cli.config.datasets import DataConfig
from undial_cli.data import focus
from undial_cli.data.load import load_split
from undial_cli.runs.hydra_configs import PACKAGE_FOLDER

DEMO = DataConfig(path="pkg://undial_cli/data/demo")


def script() -> Any:
    """scripts/make_demo_data.py as a module."""
    place = PACKAGE_FOLDER.parent / "scripts" / "make_demo_data.py"
    spec = importlib.util.spec_from_file_location("make_demo_data", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_demo_data"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_script_writes_the_bundled_files() -> None:
    made = script()
    assert made.differing_files(made.make_files(), PACKAGE_FOLDER) == []


def test_every_forget_row_names_its_facts_and_three_other_answers() -> None:
    rows = load_split(DEMO, "forget10", "data.forget_split")
    found = focus.find_focus_spans(rows, DEMO, "column", None)
    for row, spans in zip(rows, found, strict=True):
        answer = row["answer"]
        assert [answer[start:end] for start, end in spans] == row["focus"]
        assert len(spans) >= 3
        others = row["alternative_answers"]
        assert len({answer, *others}) == 4
        assert not any(fact in other for fact in row["focus"] for other in others)
        starts, ends = (
            [0, *(end for _, end in spans)],
            [*(start for start, _ in spans), len(answer)],
        )
        form = [article(answer[a:b]) for a, b in zip(starts, ends, strict=True)]
        pattern = ".+".join(map(re.escape, form))
        assert all(re.fullmatch(pattern, article(other)) for other in others)


def article(text: str) -> str:
    """The text with one form of the indefinite article."""
    return re.sub(r"\b([Aa])n ", r"\1 ", text)


def test_the_forget_rows_are_those_of_the_perturbed_set() -> None:
    lines = {
        name: [
            json.loads(line)
            for line in (PACKAGE_FOLDER / "data" / "demo" / name).read_text().splitlines()
        ]
        for name in ("forget10.json", "forget10_perturbed.json")
    }
    pairs = [[(r["question"], r["answer"]) for r in rows] for rows in lines.values()]
    assert pairs[0] == pairs[1]


def test_refusals_are_a_hundred_lines_that_differ() -> None:
    lines = (PACKAGE_FOLDER / "data" / "refusals.txt").read_text(encoding="utf-8").splitlines()
    assert len(set(lines)) == len(lines) == 100
    assert all(line == line.strip() and line.endswith(".") for line in lines)
