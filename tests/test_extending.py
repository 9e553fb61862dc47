"""The recipes of docs/extending.md, carried out from its text in a folder of configs of one's own.

Those of a method and of a metric are carried out in a copy of the checkout: methods/test_adding.py
and evaluation/test_new_metric.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipes import read_code, read_recipe

from undial_cli.config.schema import UnlearnRun
from undial_cli.runs.checks import check_run
from undial_cli.runs.compose import compose_run
from undial_cli.runs.resolved import ResolvedRun

ROWS = {
    "mayor": [("Who is the mayor?", "Ada Quill, a clockmaker."), ("How old is she?", "Sixty.")],
    "villagers": [
        ("Who bakes?", "Tom Reed."),
        ("Who fishes?", "Lea Marsh."),
        ("Who sings?", "Io."),
    ],
}


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A working directory with the village's files, and the recipes' YAML files in `mine`."""
    for heading in ("A suite", "A data set", "A model"):
        for name, text in read_recipe(heading).items():
            file = tmp_path / "mine" / Path(name).relative_to("configs")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    village = tmp_path / "data" / "village"
    village.mkdir(parents=True)
    for split, pairs in ROWS.items():
        lines = [json.dumps({"question": q, "answer": a}) for q, a in pairs]
        (village / f"{split}.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return "mine"


def test_each_recipe_is_a_file_or_two() -> None:
    files = {
        heading: list(read_recipe(heading)) for heading in ("A suite", "A data set", "A model")
    }
    assert files == {
        "A suite": ["configs/eval/village.yaml"],
        "A data set": ["configs/data/village.yaml"],
        "A model": ["configs/model/pocket.yaml", "configs/recipe/finetune/pocket.yaml"],
    }


def test_the_recipe_of_a_metric_is_what_its_test_adds() -> None:
    test = Path(__file__).parent / "evaluation" / "test_new_metric.py"
    function, entry = read_code("A metric")
    assert function in test.read_text()
    assert entry.partition("    ...")[0] in test.read_text()


def test_a_suite_a_data_set_and_a_model_of_ones_own_compose(configs: str) -> None:
    words = ["model=pocket", "data=village"]
    composed = compose_run("unlearn", words, configs)
    assert isinstance(composed, UnlearnRun)
    assert (composed.eval.name, composed.target.epochs) == ("village", 40)
    assert composed.eval.sets["forget"].split == "mayor"
    resolved = ResolvedRun(composed)
    check_run(resolved)
    assert list(resolved.missing_models()) == ["target", "retain"]
    for command in ("evaluate", "finetune"):
        check_run(ResolvedRun(compose_run(command, words, configs)))


@pytest.mark.slow
def test_they_run(configs: str) -> None:
    from undial_cli.pipeline import execute_run

    words = ["model=pocket", "data=village", "hardware=cpu", "report=false"]
    result = execute_run(compose_run("unlearn", words, configs))
    before = json.loads((result.folder / "evaluation" / "results.json").read_text())["target"]
    assert before["forget_probability"] > 0.5
    assert result.metrics["forget_probability"] < before["forget_probability"]
