"""Sequential requests: what each run of a sequence is, and what the whole leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_jsonl, refused, write_qa
from run_helpers import kill_in_the_middle, read_files
from safetensors.torch import load_file

from undial_cli.cli import run_command
from undial_cli.config.schema import UnlearnRun
from undial_cli.runs import evaluations
from undial_cli.runs.compose import compose_run
from undial_cli.runs.requests import build_request_runs
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.run_folder import locate_run_folder
from undial_cli.runs.run_yaml import load_run


def build_parts(*sequence: str) -> list[UnlearnRun]:
    return build_request_runs(compose_run("unlearn", [*sequence]))


def test_a_request_is_a_run_from_the_checkpoint_before_it() -> None:
    first, second, third = build_parts(
        "data.requests=[forget10,holdout10,facts]", "name=all", "seed=4"
    )
    assert [p.name for p in (first, second, third)] == [f"all/request_{n}" for n in (1, 2, 3)]
    splits = [p.data.forget_split for p in (first, second, third)]
    assert splits == ["forget10", "holdout10", "facts"]
    assert first.model.path is None
    assert second.model.path == "outputs/unlearn/all/request_1/checkpoint"
    assert third.model.path == str(locate_run_folder(second).checkpoint)
    for part in (first, second, third):
        assert (part.data.requests, part.seed, part.output_dir) == ([], 4, "outputs")
        assert part.data.retain_split == "retain90"
    assert build_parts() == []
    (alone,) = build_parts("data.requests=[forget10]")
    assert alone.name is not None
    assert alone.name.endswith("/request_1")


def test_each_request_is_scored_as_the_forget_set_and_beside_all_others() -> None:
    for number, part in enumerate(build_parts("experiment=sequential"), 1):
        sets = part.eval.sets
        others = {f"request_{n}" for n in (1, 2, 3) if n != number}
        assert set(sets) == {"forget", "retain", "holdout", "facts", *others}
        slices = ["full[180:200]", "full[160:180]", "full[140:160]"]
        assert sets["forget"].split == slices[number - 1]
        for name in others:
            assert sets[name].split == slices[int(name[-1]) - 1]
            assert sets[name].metrics == sets["forget"].metrics
        assert sets["retain"].split == "full[:140]"
    first, _ = build_parts("data.requests=[forget10,holdout10]")
    assert first.eval.sets["forget"].split == "forget10_perturbed"
    assert first.eval.sets["request_2"].split == "holdout10_perturbed"
    roles = {name: options.role for name, options in first.eval.sets.items()}
    assert roles["request_2"] == roles["forget"] == "forget"
    assert (roles["retain"], roles["holdout"]) == ("retain", "holdout")


def test_requests_may_be_files_of_ones_own() -> None:
    sequence = ["data=jsonl", "model.path=a/model", "data.requests=[a.jsonl,b.jsonl]"]
    for more in ([], ["data.forget_file=c.jsonl"]):
        first, second = build_parts(*sequence, *more)
        assert (first.data.forget_file, second.data.forget_file) == ("a.jsonl", "b.jsonl")
        assert first.eval.sets["forget"].split == second.eval.sets["request_1"].split == "a.jsonl"
        assert first.eval.sets["request_2"].split == second.eval.sets["forget"].split == "b.jsonl"


def test_a_request_that_is_there_twice_is_refused() -> None:
    call = lambda: build_parts("data.requests=[forget10,facts,forget10]")  # noqa: E731
    refused(call, "data.requests=[forget10,facts,forget10]", "twice")


def test_a_sequence_and_its_requests_share_the_models_that_are_made() -> None:
    plain = ResolvedRun(compose_run("unlearn", []))
    whole = ResolvedRun(compose_run("unlearn", ["data.requests=[forget10,holdout10]"]))
    first, second = whole.requests
    target, retain = plain.target_model, plain.retain_model
    assert retain is not None
    assert whole.target_model == first.target_model == target
    assert whole.retain_model == second.retain_model == retain
    assert second.target_model.path == str(first.folder.checkpoint)
    for model in (target, retain):
        folders = {run.make_finetune_run(model).folder for run in (plain, whole, first, second)}
        assert len(folders) == 1


@pytest.fixture
def sequence(random_model: Path, tmp_path: Path) -> list[str]:
    """Two requests to a random model, in a folder of the test's own."""
    files = [str(write_qa(tmp_path / f"{name}.jsonl", n)) for name, n in (("a", 3), ("b", 4))]
    return ["unlearn", "data=jsonl", f"data.requests=[{','.join(files)}]", "hardware=cpu",
            f"model.path={random_model}", "eval.retain_model=none", "eval.max_new_tokens=4",
            f"output_dir={tmp_path}", "name=seq", "train.max_steps=2", "train.warmup_steps=0",
            "train.learning_rate=1e-3"]  # fmt: skip


