"""The scoring and generation engines against one plain pass per sample with full logits."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from small import bundled_tokenizer, random_llama, small_model

from undial_cli.config.schema import AdapterConfig, DataConfig, TemplateConfig
from undial_cli.config.suites import EvalConfig, EvalSetConfig
from undial_cli.data.collate import pad_examples
from undial_cli.data.encode import IGNORE, Encoder, Example
from undial_cli.evaluation.decoding import Decoding
from undial_cli.evaluation.evaluate import evaluate_suite
from undial_cli.evaluation.generation import GeneratingModel, collect_end_tokens
from undial_cli.evaluation.generation import generate_answers as generate_ids
from undial_cli.evaluation.scoring import (
    Score,
    compute_gradient_norms,
    count_shared_tokens,
    score_answers,
)
from undial_cli.evaluation.suite import SetRows, Suite
from undial_cli.models.head import head_job
from undial_cli.models.lora import adapt_model

TOKENIZER = bundled_tokenizer()
ENCODER = Encoder(TOKENIZER, TemplateConfig(), DataConfig(max_length=64))
ROWS = [
    {
        "question": f"Where does person {i} live{', and with whom' * (i % 3)}?",
        "answer": "In " + " and ".join(["Kelmwick", "Varraby", "Mosselmore", "Dunra"][: i % 4 + 1]),
        "paraphrased_answer": f"Person {i} lives in Kelmwick.",
        "perturbed_answer": [f"Person {i} lives in {town}." for town in ("Rome", "Paris", "Ulm")],
    }
    for i in range(11)
]


@pytest.fixture(scope="module")
def model() -> Any:
    return random_llama(vocab=len(TOKENIZER))


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Answers, a document, a cut answer, and one whose answer was cut off wholly."""
    extra = ENCODER.encode_document({"text": "Kelmwick is a town of bakers. " * 3})
    cut = Encoder(TOKENIZER, TemplateConfig(), DataConfig(max_length=22)).encode(ROWS[:1])
    gone = Encoder(TOKENIZER, TemplateConfig(), DataConfig(max_length=4)).encode(ROWS[:1])
    assert cut[0].num_targets
    assert not gone[0].num_targets
    return ENCODER.encode(ROWS) + extra + cut + gone


@torch.no_grad()
def plain_score(model: Any, example: Example) -> Score:
    """One sequence, no padding, full logits, a loop over its tokens."""
    logits = model(input_ids=torch.tensor([example.input_ids])).logits[0].double()
    losses, matches = [], []
    for t in range(1, len(example.labels)):
        if example.labels[t] == IGNORE:
            continue
        row = logits[t - 1]
        losses.append(float(row.logsumexp(0) - row[example.labels[t]]))
        if t < example.answer_end:
            matches.append(int(row.argmax()) == example.labels[t])
    return Score(losses, matches)


def generate(
    model: Any, prompts: list[list[int]], batch_size: int, tokens: int, ends: set[int]
) -> list[str]:
    """Greedy answers as text."""
    generator = GeneratingModel(model, TOKENIZER)
    how = Decoding(tokens, collect_end_tokens(generator, ends))
    found = generate_ids(generator, "test", prompts, how, batch_size)
    return [ENCODER.decode(ids).strip() for ids in found]


def score_each(model: Any, examples: list[Example], batch_size: int, pad_id: int) -> list[Score]:
    """Scores of examples that have nothing to do with each other."""
    return [one for (one,) in score_answers(model, [[e] for e in examples], batch_size, pad_id)]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batched_scores_are_those_of_one_plain_pass_each(
    model: Any, examples: list[Example], batch_size: int
) -> None:
    found = score_each(model, examples, batch_size, TOKENIZER.pad_token_id)
    for ours, example in zip(found, examples, strict=True):
        expected = plain_score(model, example)
        assert ours.ce == pytest.approx(expected.ce, abs=1e-5, nan_ok=True)
        assert (ours.tokens, ours.matches) == (expected.tokens, expected.matches)


def groups_of_answers() -> list[list[Example]]:
    """The answers to each question; one group without a target, one of equal answers, an empty."""
    groups = [
        [ENCODER.tokenise_answers(ENCODER.render_question(row["question"], text)) for text in
         (row["answer"], row["paraphrased_answer"], *row["perturbed_answer"])]
        for row in ROWS
    ]  # fmt: skip
    gone = Encoder(TOKENIZER, TemplateConfig(), DataConfig(max_length=12)).encode(ROWS[:2])
    return [*groups, gone, [groups[0][0]] * 3, [groups[1][0]], []]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "neo", "window", "alibi", "float64"])
