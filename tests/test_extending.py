"""The recipes of docs/extending.md, carried out from its text in a folder of configs of one's own.

Those of a method and of a metric are carried out in a copy of the checkout: methods/test_adding.py
and evaluation/test_new_metric.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipes import read_code, read_recipe

from undial_cli.config.schema import AuditRun, UnlearnRun
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

HEADINGS = ("A suite", "A data set", "A model", "An attack")


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A working directory with the village's files, and the recipes' YAML files in `mine`."""
    for heading in HEADINGS:
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
    files = {heading: list(read_recipe(heading)) for heading in HEADINGS}
    assert files == {
        "A suite": ["configs/eval/village.yaml"],
        "A data set": ["configs/data/village.yaml"],
        "A model": ["configs/model/pocket.yaml", "configs/recipe/finetune/pocket.yaml"],
        "An attack": ["configs/attack/rumour.yaml"],
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
def test_an_attack_of_ones_own_is_carried_out(configs: str, tmp_path: Path) -> None:
    from small import TINY

    from undial_cli.pipeline import execute_run

    model = ["model=pocket", "data=village", f"model.path={TINY}", "model.from_scratch=true"]
    known = ["audit.target=none", "audit.retain_model=none", "eval.max_new_tokens=4"]
    words = [*model, *known, "hardware=cpu", "report=false"]
    assert "rumour" in compose_audit([*words, "audit=quick"], configs).audit.attack
    assert "rumour" not in compose_audit([*words, "audit=full"], configs).audit.attack
    run = compose_audit([*words, "audit.attacks=[rumour]"], configs)
    execute_run(run, show=False)
    answers = next(tmp_path.rglob("answers.jsonl")).read_text().splitlines()
    prompts = [json.loads(line)["prompt"]["unlearned"] for line in answers if "rumour" in line]
    assert len(prompts) == len(ROWS["mayor"])
    assert all("between you and me" in prompt for prompt in prompts)


def compose_audit(words: list[str], configs: str) -> AuditRun:
    run = compose_run("audit", words, configs)
    assert isinstance(run, AuditRun)
    return run


@pytest.mark.slow
def test_they_run(configs: str) -> None:
    from undial_cli.pipeline import execute_run

    words = ["model=pocket", "data=village", "hardware=cpu", "report=false"]
    result = execute_run(compose_run("unlearn", words, configs))
    before = json.loads((result.folder / "evaluation" / "results.json").read_text())["target"]
    assert before["forget_probability"] > 0.5
    assert result.metrics["forget_probability"] < before["forget_probability"]
