"""KnowUnDo on its real rows: unlearn and retention success and perplexity, in plain loops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from conftest import prepare, refused
from plain_models import remember_texts
from small import shared_tokenizer

from undial_cli.data.encode import Encoder
from undial_cli.evaluation.evaluate import evaluate_suite
from undial_cli.evaluation.suite import Suite
from undial_cli.runs.compose import compose_run
from undial_cli.runs.evaluation_inputs import load_evaluation_rows

ROWS = 5
TINY = ["model=tiny", "model.path=pkg://undial_cli/models/tiny", "model.from_scratch=true"]


@torch.no_grad()
def score_answer(model: Any, tokenizer: Any, row: dict[str, str]) -> tuple[float, float]:
    """The share of an answer's tokens that are the likeliest, and their mean loss."""
    prompt = f"{row['text']}\n\n"
    found = tokenizer(prompt + row["labels"], return_offsets_mapping=True)
    ids, ends = found["input_ids"], [end for _, end in found["offset_mapping"]]
    start = sum(end <= len(prompt) for end in ends)
    logits_TV = model(input_ids=torch.tensor([ids])).logits[0]
    hits, losses = [], []
    for position in range(start, len(ids)):
        log_probs_V = logits_TV[position - 1].log_softmax(-1)
        hits.append(float(log_probs_V.argmax() == ids[position]))
        losses.append(-float(log_probs_V[ids[position]]))
    return mean(hits), mean(losses)


@pytest.mark.slow
def test_success_and_perplexity_are_those_of_the_authors_code(data_root: Path) -> None:
    folder = data_root / "KnowUnDo"
    if not folder.is_dir():
        pytest.skip(f"no KnowUnDo at {folder}")
    tokenizer: Any = shared_tokenizer()
    words = [*TINY, "data=knowundo", f"data.path={folder}", f"eval.limit={ROWS}",
             "eval.sets.forget.metrics=[exact_memorization,answer_perplexity]",
             "eval.sets.retain.metrics=[exact_memorization,answer_perplexity]"]  # fmt: skip
    rows = {name: json.loads((folder / f"{split}_val.json").read_text())[:ROWS]
            for name, split in (("forget", "unlearn"), ("retain", "retention"))}  # fmt: skip
    told = [f"{row['text']}\n\n{row['labels']}" for part in rows.values() for row in part[:3]]
    model = remember_texts(tokenizer, told, steps=60)
    run = compose_run("evaluate", words)
    encoder = Encoder(tokenizer, run.model.template, run.data)
    suite = Suite(run.eval, encoder, load_evaluation_rows(run, encoder), run.seed)
    found = evaluate_suite(model, suite, "test")
    accuracy = {}
    for name, part in rows.items():
        scores = [score_answer(model, tokenizer, row) for row in part]
        accuracy[name] = mean(hits for hits, _ in scores)
        assert found.metrics[f"{name}_exact_memorization"] == pytest.approx(accuracy[name])
        perplexity = math.exp(mean(loss for _, loss in scores))
        assert found.metrics[f"{name}_answer_perplexity"] == pytest.approx(perplexity, rel=1e-4)
        assert 0 < accuracy[name] < 1
    assert found.metrics["unlearn_success"] == pytest.approx(1 - accuracy["forget"])
    assert found.metrics["retention_success"] == pytest.approx(accuracy["retain"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, parts",
    [
        (["data.forget_split=unlearn"], ["data.forget_split=unlearn", "unlearn_train"]),
        (["data.answer_key=answer"], ["data.forget_split=unlearn_train", "'answer'", "labels"]),
        (["eval.sets.retain.split=retention"], ["eval.sets.retain.split", "retention_val"]),
    ],
)
def test_a_wrong_column_or_split_is_refused_by_name(
    words: list[str], parts: list[str], tmp_path: Path
) -> None:
    for name in ("unlearn_train", "unlearn_val", "retention_train", "retention_val"):
        row = {"text": f"Who is {name}?", "labels": "Nobody."}
        (tmp_path / f"{name}.json").write_text(json.dumps([row]))
    chosen = [*TINY, "data=knowundo", f"data.path={tmp_path}", *words]
    refused(lambda: prepare(compose_run("unlearn", chosen), weights=False), *parts)
