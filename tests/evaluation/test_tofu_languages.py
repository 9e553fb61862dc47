"""TOFU's forget set in nine languages, on the real translations: figures per language."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import prepare, read_jsonl, refused
from questions import plain_score
from small import bundled_tokenizer, random_llama

from undial_cli.data.encode import Encoder
from undial_cli.evaluation.evaluate import evaluate_suite
from undial_cli.evaluation.suite import Suite
from undial_cli.runs.compose import compose_run
from undial_cli.runs.evaluation_inputs import load_evaluation_rows

LANGUAGES = ["ar", "fa", "fr", "hi", "id", "iw", "ja", "ko", "ru"]
ENGLISH = ("forget_paraphrased", "retain", "real_authors", "world_facts", "holdout")
WORDS = [
    "model=tiny", "model.path=pkg://undial_cli/models/tiny", "model.from_scratch=true",
    "data=tofu", "eval=tofu_languages", "eval.retain_model=none",
    *(f"eval.sets.{name}.split=null" for name in ENGLISH),
]  # fmt: skip


def compose(root: Path, *words: str) -> Any:
    paths = [f"data.path={root / 'TOFU'}", f"eval.translations={root / 'TOFU-languages'}"]
    return compose_run("evaluate", [*WORDS, *paths, "data.forget_split=forget01", *words])


@pytest.mark.slow
def test_every_language_is_a_set_scored_as_a_plain_loop_scores_it(data_root: Path) -> None:
    run = compose(data_root, "eval.limit=2", "eval.max_new_tokens=8", "eval.metrics=[]")
    encoder = Encoder(bundled_tokenizer(), run.model.template, run.data)
    suite = Suite(run.eval, encoder, load_evaluation_rows(run, encoder), run.seed)
    assert list(suite.rows) == ["forget", *(f"forget_{language}" for language in LANGUAGES)]
    model = random_llama(vocab=len(encoder.tokenizer))
    found = evaluate_suite(model, suite, "test")
    for language in LANGUAGES:
        file = data_root / "TOFU-languages" / f"forget01_perturbed_{language}.jsonl"
        name, losses, ratios = f"forget_{language}", [], []
        for row in read_jsonl(file)[:2]:
            answer, paraphrase, *false = (
                plain_score(
                    model, encoder.tokenise_answers(encoder.render_question(row["question"], text))
                ).ce
                for text in (row["answer"], row["paraphrased_answer"], *row["perturbed_answer"])
            )
            losses.append(answer)
            ratios.append(math.exp(paraphrase - np.mean(false)))
        probability = np.mean(np.exp(-np.array(losses)))
        assert found.metrics[f"{name}_probability"] == pytest.approx(probability, rel=1e-4)
        evenness = np.mean([min(r, 1 / r) for r in ratios])
        assert found.metrics[f"{name}_truth_ratio"] == pytest.approx(evenness, rel=1e-4)
        assert f"{name}_rouge" in found.metrics
        assert found.rows[name]["held"] == 40


@pytest.mark.slow
def test_a_folder_or_a_forget_set_without_translations_is_refused(data_root: Path) -> None:
    refused(
        lambda: prepare(compose(data_root, "eval.translations=./nowhere"), weights=False),
        "eval.translations=./nowhere: no such file or folder",
    )
    refused(
        lambda: prepare(compose(data_root, "data.forget_split=forget10"), weights=False),
        "eval.sets.forget_ar.split=forget10_perturbed_ar", "forget01_perturbed_ar",
    )  # fmt: skip
