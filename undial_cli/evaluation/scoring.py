"""Scoring engine: log-probabilities of given answers, batched by length, shared over processes.

Only target positions reach the vocabulary projection. Knows examples and a model, no metric.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from undial_cli import distributed
from undial_cli.data.collate import pad
from undial_cli.data.encode import IGNORE, Example
from undial_cli.losses.positions import select_targets, upcast
from undial_cli.models import head_job


@dataclass(frozen=True)
class Score:
    """What teacher forcing says of one answer.

    `ce`: mean cross entropy over its target tokens in nats, end token counted (NaN if there is
    none); `tokens`: their number; `matches`: whether each answer token is the greedy prediction,
    end token left out.
    """

    ce: float
    tokens: int
    matches: list[bool]


def by_length(lengths: list[int]) -> list[int]:
    """This process's share of the indices, longest first."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return order[distributed.rank() :: distributed.world()]


@torch.no_grad()
def score(
    model: Any,
    examples: list[Example],
    batch_size: int,
    pad_id: int,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Score]:
    """Score every example, in the order given; each is computed by exactly one process."""
    mine = by_length([len(e.input_ids) for e in examples])
    found: list[tuple[int, Score]] = []
    for start in range(0, len(mine), batch_size):
        chosen = mine[start : start + batch_size]
        batch = pad([examples[i] for i in chosen], pad_id)
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        found += zip(chosen, score_batch(model, batch, [examples[i] for i in chosen]), strict=True)
        advance(len(chosen))
    scores = dict(distributed.gather(found))
    return [scores[i] for i in range(len(examples))]


def score_batch(model: Any, batch: dict[str, Tensor], examples: list[Example]) -> list[Score]:
    """The scores of one padded batch."""
    mask_BT, targets_N, _ = select_targets(batch["labels"])

    def job(hidden_BTD: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
        logits_NV = upcast(project(hidden_BTD[mask_BT]))
        ce_N = F.cross_entropy(logits_NV, targets_N, reduction="none")
        return torch.stack([ce_N.double(), (logits_NV.argmax(-1) == targets_N).double()])

    with head_job(model, job):
        figures_2N = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        ).logits
    counts = mask_BT.sum(1).tolist()
    scores = []
    for example, part in zip(examples, figures_2N.cpu().split(counts, dim=1), strict=True):
        ce_n, match_n = part
        answer_tokens = sum(x != IGNORE for x in example.labels[1 : example.answer_end])
        mean = float(ce_n.mean()) if len(ce_n) else float("nan")
        scores.append(Score(mean, len(ce_n), (match_n[:answer_tokens] > 0).tolist()))
    return scores
