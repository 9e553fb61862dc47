"""From hidden states to a loss and its gradient, chunk by chunk: no [N, V] tensor.

Each chunk is projected, scored, turned into the gradient with respect to its logits and multiplied
back to hidden states and head at once. Knows no loss: `targets` says what is done with a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from undial_cli.losses.positions import upcast_half

# Logits that exist at one time, as a number of elements: what a chunk's products need to be fast.
LOGITS_PER_CHUNK = {"cpu": 2**23, "cuda": 2**26}


@dataclass(frozen=True)
class Projection:
    """What turns hidden states [N, D] into logits [N, V].

    `scale` multiplies the linear layer's output; `cap` then bends it to `cap * tanh(. / cap)`.
    """

    weight_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def after(self, logits: Tensor) -> Tensor:
        """Scale and cap of the linear layer's output."""
        logits = logits * self.scale if self.scale != 1.0 else logits
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits [N, V], in float32 at least."""
        return self.after(upcast_half(F.linear(hidden_ND, self.weight_VD, self.bias_V)))

    def to(self, where: torch.dtype | torch.device) -> Projection:
        """The same projection in another dtype or on another device."""
        bias_V = None if self.bias_V is None else self.bias_V.to(where)
        return Projection(self.weight_VD.to(where), bias_V, self.scale, self.cap)

    def detach(self) -> Projection:
        """The same projection, without gradient."""
        bias_V = None if self.bias_V is None else self.bias_V.detach()
        return Projection(self.weight_VD.detach(), bias_V, self.scale, self.cap)


def as_projection(head: Tensor | Projection) -> Projection:
    """A bare weight [V, D] as a projection."""
    return head if isinstance(head, Projection) else Projection(head)


ProjectRows = Callable[[slice], Tensor]

# Of each chunk: its rows, its share of the loss, and the gradient with respect to its logits.
ChunkGradients = Iterator[tuple[slice, Tensor, Tensor]]


def split_into_chunks(start: int, end: int, size: int) -> list[slice]:
    """`start` to `end` in as few equal slices as hold at most `size` each."""
    even = math.ceil((end - start) / max(1, math.ceil((end - start) / size)))
    return [slice(i, min(i + even, end)) for i in range(start, end, max(1, even))]


def group_into_blocks(counts: list[int], size: int) -> list[list[slice]]:
    """Consecutive units of `counts` positions each, together while they fit into a chunk.

    A unit that does not fit is a block of its own, of several chunks.
    """
    found, start, end = [], 0, 0
    for count in counts:
        if end > start and end + count - start > size:
            found.append(split_into_chunks(start, end, size))
            start = end
        end += count
    return [*found, split_into_chunks(start, end, size)] if end > start else found


class SumOverChunks(torch.autograd.Function):
    """The sum of a loss over N positions; its gradients are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        head: Projection,
        steps: Callable[[ProjectRows], ChunkGradients],
    ) -> Tensor:
        kind, dtype = hidden_ND.device.type, head_compute_dtype(hidden_ND, head)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        with torch.autocast(kind, enabled=False):
            low, hidden = head.detach().to(dtype), hidden_ND.detach().to(dtype)
            total = torch.zeros((), dtype=wide, device=hidden.device)
            grad_hidden = torch.empty_like(hidden) if needs_hidden else None
            grad_weight = None
            if needs_weight:
                new = torch.empty_like if len(hidden) else torch.zeros_like
                grad_weight = new(weight_VD, dtype=wide)
            grad_bias = torch.zeros_like(low.weight_VD[:, 0], dtype=wide) if needs_bias else None
            slope: list[Tensor] = []
            first = True

            def project(rows: slice) -> Tensor:
                logits = low.logits(hidden[rows])
                slope[:] = [1 - (logits / head.cap) ** 2] if head.cap is not None else []
                return logits

            for rows, loss, gradient in steps(project):
                total += loss
                if slope:
                    gradient *= slope[0]
                if head.scale != 1.0:
                    gradient *= head.scale
                if grad_bias is not None:
                    grad_bias += gradient.sum(0)
                gradient = gradient.to(dtype)
                if grad_hidden is not None:
                    torch.mm(gradient, low.weight_VD, out=grad_hidden[rows])
                if grad_weight is not None:
                    add_product_(grad_weight, gradient.T, hidden[rows], first)
                first = False
        ctx.gradients = [
            None if grad is None else grad.to(like.dtype)  # type: ignore[union-attr]
            for grad, like in (
                (grad_hidden, hidden_ND), (grad_weight, weight_VD), (grad_bias, bias_V)
            )
        ]  # fmt: skip
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("a fused loss goes backward once")
        for gradient in gradients:
            if gradient is not None:
                gradient *= grad_outputs[0].to(gradient.dtype)
        return (*gradients, None, None)


def add_product_(total: Tensor, left: Tensor, right: Tensor, first: bool) -> None:
    """`total (+)= left @ right`; a total of higher precision takes the rounded product."""
    if total.dtype != left.dtype:
        total.copy_(left @ right) if first else total.add_(left @ right)
    elif first:
        torch.mm(left, right, out=total)
    else:
        total.addmm_(left, right)


def sum_over_chunks(
    hidden_ND: Tensor, head: Projection, steps: Callable[[ProjectRows], ChunkGradients]
) -> Tensor:
    """A scalar of `steps`, differentiable in the hidden states and the head; 0 if N is 0."""
    return SumOverChunks.apply(hidden_ND, head.weight_VD, head.bias_V, head, steps)  # type: ignore[no-any-return]


def head_compute_dtype(hidden: Tensor, head: Projection) -> torch.dtype:
    """The dtype of the head's products: autocast's, or that of its weights."""
    kind = hidden.device.type
    mixed = torch.is_autocast_enabled(kind) and head.weight_VD.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if mixed else head.weight_VD.dtype


def positions_per_chunk(hidden: Tensor, head: Projection, given: int | None = None) -> int:
    """Positions per chunk."""
    return given or max(
        1, LOGITS_PER_CHUNK.get(hidden.device.type, LOGITS_PER_CHUNK["cuda"]) // len(head.weight_VD)
    )


def value_and_gradient(
    loss: Callable[[Tensor, slice], Tensor], given: Tensor, rows: slice
) -> tuple[Tensor, Tensor]:
    """The sum of a loss of what is given of some positions, and its gradient by that."""
    with torch.enable_grad():
        value = loss(given.requires_grad_(), rows).sum()
    (gradient,) = torch.autograd.grad(value, given)
    return value.detach(), gradient.contiguous()  # autograd's may be one number in many places


def gather_logps(log_q_CV: Tensor, targets_C: Tensor) -> Tensor:
    """Log-probabilities of the targets, [C]."""
    return log_q_CV.gather(1, targets_C[:, None])[:, 0]


def make_frozen_projection(hidden_ND: Tensor, head: Projection, dtype: torch.dtype) -> ProjectRows:
    """The logits of the positions in a slice, from products in `dtype`, without gradient."""
    low = head.detach().to(dtype)

    @torch.no_grad()
    def project(rows: slice) -> Tensor:
        return low.logits(hidden_ND[rows].to(dtype))

    return project
