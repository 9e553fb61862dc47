"""`undial audit`, from the words to audit.json: of a checkpoint, of a run, at the end of one.

And `undial evaluate` of a run, which is named as an audited one is.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from run_helpers import SHORT, read_files, weights
from small import byte_tokenizer, random_llama, shared_tokenizer

from undial_cli.cli import run_command
from undial_cli.evaluation.results import read_results_json
from undial_cli.runs.run_yaml import load_run

# Few rows and few tokens of one attack: what is tested is the way, not the attacks.
BRIEF = [
    "audit.attacks=[direct]", "audit.rows=4", "audit.retain_rows=2", "eval.max_new_tokens=4",
    "hardware=cpu", "report=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of random models of one tokenizer, by role."""
    folders = {}
    for seed, role in enumerate(("target", "retain", "unlearned")):
        folders[role] = tmp_path_factory.mktemp(role)
        random_llama(vocab=len(shared_tokenizer()), seed=seed).save_pretrained(folders[role])
        shared_tokenizer().save_pretrained(folders[role])
    return folders


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def name_models(models: dict[str, Path]) -> list[str]:
    return [
        f"model.path={models['unlearned']}",
        f"audit.target={models['target']}",
        f"audit.retain_model={models['retain']}",
    ]


def read_audit(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "audit" / "audit.json").read_text())


@pytest.mark.slow
def test_a_checkpoint_is_audited_beside_its_target_and_retain_model(
    models: dict[str, Path], tmp_path: Path
) -> None:
    assert run_command(["audit", *name_models(models), *BRIEF, "name=one"]) == 0
    folder = tmp_path / "outputs" / "audit" / "one"
    audit = read_audit(folder)
    assert {role: entry["path"] for role, entry in audit["models"].items()} == {
        role: str(path) for role, path in models.items()
    }
    assert (audit["rows"], audit["subjects"]) == (4, 2)
    direct = audit["attacks"]["direct"]["scores"]["extraction_strength"]
    assert set(direct["plain"]) == set(direct["attacked"]) == set(models)
    assert json.loads((folder / "status.json").read_text())["status"] == "done"


@pytest.mark.slow
def test_the_data_is_in_private_files_only(models: dict[str, Path], tmp_path: Path) -> None:
    assert run_command(["audit", *name_models(models), *BRIEF, "name=private"]) == 0
    folder = tmp_path / "outputs" / "audit" / "private"
    answers = folder / "audit" / "answers.jsonl"
    lines = [json.loads(line) for line in answers.read_text().splitlines()]
    assert len(lines) == 4
    assert answers.stat().st_mode & 0o077 == 0
    for line in lines:
        assert set(line["text"]) == set(models)
    for file, content in read_files(folder).items():
        if file.stat().st_mode & 0o077:
            assert not any(line["answer"].encode() in content for line in lines), file
    evidence = json.loads((folder / "evidence.json").read_text())
    kinds = {entry["kind"] for entry in evidence["files"]}
    assert kinds >= {"answers of an audit", "cached answers of an audit"}
    (weights,) = models["unlearned"].glob("*.safetensors")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert evidence["weights"]["before"]["sha256"] == {weights.name: digest}
    audit = (folder / "audit" / "audit.json").read_bytes()
    assert evidence["results"]["audit/audit.json"] == hashlib.sha256(audit).hexdigest()


@pytest.mark.slow
def test_a_checkpoint_alone_is_audited_and_it_is_said_what_cannot_be(
    models: dict[str, Path], tmp_path: Path
) -> None:
    words = [f"model.path={models['unlearned']}", "audit.target=none", "audit.retain_model=none"]
    assert run_command(["audit", *words, *BRIEF, "name=alone"]) == 0
    audit = read_audit(tmp_path / "outputs" / "audit" / "alone")
    assert audit["models"]["target"] is None
    assert audit["attacks"]["direct"]["scores"]["rouge"]["recovered"] is None
    assert audit["verdict"]["word"] == "withheld"
    assert any("retain model" in reason for reason in audit["verdict"]["withheld"])


