"""The one change made to a model: its output head becomes a `TargetHead`, which can be given a job.

Through it a loss sees the hidden states of target positions and projects them itself, inside the
model's own forward, so that DDP, FSDP, DeepSpeed, LoRA and checkpointing hold. Knows no loss.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from undial_cli.errors import UserError
from undial_cli.losses.chunked import Projection

HeadJob = Callable[[Tensor, Projection], Tensor]

# Config fields by which models cap or scale their logits after the head.
AFTER_HEAD = (
    "final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap",
    "logit_scale", "logits_scaling", "lm_head_multiplier",
)  # fmt: skip


@dataclass(frozen=True)
class After:
    """What a family does to its logits after the head, and where it reads how much on each call."""

    family: str
    name: str
    on_model: bool
    off: float | None
    effect: Callable[[float], dict[str, float]]


KNOWN = (
    After("gemma", "final_logit_softcapping", False, None, lambda value: {"cap": value}),
    After("cohere", "logit_scale", True, 1.0, lambda value: {"scale": value}),
    After("granite", "logits_scaling", False, 1.0, lambda value: {"scale": 1 / value}),
)


class TargetHead(nn.Linear):
    """The output head of a model, which can be given a job instead of its full projection.

    With a job, `forward` returns `job(hidden_BTD, projection)`; the job selects positions before it
    projects, so no [B, T, V] tensor exists. Without one it is an ordinary linear layer.
    """

    job: HeadJob | None = None
    # What the model does to the logits afterwards: (owner, attribute, value while there is a job).
    after: tuple[Any, str, float | None] | None = None
    effect: dict[str, float] = {}  # noqa: RUF012

    def projection(self) -> Projection:
        """From hidden states to the model's logits, scale and cap included."""
        return Projection(self.weight, self.bias, **self.effect)

    def forward(self, input: Tensor) -> Tensor:
        if self.job is None:
            return super().forward(input)
        return self.job(input, self.projection())


def install_head(model: PreTrainedModel) -> None:
    """Turn the model's output head into a `TargetHead`, in place; parameters stay what they are.

    Raises:
        UserError: the model has no plain linear head, or changes its logits in an unknown way.
    """
    head = model.get_output_embeddings()
    kind = model.config.model_type
    if type(head) is not nn.Linear and not isinstance(head, TargetHead):
        raise UserError(f"model of type '{kind}': its output head is no plain linear layer")
    head.__class__ = TargetHead
    target = output_head(model)
    for name in AFTER_HEAD:
        value = getattr(model.config, name, None)
        if value in (None, 1, 1.0):
            continue
        known = next((a for a in KNOWN if a.name == name and kind.startswith(a.family)), None)
        if known is None:
            raise UserError(f"model of type '{kind}': {name} after the head is not supported")
        target.after = (model if known.on_model else model.config, name, known.off)
        target.effect = known.effect(value)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Raise UserError if what a job returns does not come out of the model as it is."""
    sign = torch.full((1, 1, 1), 0.625, dtype=model.dtype, device=model.device)
    with head_job(model, lambda hidden, head: sign):
        found = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device)).logits
    if found.shape != sign.shape or not bool((found == sign).all()):
        kind = model.config.model_type
        raise UserError(f"model of type '{kind}': it changes its logits after the head")


def output_head(model: nn.Module) -> TargetHead:
    """The `TargetHead` somewhere inside a (wrapped, adapted) model."""
    return next(m for m in model.modules() if isinstance(m, TargetHead))


@contextlib.contextmanager
def head_job(model: nn.Module, job: HeadJob) -> Iterator[None]:
    """While open, the model's forward returns `job(hidden, projection)` in `.logits`."""
    head = output_head(model)
    owner, name, off = head.after or (head, "job", job)
    own = getattr(owner, name)
    head.job = job
    setattr(owner, name, off)
    try:
        yield
    finally:
        setattr(owner, name, own)
        head.job = None
