"""The MUSE suite against a plain, unbatched loop over one text at a time."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import write_muse
from plain_models import remember_texts
from rouge_score.rouge_scorer import RougeScorer
from small import bundled_tokenizer, random_llama
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoTokenizer

from undial_cli.cli import run_command
from undial_cli.data.encode import Encoder
from undial_cli.errors import UserError
from undial_cli.evaluation import catalog
from undial_cli.evaluation.evaluate import evaluate_suite
from undial_cli.evaluation.evidence import Evaluation, Evidence
from undial_cli.evaluation.prompts import FEW_SHOT_STOPS, cut_at_stop_text
from undial_cli.evaluation.suite import Suite
from undial_cli.evaluation.suite_metrics import add_joint_metrics
from undial_cli.runs.compose import compose_run
from undial_cli.runs.evaluation_inputs import load_evaluation_rows

METRICS = {
    "forget_verbmem_rouge", "forget_knowmem_rouge", "retain_knowmem_rouge", "mia_min_k", "privleak",
}  # fmt: skip
LIMIT = 3
STEPS = 90
NEWS_AUC, BOOKS_AUC = 0.4772, 0.5393


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The bundled tokenizer with a begin token before every text, as Llama-2 has it."""
    found: Any = bundled_tokenizer()
    begin = (found.bos_token, found.bos_token_id)
    found.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin[0]} $A", special_tokens=[begin]
    )
    assert found("x")["input_ids"][0] == found.bos_token_id
    return found


@pytest.fixture(scope="module")
def model(news: tuple[Path, Any], tokenizer: Any) -> Any:
    """A small model that remembers the first texts and answers the first questions."""
    data = news[1]
    texts = [row["text"] for row in data["raw"]["forget"][:LIMIT]]
    before = "".join(shots_of(data["knowmem"]["forget_qa_icl"]))
    for row in data["knowmem"]["forget_qa"][:LIMIT]:
        prompt = f"{before}Question: {row['question']}\nAnswer: "
        texts.append(f"{prompt}{row['answer']}\n\nQuestion: {row['answer']}")
    return remember_texts(tokenizer, texts, STEPS)


def make_suite(path: Path, tokenizer: Any, *words: str, data: str = "muse_news") -> Suite:
    """The suite that the command would compose."""
    run = compose_run(
        "evaluate", [f"data={data}", f"data.path={path}", f"eval.limit={LIMIT}", *words]
    )
    encoder = Encoder(tokenizer, run.model.template, run.data)
    return Suite(run.eval, encoder, load_evaluation_rows(run, encoder), run.seed)


@pytest.fixture(scope="module")
def suite(news: tuple[Path, Any], tokenizer: Any) -> Suite:
    return make_suite(news[0], tokenizer)


@pytest.fixture(scope="module")
def found(model: Any, suite: Suite) -> Evaluation:
    return evaluate_suite(model, suite, "test")


def shots_of(rows: list[dict[str, str]]) -> list[str]:
    """Solved examples, as MUSE writes them."""
    return [f"Question: {row['question']}\nAnswer: {row['answer']}\n\n" for row in rows]


@torch.no_grad()
def continued(model: Any, tokenizer: Any, prompt: list[int], tokens: int) -> str:
    """Greedy, one token at a time, each from the whole text before it."""
    ids = list(prompt)
    start = len(ids)
    while len(ids) < start + tokens:
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == tokenizer.eos_token_id:
            break
        ids.append(token)
    return tokenizer.decode(ids[start:], skip_special_tokens=True)


def rouge(output: str, truth: str) -> float:
    return RougeScorer(["rougeL"], use_stemmer=False).score(truth, output)["rougeL"].fmeasure


