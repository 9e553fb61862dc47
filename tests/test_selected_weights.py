"""Whole runs that choose their weights: the same step on two processes, and after a kill."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_jsonl
from peft import AutoPeftModelForCausalLM
from run_helpers import assert_equal, kill_once, weights
from test_distributed import LEAN, make_answer
from transformers import AutoConfig

from undial_cli.cli import run_command
from undial_cli.training.states import SEAL_FILE

CHOOSE = ["train.select=-abs(log(forget_probability) + 12)", "train.eval_steps=2"]


def write_people(file: Path, people: range, rows: int = 3) -> str:
    """Questions about persons, each of whom a column names."""
    lines = [
        {"question": f"What is {n} of {i}?", "answer": make_answer(3 * i + n), "subject": f"P{i}"}
        for i in people
        for n in range(rows)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory, random_model: Path) -> list[str]:
    """A short run's words, but for its name."""
    folder = tmp_path_factory.mktemp("people")
    forget = write_people(folder / "f.jsonl", range(4))
    retain = write_people(folder / "r.jsonl", range(10, 14))
    return [
        "unlearn", "data=jsonl", f"data.forget_file={forget}", f"data.retain_file={retain}",
        f"model.path={random_model}", "eval.retain_model=none", "model.dtype=float64",
        "hardware=cpu", "adapter=none", "method=ga", "train.learning_rate=3e-4",
        "train.batch_size=4", "train.warmup_steps=0", "train.max_steps=7", "eval.max_new_tokens=4",
        "eval.batch_size=3", "report=false", *LEAN,
    ]  # fmt: skip


def read_results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation" / "results.json").read_text())


def read_selection(folder: Path) -> dict[str, Any]:
    return read_results(folder)["selection"]


@pytest.fixture(scope="module")
def one(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run on one process: neither its first nor its last evaluated step is the best."""
    out = tmp_path_factory.mktemp("one")
    assert run_command([*words, *CHOOSE, f"output_dir={out}", "name=run", "report=true"]) == 0
    return out / "unlearn" / "run"


@pytest.mark.slow
def test_the_checkpoint_is_what_a_run_gives_that_ends_at_the_chosen_step(
    words: list[str], one: Path, tmp_path: Path
) -> None:
    chosen = read_selection(one)
    assert [row["step"] for row in chosen["steps"]] == [0, 2, 4, 6, 7]
    assert chosen["step"] == 4
    rows = {r["step"]: r for r in read_jsonl(one / "metrics.jsonl") if "selection" in r}
    for row in chosen["steps"]:
        figures = rows[row["step"]]
        assert figures["selection"] == row["figure"]
        assert row["figure"] == pytest.approx(-abs(math.log(figures["forget_probability"]) + 12))
    ends = [*words, f"output_dir={tmp_path}", "name=run", "eval=none", "train.max_steps=4"]
    assert run_command(ends) == 0
    assert_equal(one, tmp_path / "unlearn" / "run")
    assert AutoConfig.from_pretrained(one / "checkpoint").use_cache
    assert not (one / "resume").exists()


@pytest.mark.slow
def test_no_reported_row_is_one_that_was_chosen_on(one: Path) -> None:
    apart = {name: set(part["apart"]) for name, part in read_selection(one)["rows"].items()}
    assert {name: len(rows) for name, rows in apart.items()} == {"forget": 3, "retain": 3}
    samples = read_jsonl(one / "evaluation" / "samples.jsonl")
    assert len(samples) == 18
    assert not [s for s in samples if s["index"] in apart[s["set"]]]
    subjects = [{s["subject"] for s in samples if s["set"] == name} for name in apart]
    assert [len(numbers) for numbers in subjects] == [3, 3]
    summary, card = ((one / f).read_text() for f in ("report/summary.md", "checkpoint/README.md"))
    assert "forget: 12 rows read, 9 scored; held apart for train.select: 3" in summary
    for text in (
        summary,
        card,
        (one / "log.txt").read_text(),
        (one / "report/report.md").read_text(),
    ):
        assert re.search("[sS]tep 4 of 7 chosen", text)
    assert (one / "report" / "selection.png").is_file()
    assert json.loads((one / "status.json").read_text())["selected"]["step"] == 4


@pytest.mark.slow
def test_two_processes_choose_the_same_step(words: list[str], one: Path, tmp_path: Path) -> None:
    both = [f"output_dir={tmp_path}", "name=run", "hardware.num_processes=2"]
    assert run_command([*words, *CHOOSE, *both]) == 0
    chosen, known = read_selection(tmp_path / "unlearn" / "run"), read_selection(one)
    for row, other in zip(chosen.pop("steps"), known.pop("steps"), strict=True):
        assert row["step"] == other["step"]
        assert row["figure"] == pytest.approx(other["figure"], rel=1e-9)
    assert chosen.pop("figure") == pytest.approx(known.pop("figure"), rel=1e-9)
    assert chosen == known
    ours, theirs = weights(tmp_path / "unlearn" / "run"), weights(one)
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) < 1e-9


@pytest.mark.slow
def test_a_killed_run_chooses_as_if_undisturbed(
    words: list[str], one: Path, tmp_path: Path
) -> None:
    """Killed when the best weights are on the disk, and a state after them."""
    command = [*words, *CHOOSE, f"output_dir={tmp_path}", "name=run", "train.save_steps=1"]
    folder = tmp_path / "unlearn" / "run"

    def has_come_far(_: int) -> bool:
        return bool(list(folder.glob(f"resume/checkpoint-[56]/{SEAL_FILE}")))

    kill_once(command, tmp_path, has_come_far)
    assert (folder / "resume" / "selected" / "step-4").is_dir()
    assert run_command(command) == 0
    assert "resuming at step" in (folder / "log.txt").read_text()
    assert read_selection(folder) == read_selection(one)
    assert_equal(one, folder)


@pytest.mark.slow
def test_a_merged_adapter_is_that_of_the_step_nearest_to_the_retain_model(
    words: list[str], untied_model: Path, tmp_path: Path
) -> None:
    lora = [w for w in words if not w.startswith(("adapter=", "eval.retain_model="))]
    lora += ["adapter=lora", "adapter.merge=true", "adapter.dropout=0", f"output_dir={tmp_path}"]
    choose = ["train.select=nearest_retain", f"eval.retain_model={untied_model}", "train.keep=all"]
    choose += ["train.eval_steps=2", "train.select_utility=0.5", "train.learning_rate=3e-3"]
    assert run_command([*lora, *choose, "name=all"]) == 0
    folder = tmp_path / "unlearn" / "all"
    chosen = read_selection(folder)
    stored_steps = sorted(f.name for f in (folder / "checkpoints").iterdir())
    assert stored_steps == ["step-2", "step-4", "step-6", "step-7"]
    useful = [r for r in chosen["steps"][1:] if r["utility"] >= 0.5]
    assert chosen["figure"] == min(row["figure"] for row in useful)
    assert chosen["step"] < 7
    stored = AutoPeftModelForCausalLM.from_pretrained(
        folder / "checkpoints" / f"step-{chosen['step']}", dtype=torch.float64
    ).merge_and_unload()  # type: ignore[operator]
    merged = weights(folder)
    for name, tensor in stored.state_dict().items():
        if name in merged:
            assert torch.allclose(merged[name], tensor, rtol=0, atol=1e-12), name