def test_answers_that_share_their_prompt_score_as_if_alone(kind: str, batch_size: int) -> None:
    model = small_model(kind, len(TOKENIZER))
    groups = groups_of_answers()
    assert sum(count_shared_tokens(group) > 10 for group in groups) >= len(ROWS)
    found = score_answers(model, groups, batch_size, TOKENIZER.pad_token_id, distribution=True)
    tolerance = 1e-10 if kind == "float64" else 2e-5
    for scores, group in zip(found, groups, strict=True):
        assert len(scores) == len(group)
        for ours, example in zip(scores, group, strict=True):
            expected = plain_score(model, example)
            assert ours.token_ce == pytest.approx(expected.token_ce, abs=tolerance)
            assert ours.matches == expected.matches
            mean, variance = plain_distribution(model, example)
            assert ours.mean == pytest.approx(mean, abs=10 * tolerance)
            assert ours.variance == pytest.approx(variance, abs=100 * tolerance)


@torch.no_grad()
def plain_distribution(model: Any, example: Example) -> tuple[list[float], list[float]]:
    """Mean and variance of log q under q at every target, in float64."""
    logits = model(input_ids=torch.tensor([example.input_ids])).logits[0].double()
    places = [t - 1 for t in range(1, len(example.labels)) if example.labels[t] != IGNORE]
    log_q = logits[places].log_softmax(-1)
    mean = (log_q.exp() * log_q).sum(-1)
    variance = (log_q.exp() * (log_q - mean[:, None]) ** 2).sum(-1)
    return mean.tolist(), variance.tolist()