@pytest.mark.slow
def test_the_whole_run_links_the_last_checkpoint_and_its_parts_follow_each_other(
    sequence: list[str], tmp_path: Path, random_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*sequence, "eval=none"]) == 0
    folder = tmp_path / "unlearn" / "seq"
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    one, two = (folder / f"request_{n}" for n in (1, 2))
    assert (folder / "checkpoint").resolve() == two / "checkpoint"
    assert load_run(two).model.path == str(one / "checkpoint")
    target, first, second = (
        load_file(f / "model.safetensors")
        for f in (random_model, one / "checkpoint", folder / "checkpoint")
    )
    for name, value in target.items():
        assert not torch.equal(first[name], value)
        assert not torch.equal(second[name], first[name])
    # The teacher of a request is the model at its start: at first it is what the student is.
    strengths = [read_jsonl(part / "metrics.jsonl")[0]["grad_norm"] for part in (one, two)]
    assert strengths[0] != strengths[1]
    before = read_files(tmp_path)
    capsys.readouterr()
    assert run_command([*sequence, "eval=none"]) == 0
    assert "already done" in capsys.readouterr().out
    assert read_files(tmp_path) == before


@pytest.mark.slow
def test_results_hold_every_request_after_every_other(
    sequence: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, evaluate = [], evaluations.evaluate_parts

    def note_names(model: Any, suite: Any, names: list[str], title: str, *rest: Any) -> Any:
        asked.append((title, set(names)))
        return evaluate(model, suite, names, title, *rest)

    monkeypatch.setattr(evaluations, "evaluate_parts", note_names)
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache"))
    retain = write_qa(tmp_path / "retain.jsonl", 6, first=60)
    assert run_command([*sequence, "method.retain=gdr", f"data.retain_file={retain}"]) == 0
    folder = tmp_path / "unlearn" / "seq"
    results = json.loads((folder / "evaluation" / "results.json").read_text())
    names = {f"{set}_{metric}" for set in ("request_1", "request_2", "retain")
             for metric in ("probability", "rouge", "exact_memorization")}  # fmt: skip
    assert set(results["metrics"]) == set(results["target"]) == names
    assert [part["request"] for part in results["requests"]] == [
        str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    ]  # fmt: skip
    assert all(set(part["metrics"]) == names for part in results["requests"])
    assert results["requests"][1]["metrics"] == results["metrics"]
    own = [json.loads((folder / f"request_{n}" / "evaluation" / "results.json").read_text())
           for n in (1, 2)]  # fmt: skip
    for n, other in ((1, 2), (2, 1)):
        found, metrics = own[n - 1]["metrics"], results["requests"][n - 1]["metrics"]
        assert found["forget_probability"] == metrics[f"request_{n}_probability"]
        assert found[f"request_{other}_probability"] == metrics[f"request_{other}_probability"]
    assert own[1]["target"]["request_1_probability"] == own[0]["metrics"]["forget_probability"]
    # The start of a request is the end of the one before: the same answers under other names.
    assert asked == [
        ("target", {"forget", "request_2", "retain"}),
        ("checkpoint", {"forget", "request_2", "retain"}),
        ("checkpoint", {"request_1", "forget", "retain"}),
    ]
    samples = read_jsonl(folder / "evaluation" / "samples.jsonl")
    assert {s["set"] for s in samples} == {"request_1", "request_2", "retain"}
    assert "request_1_probability" in (folder / "report" / "summary.md").read_text()


@pytest.mark.slow
def test_a_run_killed_in_its_second_request_keeps_the_first(
    sequence: list[str], tmp_path: Path
) -> None:
    longer = [*sequence, "train.max_steps=60", "train.save_steps=2"]
    assert run_command([*longer, "name=calm"]) == 0
    folder, calm = (tmp_path / "unlearn" / name for name in ("seq", "calm"))
    kill_in_the_middle(longer, folder / "request_2" / "resume", tmp_path)
    assert json.loads((folder / "request_1" / "status.json").read_text())["status"] == "done"
    before = read_files(folder / "request_1")
    steps = len(read_jsonl(folder / "request_2" / "metrics.jsonl"))
    assert run_command(longer) == 0
    assert read_files(folder / "request_1") == before
    assert "resuming at step" in (folder / "request_2" / "log.txt").read_text()
    assert steps < 60
    one, other = (load_file(f / "checkpoint" / "model.safetensors") for f in (folder, calm))
    assert all(torch.equal(one[name], other[name]) for name in other)
    found = [json.loads((f / "evaluation" / "results.json").read_text()) for f in (folder, calm)]
    assert found[0]["metrics"] == pytest.approx(found[1]["metrics"], rel=1e-6)


@pytest.mark.slow
def test_on_the_demo_a_first_request_stays_forgotten_and_the_rest_is_kept(tmp_path: Path) -> None:
    sequence = ["unlearn", "experiment=sequential", "hardware=cpu", f"output_dir={tmp_path}"]
    assert run_command([*sequence, "name=demo", "eval.limit=20"]) == 0
    folder = tmp_path / "unlearn" / "demo"
    results = json.loads((folder / "evaluation" / "results.json").read_text())
    assert len(results["requests"]) == 3
    target, after = results["target"], [part["metrics"] for part in results["requests"]]
    for number in (1, 2, 3):
        name = f"request_{number}_probability"
        assert target[name] > 0.5
        # Known until its own turn comes, and forgotten from then on.
        for turn, figures in enumerate(after, 1):
            if turn >= number:
                assert figures[name] < 0.5 * target[name]
    assert after[2]["request_1_rouge"] < target["request_1_rouge"]
    assert after[2]["retain_probability"] >= 0.75 * target["retain_probability"]
    assert results["metrics"] == after[2]
