"""The frozen teacher's signal: the model at the start of the request, never a second full model.

`CachedTeacher` runs it once before the first step and keeps, per target position, the final hidden
state (plus one frozen head), or per sequence one log-probability. `AdapterTeacher` switches the
fresh adapter off. Knows what a loss needs, but no loss by name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from undial_cli import distributed
from undial_cli.data.collate import pad
from undial_cli.data.encode import Example
from undial_cli.losses.positions import select_targets
from undial_cli.losses.preference import summed_logps
from undial_cli.methods.base import REFERENCE_LOGPS, TEACHER_LOGITS
from undial_cli.models import head_job, output_head

Batch = dict[str, Tensor]


@dataclass
class Signal:
    """What the teacher says about one micro-batch: logits [N, V] and/or log-probabilities [B]."""

    logits_NV: Tensor | None = None
    logps_B: Tensor | None = None


class Teacher(Protocol):
    """Gives the signal of one micro-batch of the set `name`."""

    def signal(
        self, model: nn.Module, name: str, batch: Batch, needs: frozenset[str]
    ) -> Signal: ...


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """What the head's job returned for a batch."""
    return model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).logits


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; the former mode comes back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


class AdapterTeacher:
    """The model with its fresh adapter switched off, asked again for every micro-batch."""

    def signal(self, model: nn.Module, name: str, batch: Batch, needs: frozenset[str]) -> Signal:
        del name
        mask_BT, targets_N, sequence_N = select_targets(batch["labels"])
        inner: Any = getattr(model, "module", model)

        def job(hidden_BTD: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
            return project(hidden_BTD[mask_BT])

        with frozen(inner), inner.disable_adapter(), head_job(inner, job):
            logits_NV = forward(inner, batch).detach()
        logps_B = None
        if REFERENCE_LOGPS in needs:
            logps_B = summed_logps(logits_NV, targets_N, sequence_N, len(batch["labels"]))
        return Signal(logits_NV if TEACHER_LOGITS in needs else None, logps_B)


class CachedTeacher:
    """The teacher's signal computed once, held in memory on the CPU by set and sample."""

    def __init__(self, model: nn.Module) -> None:
        head = output_head(model)
        self.weight = head.weight.detach().clone()
        self.bias = None if head.bias is None else head.bias.detach().clone()
        self.kept: dict[tuple[str, str, int], Tensor] = {}

    def remember(
        self,
        model: nn.Module,
        name: str,
        examples: list[Example],
        used: list[int],
        needs: frozenset[str],
        batch_size: int,
        pad_id: int,
        advance: Callable[[int], None] = lambda n: None,
    ) -> None:
        """Run the teacher over the samples `used` of a set, shared out over the processes."""
        device = self.weight.device
        mine = sorted(used, key=lambda i: -len(examples[i].input_ids))[
            distributed.rank() :: distributed.world()
        ]
        kept: list[tuple[tuple[str, str, int], Tensor]] = []
        with frozen(model):
            for start in range(0, len(mine), batch_size):
                chosen = mine[start : start + batch_size]
                batch = pad([examples[i] for i in chosen], pad_id)
                batch = {k: v.to(device) for k, v in batch.items()}
                kept += self.look(model, name, batch, chosen, needs)
                advance(len(chosen))
        self.kept |= dict(distributed.gather(kept))

    def look(
        self, model: nn.Module, name: str, batch: Batch, chosen: list[int], needs: frozenset[str]
    ) -> Iterator[tuple[tuple[str, str, int], Tensor]]:
        """The signal of one batch, cut up by sample."""
        mask_BT, targets_N, sequence_N = select_targets(batch["labels"])
        with head_job(model, lambda hidden, project: hidden[mask_BT]):
            hidden_ND = forward(model, batch)
        if TEACHER_LOGITS in needs:
            counts = mask_BT.sum(1).tolist()
            for index, part in zip(chosen, hidden_ND.cpu().split(counts), strict=True):
                yield (name, TEACHER_LOGITS, index), part.clone()
        if REFERENCE_LOGPS in needs:
            logits_NV = F.linear(
                hidden_ND, self.weight.to(hidden_ND.dtype), self.cast_bias(hidden_ND)
            )
            logps_B = summed_logps(logits_NV, targets_N, sequence_N, len(chosen))
            for index, logp in zip(chosen, logps_B.cpu(), strict=True):
                yield (name, REFERENCE_LOGPS, index), logp.clone()

    def cast_bias(self, like: Tensor) -> Tensor | None:
        """The head's bias in the dtype of `like`."""
        return None if self.bias is None else self.bias.to(like.dtype)

    def signal(self, model: nn.Module, name: str, batch: Batch, needs: frozenset[str]) -> Signal:
        del model
        indices = batch["index"].tolist()
        logits_NV = logps_B = None
        if TEACHER_LOGITS in needs:
            parts = [self.kept[name, TEACHER_LOGITS, i] for i in indices if i >= 0]
            width = self.weight.shape[1]
            hidden_ND = torch.cat(parts) if parts else torch.empty(0, width)
            hidden_ND = hidden_ND.to(self.weight.device)
            logits_NV = F.linear(
                hidden_ND, self.weight.to(hidden_ND.dtype), self.cast_bias(hidden_ND)
            )
        if REFERENCE_LOGPS in needs:
            zero = torch.zeros((), dtype=torch.float64)
            values = [self.kept[name, REFERENCE_LOGPS, i] if i >= 0 else zero for i in indices]
            logps_B = torch.stack([v.double() for v in values]).to(self.weight.device)
        return Signal(logits_NV, logps_B)