def test_a_recurrent_model_is_scored_without_sharing() -> None:
    model = small_model("mamba", len(TOKENIZER))
    groups = groups_of_answers()[:3]
    for scores, group in zip(score_answers(model, groups, 4, 0), groups, strict=True):
        for ours, example in zip(scores, group, strict=True):
            assert ours.ce == pytest.approx(plain_score(model, example).ce, abs=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_gradient_norms_are_those_of_a_plain_backward(tied: bool) -> None:
    model = random_llama(vocab=len(TOKENIZER), tied=tied, dtype=torch.float64)
    examples = ENCODER.encode(ROWS[:3])
    found = compute_gradient_norms(model, examples)
    assert all(p.grad is None for p in model.parameters())
    for ours, example in zip(found, examples, strict=True):
        ids = torch.tensor([example.input_ids[: example.answer_end]])
        labels = torch.tensor([example.labels[: example.answer_end]])
        logits = model(input_ids=ids).logits[0, :-1]
        torch.nn.functional.cross_entropy(logits, labels[0, 1:]).backward()
        norms = [float(p.grad.norm()) for p in model.parameters()]
        model.zero_grad()
        assert ours == pytest.approx(np.mean(norms), rel=1e-8)


def test_scores_keep_the_order_of_the_examples(model: Any, examples: list[Example]) -> None:
    order = list(range(len(examples)))
    random.Random(0).shuffle(order)
    found = score_each(model, examples, 4, TOKENIZER.pad_token_id)
    shuffled = score_each(model, [examples[i] for i in order], 4, TOKENIZER.pad_token_id)
    for place, i in enumerate(order):
        assert shuffled[place].ce == pytest.approx(found[i].ce, abs=1e-5, nan_ok=True)
        assert shuffled[place].matches == found[i].matches


def test_the_padding_token_has_no_effect(model: Any, examples: list[Example]) -> None:
    found = score_each(model, examples, 64, 0)
    other = score_each(model, examples, 64, TOKENIZER.eos_token_id)
    assert [s.ce for s in found[:-1]] == [s.ce for s in other[:-1]]


def test_a_memorised_answer_is_counted_without_its_end_token(model: Any) -> None:
    ids = list(ENCODER.encode(ROWS[:1])[0].input_ids[:12])
    prompt = len(ids)
    for _ in range(5):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    labels = [IGNORE] * prompt + ids[prompt:]
    (found,) = score_each(model, [Example(ids, labels, len(ids) - 1)], 1, 0)
    assert found.tokens == 5
    assert found.matches == [True] * 4


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_job_sees_the_logits_of_the_dense_head(tied: bool, examples: list[Example]) -> None:
    model = random_llama(vocab=len(TOKENIZER), tied=tied)
    batch = pad_examples(examples[:4], 0)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    mask = batch["labels"] != IGNORE
    with torch.no_grad():
        dense = model(**inputs).logits
        with head_job(model, lambda hidden, head: head.logits(hidden[mask])):
            chosen = model(**inputs).logits
        again = model(**inputs).logits
    assert chosen.shape == (int(mask.sum()), len(TOKENIZER))
    torch.testing.assert_close(chosen, dense[mask], rtol=1e-5, atol=1e-5)
    assert torch.equal(again, dense)


def test_a_failing_head_job_leaves_an_ordinary_head(model: Any, examples: list[Example]) -> None:
    batch = pad_examples(examples[:2], 0)
    with pytest.raises(ZeroDivisionError), head_job(model, lambda hidden, head: 1 / 0):
        model(input_ids=batch["input_ids"])
    assert model(input_ids=batch["input_ids"]).logits.shape[-1] == len(TOKENIZER)


@torch.no_grad()
def plain_greedy(model: Any, prompt: list[int], tokens: int, ends: set[int]) -> str:
    """Greedy decoding by hand: no cache, no padding."""
    ids = list(prompt)
    for _ in range(tokens):
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in ends:
            break
        ids.append(token)
    return TOKENIZER.decode(ids[len(prompt) :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_generation_is_plain_greedy_decoding_at_any_batch_size(model: Any, batch_size: int) -> None:
    prompts = [e.prompt_ids for e in ENCODER.encode(ROWS)]
    assert len({len(p) for p in prompts}) > 1
    found = generate(model, prompts, batch_size, 10, set())
    expected = [plain_greedy(model, p, 10, {TOKENIZER.eos_token_id}) for p in prompts]
    assert found == expected
    assert len(set(found)) > 1


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_generation_ignores_the_decoding_settings_that_come_with_a_model(adapter: str) -> None:
    base = random_llama(vocab=len(TOKENIZER))
    prompts = [e.prompt_ids for e in ENCODER.encode(ROWS[:4])]
    expected = [plain_greedy(base, p, 10, {TOKENIZER.eos_token_id}) for p in prompts]
    given = {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1, "min_new_tokens": 9}
    base.generation_config.update(do_sample=True, temperature=9.0, **given)
    model = adapt_model(base, AdapterConfig(name=adapter), seed=0).eval()
    assert generate(model, prompts, 4, 10, set()) == expected
    assert base.generation_config.to_dict().items() >= given.items()


def test_generation_stops_at_the_end_token_of_the_template(model: Any) -> None:
    prompt = ENCODER.encode(ROWS[:1])[0].prompt_ids
    output = model.generate(
        torch.tensor([prompt]), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    third = int(output[0, len(prompt) + 2])
    (stopped,) = generate(model, [prompt], 1, 6, {third})
    assert stopped == plain_greedy(model, prompt, 6, {third, TOKENIZER.eos_token_id})
    (free,) = generate(model, [prompt], 1, 6, set())
    assert free.startswith(stopped)
    assert len(free) > len(stopped)


def run_suite(model: Any, batch_size: int = 4) -> Any:
    names = ["probability", "rouge", "truth_ratio", "exact_memorization"]
    config = EvalConfig(
        name="test",
        sets={"forget": EvalSetConfig("x", names), "retain": EvalSetConfig("y", names)},
        batch_size=batch_size,
        max_new_tokens=6,
    )
    rows = {"forget": SetRows(ROWS[:5]), "retain": SetRows(ROWS[5:])}
    return evaluate_suite(model, Suite(config, ENCODER, rows), "test")


def test_a_suite_gives_what_the_formulas_give_on_plain_scores(model: Any) -> None:
    found = run_suite(model).metrics

    def ce(row: dict[str, Any], text: str) -> float:
        (example,) = ENCODER.encode([{"question": row["question"], "answer": text}])
        return plain_score(model, example).ce

    for name, rows in (("forget", ROWS[:5]), ("retain", ROWS[5:])):
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
    lengths = [e.num_targets for e in short.encode(ROWS)]
    assert 0 in lengths
    assert any(lengths)
    config = EvalConfig(sets={"forget": EvalSetConfig("x", ["probability", "truth_ratio"])})
    found = evaluate_suite(model, Suite(config, short, {"forget": SetRows(ROWS)}), "test").metrics
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
