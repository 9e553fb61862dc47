"""What the tests of training share: a short run's config, one step of a term."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from undial_cli.data.collate import Batch
from undial_cli.methods.base import Loss
from undial_cli.models.adapters import unwrap_adapter
from undial_cli.runs.compose import compose_run
from undial_cli.training.packing import PACKED_ATTENTION, switch_attention
from undial_cli.training.teacher import Teacher
from undial_cli.training.trainer import compute_term_sum


def compose_cpu_run(*overrides: str) -> Any:
    """The default run of `undial unlearn` on a CPU, with overrides."""
    return compose_run("unlearn", ["hardware=cpu", *overrides])


class NeedingLoss(Loss):
    """A loss that asks the teacher for something, and makes nothing of it."""

    def __init__(self, *needs: str, layer: int | None = None) -> None:
        self.needs, self.layer = frozenset(needs), layer  # type: ignore[misc]


def run_term(
    model: Any, teacher: Teacher, loss: Loss, batch: Batch
) -> tuple[Tensor, dict[str, Tensor]]:
    """A loss of a micro-batch of `forget`, and the gradient of every parameter that has one."""
    model.zero_grad()
    base = unwrap_adapter(model)
    packs = "pack" in batch.layout
    with switch_attention(base, PACKED_ATTENTION if packs else base.config._attn_implementation):
        value = compute_term_sum(model, teacher, "forget", loss, batch)
        value.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return value.detach(), gradients
