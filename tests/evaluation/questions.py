"""Questions with their answers, and a plain loop that scores one."""

from __future__ import annotations

from typing import Any

import torch
from small import bundled_tokenizer

from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.data.encode import IGNORE, Encoder, Example
from undial_cli.evaluation.scoring import (
    Score,
)

TOKENIZER = bundled_tokenizer()
ENCODER = Encoder(TOKENIZER, TemplateConfig(), DataConfig(max_length=64))
QUESTIONS = [
    {
        "question": f"Where does person {i} live{', and with whom' * (i % 3)}?",
        "answer": "In " + " and ".join(["Kelmwick", "Varraby", "Mosselmore", "Dunra"][: i % 4 + 1]),
        "paraphrased_answer": f"Person {i} lives in Kelmwick.",
        "perturbed_answer": [f"Person {i} lives in {town}." for town in ("Rome", "Paris", "Ulm")],
    }
    for i in range(11)
]


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
