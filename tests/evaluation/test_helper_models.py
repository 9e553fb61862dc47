"""Helper models and lm-evaluation-harness through the real command, all on local folders."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import undial
from test_text_quality import WORDS, save_bert
from transformers import AutoModelForCausalLM, AutoTokenizer, BertForSequenceClassification
from transformers import BertModel as Bert

pytestmark = pytest.mark.slow

HELPERS = ("oracle_model", "similarity_model", "coherence_model", "mauve_model", "gibberish_model")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty texts of sixty words, and two that a set leaves out."""
    file = tmp_path_factory.mktemp("texts") / "texts.csv"
    lines = [" ".join(WORDS[(n * 7 + i * (1 + n % 5)) % 15] for i in range(60)) for n in range(30)]
    lines += ["too short", lines[0] + " = a heading = "]
    file.write_text("text\n" + "".join(f'"{line}"\n' for line in lines))
    return file


def evaluate(model: Path, cwd: Path, *words: str) -> dict:
    done = undial(
        "evaluate", "model=tiny", f"model.path={model}", "hardware=cpu", "name=it",
        "eval.batch_size=8", *words, cwd=cwd, UNDIAL_CACHE_DIR=str(cwd / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((cwd / "outputs/evaluate/it/evaluation/results.json").read_text())


def wikitext(file: Path) -> list[str]:
    """The extraction suite with one set of passages, from a file."""
    one = "eval.sets.wikitext"
    return [
        "data=extraction", f"data.forget_file={file}", "eval.limit=8",
        "eval.sets.news.split=null", "eval.sets.news.path=null",
        f"{one}.path={file}", f"{one}.min_tokens=40", f"{one}.max_tokens=40",
        f"{one}.prompt_tokens=10", f"{one}.max_new_tokens=20", "eval.sets.forget.max_tokens=30",
        "eval.sets.forget.max_new_tokens=10", "eval.sets.forget.prompt_tokens=8",
    ]  # fmt: skip


def test_helper_models_give_all_figures_of_a_generation(
    random_model: Path, texts: Path, tmp_path: Path
) -> None:
    for package in ("sentence_transformers", "mauve"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed (extra quality)")
    bert, classifier = tmp_path / "bert", tmp_path / "classifier"
    save_bert(Bert, bert)
    save_bert(BertForSequenceClassification, classifier)
    paths = dict(zip(HELPERS, (random_model, bert, bert, random_model, classifier), strict=True))
    found = evaluate(
        random_model, tmp_path, *wikitext(texts), *(f"eval.{k}={p}" for k, p in paths.items()),
        "eval.sets.wikitext.metrics=[perplexity,rep_3,distinct_2,mauve,similarity,coherence,"
        "gibberish]",
    )  # fmt: skip
    assert not found["missing"]
    figures = found["metrics"]
    assert {"forget_ma", "forget_el_3", "forget_el_10", "forget_similarity"} <= set(figures)
    lines = (tmp_path / "outputs/evaluate/it/evaluation/samples.jsonl").read_text().splitlines()
    samples = [s for s in map(json.loads, lines) if s["set"] == "wikitext"]
    assert len(samples) == 8
    model = AutoModelForCausalLM.from_pretrained(random_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    losses = []
    for sample in samples:
        ids = torch.tensor([tokenizer(sample["prompt"] + sample["generation"])["input_ids"]])
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=ids).loss))
    assert figures["wikitext_perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-3)
    for name in ("similarity", "coherence", "gibberish"):
        mean = np.mean([s[name] for s in samples])
        assert figures[f"wikitext_{name}"] == pytest.approx(mean, rel=1e-6)
    assert 0 < figures["wikitext_mauve"] <= 1


def test_a_helper_that_is_not_there_is_missing_with_its_reason_and_found_later(
    random_model: Path, texts: Path, tmp_path: Path
) -> None:
    words = [*wikitext(texts), "eval.sets.wikitext.metrics=[perplexity,rep_3]"]
    found = evaluate(random_model, tmp_path, *words, "eval.sets.forget.metrics=[ma]")
    assert set(found["missing"]) == {"wikitext_perplexity"}
    assert "hub cannot be reached" in found["missing"]["wikitext_perplexity"]
    assert {"forget_ma", "wikitext_rep_3"} <= set(found["metrics"])
    assert list((tmp_path / "cache" / "evaluations").glob("*.partial"))


def test_the_harness_runs_a_local_task_on_a_run_folder(random_model: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("the package lm_eval is not installed (extra harness)")
    rows = [
        {"question": f"{a} {b}", "choices": ["yes", "no"], "gold": i % 2}
        for i, (a, b) in enumerate(itertools.pairwise(WORDS))
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text(
        "task: mine\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {file}}}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: "{{gold}}"\n'
        "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    found = evaluate(
        random_model, tmp_path, "data=demo", "eval=harness", "eval.harness.tasks=[mine]",
        f"eval.harness.include_path={tmp_path / 'tasks'}", "eval.retain_model=none",
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(random_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    hits = []
    for row in rows:
        scores = []
        for choice in row["choices"]:
            start = tokenizer(row["question"])["input_ids"]
            ids = tokenizer(f"{row['question']} {choice}")["input_ids"]
            with torch.no_grad():
                log_q = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            scores.append(sum(float(log_q[t - 1, ids[t]]) for t in range(len(start), len(ids))))
        hits.append(int(np.argmax(scores)) == row["gold"])
    assert found["metrics"]["harness_mine_acc"] == pytest.approx(np.mean(hits))
    unknown = undial(
        "evaluate", "model=tiny", f"model.path={random_model}", "eval=harness",
        "eval.harness.tasks=[hella_swag]", cwd=tmp_path,
    )  # fmt: skip
    assert unknown.returncode == 2
    assert "did you mean 'hellaswag'" in unknown.stderr
