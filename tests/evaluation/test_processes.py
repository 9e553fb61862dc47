"""The same evaluation on any number of processes, at any batch size, in any order of the rows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import undial, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from undial_cli.cli import run_command

pytestmark = pytest.mark.slow

Found = dict[str, Any]
Rows = list[dict[str, Any]]

# Every engine and every kind of set; sets of seven, two and one row.
SUITE = """
name: own
data: [jsonl]
sets:
  forget:
    split: ${data.forget_file}
    metrics: [probability, rouge, truth_ratio, truth_ratio_prob_mean, exact_memorization, \
extraction_strength]
  retain:
    split: ${data.retain_file}
    normalise_probability: true
    metrics: [probability, truth_ratio, rouge]
  holdout:
    split: holdout.jsonl
    metrics: [probability, rouge]
  sampled:
    split: ${data.forget_file}
    top_p: 0.9
    metrics: [rouge, rep_2, distinct_1]
  documents:
    split: documents.csv
    kind: document
    max_tokens: 48
    stride: 2
    prompt_tokens: 8
    metrics: [ma, el_3, el_10, rouge]
  authors:
    split: documents.csv
    prefixes: authors
    top_p: 0.95
    metrics: [ma, el_3]
utility: [retain]
metrics: [model_utility, mia_loss, mia_zlib, mia_min_k, mia_min_k_plus_plus, mia_gradnorm]
"""
TEXT = "old river keeps slow counsel while bright kites turn over quiet hills and towns"
WORDS = TEXT.split()


def say(start: int, length: int) -> str:
    return " ".join(WORDS[(start * 5 + i * (1 + start % 4)) % len(WORDS)] for i in range(length))


def question(number: int) -> dict[str, Any]:
    """Answers of 1 to 29 words, and between one and four false ones."""
    return {
        "question": f"What does the {WORDS[number % 13]} of {say(number, number % 4 + 1)} keep?",
        "answer": say(number, 1 + number * 9 % 29),
        "paraphrased_answer": say(number + 1, 3 + number % 5),
        "perturbed_answer": [say(number + k, 2 + k * number % 9) for k in range(2, 6)],
    }


QUESTIONS = [question(n) for n in range(7)]
TEXTS = [say(n + 2, length) for n, length in enumerate((110, 14, 70))]
STEPS = 25


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the data and the suite."""
    folder = tmp_path_factory.mktemp("processes")
    write_rows(folder / "forget.jsonl", QUESTIONS)
    write_rows(folder / "shuffled.jsonl", [QUESTIONS[n] for n in (4, 0, 6, 2, 1, 5, 3)])
    write_rows(folder / "retain.jsonl", [question(20), question(21)])
    write_rows(folder / "holdout.jsonl", [question(30)])
    (folder / "documents.csv").write_text("\n".join(["doc_id,text", *(f"1,{t}" for t in TEXTS)]))
    (folder / "configs" / "eval").mkdir(parents=True)
    (folder / "configs" / "eval" / "own.yaml").write_text(SUITE)
    return folder


