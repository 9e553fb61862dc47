"""The true answer among false ones, against a plain loop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from questioned import ROWS, attack_model, make_data
from small import random_llama, shared_tokenizer

from undial_cli.audit.attack import CannotServe
from undial_cli.audit.choice import CHOICE
from undial_cli.audit.kinds import KINDS
from undial_cli.config.attacks import ChoiceConfig
from undial_cli.evaluation.sharding import NO_JOURNAL

NAMES = ["Rome", "Ulm", "Kiev", "Oslo", "Bonn"]
PEOPLE: list[dict[str, Any]] = [
    {
        "question": f"Where does {name} live?",
        "answer": f"{name} has a house in {NAMES[i]}.",
        "perturbed_answer": [f"{name} lives in {other}." for other in NAMES if other != NAMES[i]],
    }
    | ({"paraphrased_answer": f"{name} lives in {NAMES[i]}."} if i else {})
    for i, name in enumerate(["Ann", "Bo", "Cy", "Dee", "Eve"])
]


@torch.no_grad()
def compute_loss(model: Any, question: str, answer: str) -> float:
    """Mean loss of an answer and its end token, in the model's chat format."""
    tokenizer = shared_tokenizer()
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids = tokenizer(f"{prompt}{answer}<|im_end|>", add_special_tokens=False)["input_ids"]
    log_p = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -float(torch.stack([log_p[i - 1, ids[i]] for i in range(len(before), len(ids))]).mean())


def test_it_is_one_where_the_true_answer_is_the_likeliest() -> None:
    rows = [*PEOPLE, ROWS[1]]
    seen, shares, probabilities = set(), [], []
    for seed in range(2):
        model = random_llama(vocab=len(shared_tokenizer()), seed=seed)
        outcome = CHOICE.run(attack_model(model, 4), make_data(rows), ChoiceConfig(), NO_JOURNAL)
        for row, chosen in zip(PEOPLE, outcome.scores["choice"], strict=False):
            true = row.get("paraphrased_answer", row["answer"])
            losses = [
                compute_loss(model, row["question"], text)
                for text in (true, *row["perturbed_answer"])
            ]
            assert chosen == float(losses[0] == min(losses))
            seen.add(chosen)
            shares.append(math.exp(-losses[0]) / sum(math.exp(-loss) for loss in losses))
        for values in outcome.scores.values():
            assert values[-1] is None  # a row without false answers
        probabilities += outcome.scores["choice_probability"][:-1]
    assert seen == {0.0, 1.0}
    assert probabilities == pytest.approx(shares, rel=1e-4)


def test_data_without_false_answers_cannot_serve() -> None:
    CHOICE.check(make_data(), ChoiceConfig())
    with pytest.raises(CannotServe, match="perturbed_answer"):
        CHOICE.check(make_data(ROWS[1:]), ChoiceConfig())


@torch.no_grad()
def test_questions_with_choices_serve_it_and_no_other_attack() -> None:
    data = make_data([{"question": "Which?", "choices": ["Ulm", "Rome"], "answer": 1}])
    data.suite.config.sets[data.forget_set].kind = "choice"
    model = random_llama(vocab=len(shared_tokenizer()))
    CHOICE.check(data, ChoiceConfig())
    outcome = CHOICE.run(attack_model(model, 4), data, ChoiceConfig(), NO_JOURNAL)
    ids = shared_tokenizer()("Which?\nA. Ulm\nB. Rome\nAnswer:")["input_ids"]
    q = model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1)
    a, b = (float(q[shared_tokenizer()(f" {letter}")["input_ids"][0]]) for letter in "AB")
    assert outcome.scores["choice_probability"] == [pytest.approx(b / (a + b), rel=1e-4)]
    assert outcome.scores["choice"] == [float(b > a)]
    assert [name for name, kind in KINDS.items() if kind.asks_choices] == ["choice"]