def in_one_string(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Tokens that end within the prompt, and those that hold something of the answer."""
    found = tokenizer(prompt + answer, return_offsets_mapping=True)
    size = sum(end <= len(prompt) for _, end in found["offset_mapping"])
    return found["input_ids"][:size], found["input_ids"][size:]


def verbmem(model: Any, tokenizer: Any, rows: list[dict[str, str]]) -> list[float]:
    """MUSE's verbatim memorisation of each row."""
    values = []
    for row in rows:
        prompt, truth = in_one_string(tokenizer, row["prompt"], row["gt"])
        values.append(
            rouge(continued(model, tokenizer, prompt, 128), tokenizer.decode(truth[:128]))
        )
    return values


def outputs(model: Any, tokenizer: Any, rows: Any, shots: Any) -> list[str]:
    """What a model says to each question after the solved ones, before anything is cut off."""
    before = "".join(shots_of(shots))
    prompts = [
        in_one_string(tokenizer, f"{before}Question: {row['question']}\nAnswer: ", row["answer"])[0]
        for row in rows
    ]
    return [continued(model, tokenizer, prompt, 32) for prompt in prompts]


def cut(text: str) -> str:
    """MUSE's way to end an answer: split at one stop after the other."""
    for stop in ("\n\n", "\nQuestion", "Question:"):
        text = text.split(stop)[0]
    return text


@torch.no_grad()
def lowest(model: Any, tokenizer: Any, text: str, size: int = 2048) -> float:
    """Mean of the lowest 40 % token log-probabilities of a text."""
    ids = torch.tensor([tokenizer(text)["input_ids"][:size]])
    log_probs = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    scores = log_probs.gather(1, ids[0, 1:, None])[:, 0].tolist()
    return float(np.mean(sorted(scores)[: int(len(scores) * 0.4)]))


def area(forget: list[float], holdout: list[float]) -> float:
    """MUSE's A: how often a holdout text's score is above a forget text's."""
    pairs = [(h > f) + (h == f) / 2 for h in holdout for f in forget]
    return sum(pairs) / len(pairs)


def area_of(model: Any, tokenizer: Any, data: Any) -> float:
    """A of a model on the first texts."""
    scores = [
        [lowest(model, tokenizer, row["text"]) for row in data["privleak"][split][:LIMIT]]
        for split in ("forget", "holdout")
    ]
    return area(*scores)


def relative(ours: Evaluation, theirs: Evaluation | None, suite: Suite) -> Evaluation:
    """A copy of an evaluation with its relative metrics."""
    ours = Evaluation(dict(ours.metrics), ours.samples, dict(ours.missing))
    add_joint_metrics(ours, theirs, suite.config, relative=True)
    return ours


@pytest.mark.slow
def test_verbatim_memorisation_is_that_of_a_plain_loop(
    news: tuple[Path, Any], model: Any, tokenizer: Any, found: Evaluation
) -> None:
    rows = news[1]["verbmem"]["forget"][:LIMIT]
    expected = verbmem(model, tokenizer, rows)
    assert found.values("forget_verbmem", "rouge") == pytest.approx(expected, abs=1e-12)
    assert found.metrics["forget_verbmem_rouge"] == pytest.approx(np.mean(expected))
    assert max(expected) > 0.3
    lengths = [len(in_one_string(tokenizer, row["prompt"], row["gt"])[1]) for row in rows]
    assert min(lengths) < 128 < max(lengths)
    shown = [s["reference"] for s in found.samples if s["set"] == "forget_verbmem"]
    for row, text, length in zip(rows, shown, lengths, strict=True):
        assert row["gt"].startswith(text)
        (_, kept) = in_one_string(tokenizer, row["prompt"], text)
        assert len(kept) == min(length, 128)


@pytest.mark.parametrize("name", ["forget_verbmem", "forget_knowmem", "retain_knowmem"])
def test_words_are_not_stemmed(suite: Suite, name: str) -> None:
    evidence = Evidence(suite.config.sets[name], "the towns", "", {}, "the town said")
    assert catalog.METRICS["rouge"].sample(evidence) == pytest.approx(0.4)


@pytest.mark.slow
def test_knowledge_memorisation_is_that_of_a_plain_loop(
    news: tuple[Path, Any], model: Any, tokenizer: Any, found: Evaluation
) -> None:
    for name in ("forget", "retain"):
        rows = news[1]["knowmem"][f"{name}_qa"][:LIMIT]
        whole = outputs(model, tokenizer, rows, news[1]["knowmem"][f"{name}_qa_icl"])
        expected = [rouge(cut(o), r["answer"]) for o, r in zip(whole, rows, strict=True)]
        uncut = [rouge(o, r["answer"]) for o, r in zip(whole, rows, strict=True)]
        assert found.values(f"{name}_knowmem", "rouge") == pytest.approx(expected, abs=1e-12)
        assert found.metrics[f"{name}_knowmem_rouge"] == pytest.approx(np.mean(expected))
        shown = [s["generation"] for s in found.samples if s["set"] == f"{name}_knowmem"]
        assert shown == [cut(o).strip() for o in whole]
        if name == "forget":
            assert expected != uncut
            assert max(expected) > 0.2


def test_privacy_leakage_is_that_of_a_plain_loop(
    news: tuple[Path, Any], model: Any, tokenizer: Any, suite: Suite, found: Evaluation
) -> None:
    data = news[1]["privleak"]
    for split in ("forget", "holdout"):
        expected = [-lowest(model, tokenizer, row["text"]) for row in data[split][:LIMIT]]
        assert found.values(split, "mia_min_k") == pytest.approx(expected, abs=1e-5)
    ours = area_of(model, tokenizer, news[1])
    assert found.metrics["mia_min_k"] == pytest.approx(1 - ours)
    assert "privleak" not in found.metrics
    assert relative(found, None, suite).metrics["privleak"] == pytest.approx(
        (ours - NEWS_AUC) / NEWS_AUC * 100
    )


def test_with_a_retain_model_its_own_figure_is_taken(
    news: tuple[Path, Any], tokenizer: Any
) -> None:
    prompted = ("forget_verbmem", "forget_knowmem", "retain_knowmem")
    suite = make_suite(news[0], tokenizer, *(f"eval.sets.{n}.split=null" for n in prompted))
    models = [random_llama(vocab=len(tokenizer), seed=seed) for seed in (1, 2)]
    areas = [area_of(model, tokenizer, news[1]) for model in models]
    assert 0 < min(areas) < max(areas) < 1
    one, other = (evaluate_suite(model, suite, "test") for model in models)
    for ours, theirs, a, a_retain in ((one, other, *areas), (other, one, *areas[::-1])):
        assert relative(ours, theirs, suite).metrics["privleak"] == pytest.approx(
            (a - a_retain) / a_retain * 100
        )


def test_a_memorising_model_is_at_minus_100(
    news: tuple[Path, Any], suite: Suite, found: Evaluation
) -> None:
    """A = 0.001 against the published 0.4772 is -99.8, as MUSE reports for its target."""
    assert found.metrics["mia_min_k"] == 1
    assert relative(found, None, suite).metrics["privleak"] == -100
    nearly = Evaluation(
        {},
        [{"set": "forget", "mia_min_k": 0.0}]
        + [{"set": "holdout", "mia_min_k": -1.0 if n == 0 else 1.0} for n in range(1000)],
    )
    assert relative(nearly, None, suite).metrics["privleak"] == pytest.approx(-99.8, abs=0.01)


def test_without_a_usable_retain_model_privleak_is_missing_with_the_reason(
    suite: Suite, found: Evaluation
) -> None:
    unknown = dataclasses.replace(suite, config=dataclasses.replace(suite.config, retrain_auc=None))
    assert "eval.retain_model" in relative(found, None, unknown).missing["privleak"]
    exposed = relative(found, found, suite)  # a retain model that remembers everything: A = 0
    assert "privleak" not in exposed.metrics
    assert "undefined" in exposed.missing["privleak"]


def test_documents_are_cut_to_max_tokens_with_the_begin_token_counted(
    news: tuple[Path, Any], model: Any, tokenizer: Any
) -> None:
    words = [f"eval.sets.{name}.max_tokens=61" for name in ("forget", "holdout")]
    suite = make_suite(news[0], tokenizer, *words)
    found = evaluate_suite(model, suite, "test")
    for split in ("forget", "holdout"):
        rows = news[1]["privleak"][split][:LIMIT]
        expected = [-lowest(model, tokenizer, row["text"], 61) for row in rows]
        assert found.values(split, "mia_min_k") == pytest.approx(expected, abs=1e-5)
        assert [s["answer_tokens"] for s in found.samples if s["set"] == split] == [60] * LIMIT


@pytest.mark.slow
def test_batch_size_changes_nothing(
    news: tuple[Path, Any], model: Any, tokenizer: Any, found: Evaluation
) -> None:
    other = evaluate_suite(model, make_suite(news[0], tokenizer, "eval.batch_size=1"), "test")
    assert other.metrics == pytest.approx(found.metrics)
    texts = [[s.get("generation") for s in e.samples] for e in (found, other)]
    assert texts[0] == texts[1]


def test_limit_leaves_the_solved_examples_whole(suite: Suite) -> None:
    rows = suite.rows["forget_knowmem"]
    assert (len(rows.rows), len(rows.shots)) == (LIMIT, 4)
    (item, *_) = suite.items["forget_knowmem"]
    prompt = suite.encoder.decode(item.prompt_ids)
    assert prompt.count("Question: ") == 5
    assert prompt.endswith("\nAnswer:")  # the blank belongs to the answer's first token


@pytest.mark.parametrize(
    "text",
    [
        "", "Ann", "Ann\n\nBob", "Ann\nQuestion: who?", "Ann Question: who?", "\n\nAnn",
        "Ann\nBob\nQuestion", "Ann question: x", "Question:", "Ann\n\n\nQuestion: \n\nBob",
        "AnnQuestion:\nQuestion\n\n", "Ann\n \nBob",
    ],
)  # fmt: skip
def test_an_answer_ends_where_muse_ends_it(text: str) -> None:
    assert cut_at_stop_text(text, FEW_SHOT_STOPS) == cut(text)


def test_books_have_their_own_published_figure(tmp_path: Path, tokenizer: Any) -> None:
    write_muse(tmp_path / "books", books=True)
    suite = make_suite(tmp_path / "books", tokenizer, data="muse_books")
    ours = Evaluation({}, [{"set": name, "mia_min_k": 1.0} for name in ("forget", "holdout")])
    assert relative(ours, None, suite).metrics["privleak"] == pytest.approx(
        (0.5 - BOOKS_AUC) / BOOKS_AUC * 100
    )


def test_a_folder_without_a_configuration_is_refused_in_one_line(
    tmp_path: Path, tokenizer: Any
) -> None:
    write_muse(tmp_path)
    card = tmp_path / "README.md"
    card.write_text(card.read_text().replace("config_name: verbmem", "config_name: verbatim"))
    with pytest.raises(UserError, match=r"^eval.sets.forget_verbmem.split=verbmem/forget") as error:
        make_suite(tmp_path, tokenizer)
    assert "\n" not in str(error.value)
    assert "did you mean 'verbatim'?" in str(error.value)


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation" / "results.json").read_text())


def command(
    name: str, news: Path, model: Path, out: Path, *words: str, data: str = "muse_news"
) -> dict[str, Any]:
    """The real command in this process; its results."""
    known = [
        "model=tiny", f"data={data}", f"data.path={news}", f"model.path={model}", "hardware=cpu",
        f"output_dir={out}", "name=run", "eval.limit=2", *words,
    ]  # fmt: skip
    assert run_command([name, *known]) == 0
    return results(out / name / "run")


@pytest.mark.slow
def test_the_command_gives_the_figures_of_a_plain_loop(
    news: tuple[Path, Any], random_model: Path, tmp_path: Path
) -> None:
    content = command("evaluate", news[0], random_model, tmp_path, "eval.retain_model=none")
    assert set(content["metrics"]) == METRICS
    assert (content["missing"], content["reference"]) == ({}, {})
    assert (content["suite"], content["data"]) == ("muse", "muse_news")
    model = AutoModelForCausalLM.from_pretrained(random_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    rows = news[1]["verbmem"]["forget"][:2]
    assert content["metrics"]["forget_verbmem_rouge"] == pytest.approx(
        np.mean(verbmem(model, tokenizer, rows))
    )
    scores = [
        [lowest(model, tokenizer, row["text"]) for row in news[1]["privleak"][split][:2]]
        for split in ("forget", "holdout")
    ]
    expected = (area(*scores) - NEWS_AUC) / NEWS_AUC * 100
    assert content["metrics"]["privleak"] == pytest.approx(expected)


@pytest.mark.slow
def test_a_model_is_no_further_from_a_retain_model_than_itself(
    news: tuple[Path, Any], random_model: Path, tmp_path: Path
) -> None:
    words = [f"eval.retain_model={random_model}"]
    content = command("evaluate", news[0], random_model, tmp_path / "one", *words)
    assert content["metrics"]["privleak"] == 0
    reference = dict(content["metrics"])
    del reference["privleak"]
    assert content["reference"] == reference
    words = [f"eval.retain_model={tmp_path}/one/evaluate/run/evaluation/results.json"]
    again = command("evaluate", news[0], random_model, tmp_path / "two", *words)
    assert again["metrics"] == content["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["raw/forget", "sust/forget_2", "scal/forget_2[:3]"])
def test_unlearning_a_request_is_evaluated_before_and_after(
    news: tuple[Path, Any], random_model: Path, tmp_path: Path, split: str
) -> None:
    words = ["train.max_steps=2", "data.max_length=512", f"data.forget_split={split}"]
    content = command("unlearn", news[0], random_model, tmp_path, *words)
    assert set(content["metrics"]) == set(content["target"]) == METRICS
    assert content["missing"] == {}
    assert all(math.isfinite(v) for v in content["metrics"].values())
    untouched = command("evaluate", news[0], random_model, tmp_path)
    assert content["target"] == pytest.approx(untouched["metrics"])
    samples = (tmp_path / "unlearn" / "run" / "evaluation" / "samples.jsonl").read_text()
    first = json.loads(samples.splitlines()[0])
    assert {"generation", "target_generation", "rouge"} <= set(first)


@pytest.mark.slow
def test_books_are_evaluated_by_the_command(random_model: Path, tmp_path: Path) -> None:
    write_muse(tmp_path / "books", books=True)
    content = command("evaluate", tmp_path / "books", random_model, tmp_path, data="muse_books")
    assert set(content["metrics"]) == METRICS