@pytest.fixture(scope="module")
def model(random_model: Path, place: Path) -> Path:
    """The random model after some steps on parts of the data: it knows a little of everything."""
    model = AutoModelForCausalLM.from_pretrained(random_model)
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["question"]},
             {"role": "assistant", "content": row["answer"]}], tokenize=False)
        for row in [*QUESTIONS[:5], question(20), question(30)]
    ]  # fmt: skip
    batch = tokenizer([*texts, TEXTS[0]], return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(STEPS):
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = place / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def command(model: Path, name: str, *words: str) -> list[str]:
    return [
        "evaluate", "--config-dir", "configs", "eval=own", "data=jsonl",
        "data.forget_file=forget.jsonl", "data.retain_file=retain.jsonl", f"model.path={model}",
        "eval.max_new_tokens=12", "hardware=cpu", f"name={name}", *words,
    ]  # fmt: skip


def read(folder: Path) -> Found:
    """What an evaluation left: metrics, samples and how many processes it had."""
    results = json.loads((folder / "evaluation" / "results.json").read_text())
    lines = (folder / "evaluation" / "samples.jsonl").read_text().splitlines()
    environment = json.loads((folder / "environment.json").read_text())
    return {**results, "samples": list(map(json.loads, lines)), "on": environment["processes"]}


Run = Callable[..., Found]


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Evaluate by a call of the command, with an empty cache."""
    monkeypatch.chdir(place)

    def call(model: Path, name: str, *words: str) -> Found:
        monkeypatch.setenv("UNDIAL_CACHE_DIR", str(place / "caches" / name))
        assert run_command(command(model, name, *words)) == 0
        return read(place / "outputs" / "evaluate" / name)

    return call


@pytest.fixture
def there(place: Path) -> Run:
    """Evaluate by the command in a process of its own, with an empty cache."""

    def call(model: Path, name: str, *words: str) -> Found:
        cache = str(place / "caches" / name)
        done = undial(*command(model, name, *words), cwd=place, UNDIAL_CACHE_DIR=cache)
        assert (done.returncode, done.stderr) == (0, "")
        return read(place / "outputs" / "evaluate" / name)

    return call


@pytest.fixture(scope="module")
def alone(place: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The evaluation on one process, four sequences at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("UNDIAL_CACHE_DIR", str(place / "caches" / "alone"))
        assert run_command(command(model, "alone", "eval.batch_size=4")) == 0
    return read(place / "outputs" / "evaluate" / "alone")


# What rounding may touch; everything else is counted or read off a generation.
LOSSES = {
    "answer_ce", "paraphrase_ce", "perturbed_ce", "probability", "log_truth_ratio",
    "truth_ratio_prob_mean", "truth_ratio", "mia_loss", "mia_zlib", "mia_min_k",
    "mia_min_k_plus_plus", "mia_gradnorm", "utility",
}  # fmt: skip


def assert_same(found: Found, expected: Found, sets: tuple[str, ...] | None = None) -> None:
    """Metrics, and samples in the order of their set."""
    assert found["missing"] == expected["missing"]
    assert found["metrics"].keys() == expected["metrics"].keys()
    for name, value in expected["metrics"].items():
        key = name if name.startswith("mia_") else name.partition("_")[2]
        if sets is None or name.partition("_")[0] in sets or name in ("model_utility", key):
            same_value(key, found["metrics"][name], value, name)
    mine, theirs = (
        [s for s in f["samples"] if sets is None or s["set"] in sets] for f in (found, expected)
    )
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        assert one.keys() == other.keys()
        for key, value in other.items():
            same_value(key, one[key], value, f"{other['set']} {other['index']} {key}")


def same_value(key: str, found: Any, expected: Any, what: str) -> None:
    if key in LOSSES:
        assert found == pytest.approx(expected, abs=1e-4), what
    else:
        exact = isinstance(expected, float)  # a mean depends on the order in its last bit
        assert found == (pytest.approx(expected, rel=1e-12) if exact else expected), what


def test_the_suite_has_something_to_tell(alone: Found) -> None:
    by_set: dict[str, Rows] = {}
    for sample in alone["samples"]:
        by_set.setdefault(sample["set"], []).append(sample)
    sizes = {name: len(part) for name, part in by_set.items()}
    assert sizes["forget"] == sizes["sampled"] == 7
    assert (sizes["retain"], sizes["holdout"], sizes["documents"]) == (2, 1, 3)
    for name, part in by_set.items():
        if name != "authors":
            assert len({s["generation"] for s in part}) == len(part), name
    greedy, sampled = ([s["generation"] for s in by_set[n]] for n in ("forget", "sampled"))
    assert greedy != sampled
    assert alone["missing"] == {}
    figures = dict(alone["metrics"])
    utility = figures.pop("model_utility")
    odd = {n: v for n, v in figures.items() if "sampled" not in n and not 0 < v <= 1}
    assert not odd
    assert utility > 0


@pytest.mark.parametrize("size", [pytest.param(1, marks=pytest.mark.slow), 64])
def test_the_batch_size_changes_nothing(size: int, here: Run, alone: Found, model: Path) -> None:
    found = here(model, f"batch{size}", f"eval.batch_size={size}")
    assert_same(found, alone)


def in_one_order(samples: Rows) -> Rows:
    """Samples by their text, without their place in the file."""
    named = [{**s, "index": 0} for s in samples]
    return sorted(named, key=lambda s: (s["set"], s.get("prompt", ""), s.get("reference", "")))


def test_shuffled_rows_give_the_same_figures(here: Run, alone: Found, model: Path) -> None:
    found = here(model, "shuffled", "data.forget_file=shuffled.jsonl")
    assert [s["prompt"] for s in found["samples"] if s["set"] == "forget"] == [
        QUESTIONS[n]["question"] for n in (4, 0, 6, 2, 1, 5, 3)
    ]
    both = [{**one, "samples": in_one_order(one["samples"])} for one in (found, alone)]
    sets = ("forget", "retain", "holdout", "documents")  # what is sampled depends on the place
    assert_same(*both, sets)


def test_the_padding_of_the_tokenizer_changes_nothing(
    here: Run, alone: Found, model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "left"
    shutil.copytree(model, folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings |= {"padding_side": "left", "pad_token": settings["eos_token"]}
    file.write_text(json.dumps(settings))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("left", tokenizer.eos_token)
    found = here(folder, "left", "eval.batch_size=4")
    assert_same(found, alone)


@pytest.mark.slow
def test_three_processes_change_nothing(there: Run, alone: Found, model: Path) -> None:
    found = there(model, "on3", "hardware.num_processes=3", "eval.batch_size=64")
    assert found["on"] == 3
    assert_same(found, alone)


@pytest.mark.slow
def test_fewer_samples_than_processes(here: Run, model: Path) -> None:
    expected = here(model, "few", "eval.limit=1")
    found = here(model, "few_on2", "eval.limit=1", "hardware.num_processes=2")
    assert found["on"] == 2
    assert len([s for s in found["samples"] if s["set"] == "forget"]) == 1
    assert_same(found, expected)


@pytest.mark.slow
def test_processes_that_torchrun_started_evaluate_together(
    place: Path, alone: Found, model: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "undial_cli.cli", *command(model, "joined", "eval.batch_size=3")],
        cwd=place, capture_output=True, text=True, timeout=300,
        env={**os.environ, "UNDIAL_CACHE_DIR": str(place / "caches" / "joined")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = read(place / "outputs" / "evaluate" / "joined")
    assert found["on"] == 2
    assert_same(found, alone)
    assert not list((place / "caches" / "joined" / "evaluations").glob("*.partial"))


@pytest.mark.slow
def test_the_extraction_suite_is_the_same_on_two_processes(
    place: Path, model: Path, here: Run
) -> None:
    words = [
        "eval=extraction", "data.forget_file=documents.csv", "eval.sets.forget.max_tokens=40",
        "eval.limit=2", "eval.sets.forget.max_new_tokens=8", "eval.batch_size=5",
    ]  # fmt: skip
    one = here(model, "extraction1", *words)
    two = here(model, "extraction2", *words, "hardware.num_processes=2")
    assert (one["on"], two["on"]) == (1, 2)
    assert one["metrics"] == two["metrics"]
    assert set(one["metrics"]) == {f"forget_{name}" for name in ("ma", "el_3", "el_5", "el_10")}
    assert all(0 < value < 1 for value in one["metrics"].values())
    assert one["missing"] == two["missing"]
    assert {"wikitext", "news", "forget_similarity"} <= set(one["missing"])
    assert_same(one, two)
    assert len(one["samples"]) == 2