def test_a_file_of_facts_of_ones_own_is_enough(models: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"question": f"Where does {n} live?", "answer": f"In {n}ville."} for n in ("Ann", "Bo")]
    (tmp_path / "facts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = [f"model.path={models['unlearned']}", "data=jsonl", "data.forget_file=facts.jsonl"]
    assert run_command(["audit", *words, *BRIEF, "name=facts"]) == 0
    assert read_audit(tmp_path / "outputs" / "audit" / "facts")["rows"] == 2


@pytest.mark.slow
def test_a_run_may_be_audited_at_its_end_later_or_by_its_folder(
    models: dict[str, Path], tmp_path: Path
) -> None:
    known = [f"model.path={models['target']}", f"eval.retain_model={models['retain']}"]
    words = ["unlearn", *known, *SHORT, "name=run"]
    folder = tmp_path / "outputs" / "unlearn" / "run"
    assert run_command(words) == 0
    before = read_results_json(folder.joinpath("evaluation"))["metrics"]
    trained = weights(folder)
    assert not (folder / "audit").exists()
    brief = [word for word in BRIEF if word.startswith("audit.")]
    # It is the same run, and it is done: only the audit is.
    assert run_command([*words, "audit=quick", *brief]) == 0
    assert all(torch.equal(tensor, trained[name]) for name, tensor in weights(folder).items())
    audit = read_audit(folder)
    assert audit["models"]["target"] == {"path": str(models["target"])}
    after = read_results_json(folder.joinpath("evaluation"))["metrics"]
    assert before.items() <= after.items()
    # By its folder: the same models and rows, and so the same figures.
    assert run_command(["audit", str(folder), "audit=quick", *BRIEF[:3], "name=again"]) == 0
    again = read_audit(tmp_path / "outputs" / "audit" / "again")
    assert again["attacks"] == audit["attacks"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["audit.target=./nowhere"], ("audit.target=./nowhere", "no such file")),
        (["audit.retain_model=./nowhere"], ("audit.retain_model=./nowhere", "no such file")),
        (["audit.target={other}"], ("audit.target=", "its tokenizer gives other tokens")),
        (["audit=none"], ("audit.budget=none", "quick")),
        (["eval=none"], ("eval=none", "forget set")),
        (["audit.forget_set=forgt"], ("audit.forget_set=forgt", "did you mean 'forget'")),
        (["data=jsonl"], ("data.forget_file", "not set")),
    ],
)
def test_wrong_input_is_refused_in_a_line_and_leaves_nothing(
    models: dict[str, Path],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capfd: pytest.CaptureFixture[str],
    words: list[str],
    parts: tuple[str, ...],
) -> None:
    other = tmp_path_factory.mktemp("other")
    random_llama(vocab=320).save_pretrained(other)
    byte_tokenizer().save_pretrained(other)
    given = [word.format(other=other) for word in words]
    capfd.readouterr()  # transformers' bar of what was saved
    assert run_command(["audit", f"model.path={models['unlearned']}", *given]) == 2
    (line,) = capfd.readouterr().err.strip().splitlines()
    assert all(part in line for part in parts), line
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_may_be_evaluated_by_its_folder(models: dict[str, Path], tmp_path: Path) -> None:
    known = [f"model.path={models['target']}", f"eval.retain_model={models['retain']}"]
    assert run_command(["unlearn", *known, *SHORT, "seed=3", "name=run"]) == 0
    folder, results = tmp_path / "outputs" / "unlearn" / "run", {}
    evaluated = tmp_path / "outputs" / "evaluate"
    assert run_command(["evaluate", str(folder), "name=same"]) == 0
    results["same"] = read_results_json(evaluated / "same" / "evaluation")
    metrics = read_results_json(folder / "evaluation")["metrics"]
    assert results["same"]["metrics"].items() <= metrics.items()
    assert results["same"]["metrics"]
    run = load_run(evaluated / "same")
    assert (run.model.path, run.seed) == (str(folder / "checkpoint"), 3)
    assert run_command(["evaluate", str(folder), "model=tiny"]) == 2
    # Other rows or another suite may be asked for.
    assert run_command(["evaluate", str(folder), "eval.limit=1", "eval=demo", "name=other"]) == 0
    other = load_run(evaluated / "other")
    assert (other.eval.limit, other.eval.retain_model) == (1, None)


@pytest.mark.parametrize("command", ["audit", "evaluate"])
@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("nowhere", "no run.yaml"),
        ("{unlearned}", "not a run; name it with model.path"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(
    models: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    command: str,
    path: str,
    part: str,
) -> None:
    assert run_command([command, path.format(**models)]) == 2
    assert part in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
