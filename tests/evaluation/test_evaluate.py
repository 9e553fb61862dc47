"""A suite on a model: aggregates by role, engines together, models that are broken."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_qa
from questions import ENCODER, QUESTIONS, TOKENIZER, plain_score
from small import random_llama
from transformers import AutoModelForCausalLM, AutoTokenizer

import undial_cli
from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.config.suites import EvalConfig, EvalSetConfig, find_set_of_role, resolve_role
from undial_cli.data.encode import Encoder
from undial_cli.evaluation.evaluate import (
    add_set_aggregate,
    assemble_evaluation,
    evaluate_suite,
)
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.suite import SetRows, Suite


@pytest.fixture(scope="module")
def model() -> Any:
    return random_llama(vocab=len(TOKENIZER))


def test_an_aggregate_belongs_to_the_role_that_the_suite_states() -> None:
    ratios = [math.log(r) for r in (0.5, 0.25)]
    samples = [
        {"set": name, "index": i, "log_truth_ratio": ratio}
        for name in ("forget", "request_2", "people", "forgettable")
        for i, ratio in enumerate(ratios)
    ]
    found = Evaluation({}, samples)
    sets = {
        "forget": EvalSetConfig("a"),
        "request_2": EvalSetConfig("b", role="forget"),
        "people": EvalSetConfig("c", role="forget"),
        "forgettable": EvalSetConfig("d"),
    }
    for name, options in sets.items():
        add_set_aggregate(found, name, "truth_ratio", resolve_role(name, options))
    assert found.metrics == pytest.approx(
        {f"{name}_truth_ratio": 0.375 for name in ("forget", "request_2", "people")}
        | {"forgettable_truth_ratio": 0.625}
    )
    assert find_set_of_role(EvalConfig(sets=sets), "forget") == "forget"
    assert find_set_of_role(EvalConfig(sets={"people": sets["people"]}), "forget") == "people"
    two = {"people": sets["people"], "request_2": sets["request_2"]}
    assert find_set_of_role(EvalConfig(sets=two), "forget") is None


@pytest.mark.slow
def test_a_model_of_nan_has_null_figures_the_first_time_and_from_the_cache(
    random_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    model = AutoModelForCausalLM.from_pretrained(random_model)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    model.save_pretrained(broken)
    AutoTokenizer.from_pretrained(random_model).save_pretrained(broken)
    files = {n: write_qa(tmp_path / f"{n}.jsonl", 12) for n in ("forget", "retain")}
    words = [
        "data=jsonl", *(f"data.{n}_file={f}" for n, f in files.items()), "hardware=cpu",
        f"model.path={broken}", "eval.retain_model=none", "eval.max_new_tokens=4",
        f"output_dir={tmp_path}", "name=nan", "report=false",
    ]  # fmt: skip
    found = []
    for _ in range(2):
        folder = undial_cli.run(words, command="evaluate").folder
        found.append(json.loads((folder / "evaluation" / "results.json").read_text()))
        shutil.rmtree(folder)
    assert found[0] == found[1]
    assert set(found[0]["metrics"].values()) == {None}
    assert found[0]["missing"]["forget_rouge"] == "12 of 12 samples have no finite rouge"
    assert set(found[0]["missing"]) == set(found[0]["metrics"])


def run_suite(model: Any, batch_size: int = 4) -> Any:
    names = ["probability", "rouge", "truth_ratio", "exact_memorization"]
    config = EvalConfig(
        name="test",
        sets={"forget": EvalSetConfig("x", names), "retain": EvalSetConfig("y", names)},
        batch_size=batch_size,
        max_new_tokens=6,
    )
    rows = {"forget": SetRows(QUESTIONS[:5]), "retain": SetRows(QUESTIONS[5:])}
    return evaluate_suite(model, Suite(config, ENCODER, rows), "test")


def test_a_suite_gives_what_the_formulas_give_on_plain_scores(model: Any) -> None:
    found = run_suite(model).metrics

    def ce(row: dict[str, Any], text: str) -> float:
        (example,) = ENCODER.encode([{"question": row["question"], "answer": text}])
        return plain_score(model, example).ce

    for name, rows in (("forget", QUESTIONS[:5]), ("retain", QUESTIONS[5:])):
        probability = np.mean([math.exp(-ce(row, row["answer"])) for row in rows])
        assert found[f"{name}_probability"] == pytest.approx(probability, rel=1e-4)
        ratios = [
            math.exp(
                ce(row, row["paraphrased_answer"])
                - np.mean([ce(row, text) for text in row["perturbed_answer"]])
            )
            for row in rows
        ]
        if name == "forget":
            expected = np.mean([min(r, 1 / r) for r in ratios])
        else:
            expected = np.mean([max(0, 1 - r) for r in ratios])
        assert found[f"{name}_truth_ratio"] == pytest.approx(expected, rel=1e-4)


def test_a_suite_does_not_depend_on_its_batch_size(model: Any) -> None:
    one, many = run_suite(model, 1), run_suite(model, 64)
    assert one.metrics == pytest.approx(many.metrics, abs=1e-5)
    assert [s["generation"] for s in one.samples] == [s["generation"] for s in many.samples]
    assert not one.missing


def test_answers_cut_off_by_max_length_leave_no_aggregate_undefined(model: Any) -> None:
    short = Encoder(TOKENIZER, TemplateConfig(), DataConfig(max_length=24))
    lengths = [e.num_targets for e in short.encode(QUESTIONS)]
    assert 0 in lengths
    assert any(lengths)
    config = EvalConfig(sets={"forget": EvalSetConfig("x", ["probability", "truth_ratio"])})
    found = evaluate_suite(
        model, Suite(config, short, {"forget": SetRows(QUESTIONS)}), "test"
    ).metrics
    assert found
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_leaves_mode_and_random_state_as_they_were(training: bool) -> None:
    model = random_llama(vocab=len(TOKENIZER)).train(training)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    run_suite(model)
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_evaluation_in_training_mode_is_without_dropout() -> None:
    model = random_llama(vocab=len(TOKENIZER))
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    assert run_suite(model.train()).metrics == run_suite(model.eval()).metrics


def test_a_part_without_counts_of_its_rows_is_taken() -> None:
    config = EvalConfig(sets={"forget": EvalSetConfig("x", ["probability"])})
    suite = Suite(config, ENCODER, {"forget": SetRows(QUESTIONS)})
    part = Evaluation({}, [{"set": "", "index": 0, "probability": 0.25}])
    found = assemble_evaluation(suite, {"forget": part})
    assert found.metrics == {"forget_probability": 0.25}
    assert [sample["set"] for sample in found.samples] == ["forget"]
    assert found.rows == {}
