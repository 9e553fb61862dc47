"""The scoring and generation engines against one plain pass per sample with full logits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from questions import ENCODER, QUESTIONS, TOKENIZER, plain_score
from small import random_llama, small_model

from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.data.collate import pad_examples
from undial_cli.data.encode import IGNORE, Encoder, Example
from undial_cli.evaluation.scoring import (
    Score,
    compute_gradient_norms,
    count_shared_tokens,
    score_answers,
)
from undial_cli.evaluation.sharding import Journal
from undial_cli.models.head import head_job


@pytest.fixture(scope="module")
def model() -> Any:
    return random_llama(vocab=len(TOKENIZER))


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Answers, a document, a cut answer, and one whose answer was cut off wholly."""
    extra = ENCODER.encode_document({"text": "Kelmwick is a town of bakers. " * 3})
    cut = Encoder(TOKENIZER, TemplateConfig(), DataConfig(max_length=22)).encode(QUESTIONS[:1])
    gone = Encoder(TOKENIZER, TemplateConfig(), DataConfig(max_length=4)).encode(QUESTIONS[:1])
    assert cut[0].num_targets
    assert not gone[0].num_targets
    return ENCODER.encode(QUESTIONS) + extra + cut + gone


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
        for row in QUESTIONS
    ]  # fmt: skip
    gone = Encoder(TOKENIZER, TemplateConfig(), DataConfig(max_length=12)).encode(QUESTIONS[:2])
    return [*groups, gone, [groups[0][0]] * 3, [groups[1][0]], []]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "neo", "window", "alibi", "float64"])
def test_answers_that_share_their_prompt_score_as_if_alone(kind: str, batch_size: int) -> None:
    model = small_model(kind, len(TOKENIZER))
    groups = groups_of_answers()
    assert sum(count_shared_tokens(group) > 10 for group in groups) >= len(QUESTIONS)
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


@pytest.mark.slow
@torch.no_grad()
def test_scores_that_were_interrupted_within_a_batch_are_the_same_to_the_bit(
    model: Any, tmp_path: Path
) -> None:
    # An odd number of long and short groups: a batch less would shift those that follow.
    groups = [*groups_of_answers(), *([e] for e in ENCODER.encode(QUESTIONS))]

    def score(folder: Path) -> list[list[Score]]:
        pad_id = TOKENIZER.pad_token_id
        return score_answers(model, groups, 3, pad_id, distribution=True, journal=Journal(folder))

    whole = score(tmp_path / "whole")
    (file,) = (tmp_path / "whole").iterdir()
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) == len(groups)
    for count in range(0, len(lines), 3):
        folder = tmp_path / str(count)
        folder.mkdir()
        (folder / file.name).write_text("".join(lines[:count]))
        assert repr(score(folder)) == repr(whole)  # NaN is NaN


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
    examples = ENCODER.encode(QUESTIONS[:3])
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
    ids = list(ENCODER.encode(QUESTIONS[:1])[0].input_ids[:12])
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
