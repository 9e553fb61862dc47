"""From hidden states to a loss and its gradient, chunk by chunk: no [N, V] tensor.

Each chunk is projected, scored, turned into the gradient with respect to its logits and multiplied
back to hidden states and head at once. Knows no loss: `targets` says what is done with a chunk.

Shapes: N target positions, C of them in a chunk, V vocabulary, D width.
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

    def to(self, target: torch.dtype | torch.device, copy: bool = False) -> Projection:
        """The same projection in another dtype or on another device."""
        bias_V = None if self.bias_V is None else self.bias_V.to(target, copy=copy)
        return Projection(self.weight_VD.to(target, copy=copy), bias_V, self.scale, self.cap)

    def detach(self) -> Projection:
        """The same projection, without gradient."""
        bias_V = None if self.bias_V is None else self.bias_V.detach()
        return Projection(self.weight_VD.detach(), bias_V, self.scale, self.cap)


def as_projection(head: Tensor | Projection) -> Projection:
    """A bare weight [V, D] as a projection."""
    return head if isinstance(head, Projection) else Projection(head)


# The logits [C, V] of a slice of the N positions.
ProjectRows = Callable[[slice], Tensor]

# Of each chunk: its rows, its share of the loss, and the gradient by its logits [C, V].
ChunkGradients = Iterator[tuple[slice, Tensor, Tensor]]


def split_into_chunks(start: int, end: int, size: int) -> list[slice]:
    """`start` to `end` in as few equal slices as hold at most `size` each."""
    # Equal, as a short last chunk would use the device badly.
    even = math.ceil((end - start) / max(1, math.ceil((end - start) / size)))
    return [slice(i, min(i + even, end)) for i in range(start, end, max(1, even))]


def group_into_blocks(counts: list[int], size: int) -> list[list[slice]]:
    """Consecutive units of `counts` positions each, together while they fit into a chunk.

    A unit that does not fit is a block of its own, of several chunks.
    """
    blocks, start, end = [], 0, 0
    for count in counts:
        if end > start and end + count - start > size:
            blocks.append(split_into_chunks(start, end, size))
            start = end
        end += count
    return [*blocks, split_into_chunks(start, end, size)] if end > start else blocks


class SumOverChunks(torch.autograd.Function):
    """The sum of a loss over N positions; its gradients are computed in the forward pass.

    1. `score_chunks` asks for the logits of a chunk, [C, V];
    2. and yields the chunk's share of the loss, with the gradient by its logits;
    3. the chain rule through cap, scale and both products ends in the gradients [C, D] and [V, D];
    4. the chunk's logits are freed, and the next chunk's take their memory.

    Backward has nothing left to do but to multiply by what comes from above. Autograd alone would
    keep the logits of every chunk until then, which is [N, V] after all.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        head: Projection,
        score_chunks: Callable[[ProjectRows], ChunkGradients],
    ) -> Tensor:
        kind, dtype = hidden_ND.device.type, head_compute_dtype(hidden_ND, head)
        # Sums over chunks are of float32 at least, whatever the products are of: else the result
        # would depend on the chunk size.
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        # Autocast off: what it would do is done here by hand, once for all chunks.
        with torch.autocast(kind, enabled=False):
            low_head, low_hidden_ND = head.detach().to(dtype), hidden_ND.detach().to(dtype)
            total = torch.zeros((), dtype=wide, device=hidden_ND.device)
            grad_hidden_ND = torch.empty_like(low_hidden_ND) if needs_hidden else None
            grad_weight_VD = grad_bias_V = None
            if needs_weight:
                # The first chunk's product is written over it, so that [V, D] is not filled first.
                make = torch.empty_like if len(hidden_ND) else torch.zeros_like
                grad_weight_VD = make(weight_VD, dtype=wide)
            if needs_bias:
                grad_bias_V = torch.zeros_like(low_head.weight_VD[:, 0], dtype=wide)
            cap_slope_CV: Tensor | None = None

            def project(rows: slice) -> Tensor:
                nonlocal cap_slope_CV
                logits_CV = low_head.logits(low_hidden_ND[rows])
                if head.cap is not None:  # d/dx cap tanh(x / cap), of the rows projected last
                    cap_slope_CV = 1 - (logits_CV / head.cap) ** 2
                return logits_CV

            is_first = True
            for rows, loss, gradient_CV in score_chunks(project):
                total += loss
                if cap_slope_CV is not None:
                    gradient_CV *= cap_slope_CV
                if head.scale != 1.0:
                    gradient_CV *= head.scale
                if grad_bias_V is not None:
                    grad_bias_V += gradient_CV.sum(0)
                gradient_CV = gradient_CV.to(dtype)
                if grad_hidden_ND is not None:
                    torch.mm(gradient_CV, low_head.weight_VD, out=grad_hidden_ND[rows])
                if grad_weight_VD is not None:
                    add_product_(grad_weight_VD, gradient_CV.T, low_hidden_ND[rows], is_first)
                is_first = False
        ctx.gradients = [
            None if grad is None else grad.to(like.dtype)  # type: ignore[union-attr]
            for grad, like in (
                (grad_hidden_ND, hidden_ND), (grad_weight_VD, weight_VD), (grad_bias_V, bias_V)
            )
        ]  # fmt: skip
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:  # multiplied in place below, so a second time would be wrong
            raise RuntimeError("a fused loss goes backward once")
        for gradient in gradients:
            if gradient is not None:
                gradient *= grad_outputs[0].to(gradient.dtype)
        return (*gradients, None, None)


def add_product_(total: Tensor, left: Tensor, right: Tensor, is_first: bool) -> None:
    """`total (+)= left @ right`; a total of higher precision takes the rounded product."""
    if total.dtype != left.dtype:  # torch has no product into another dtype
        total.copy_(left @ right) if is_first else total.add_(left @ right)
    elif is_first:
        torch.mm(left, right, out=total)
    else:
        total.addmm_(left, right)


def sum_over_chunks(
    hidden_ND: Tensor, head: Projection, score_chunks: Callable[[ProjectRows], ChunkGradients]
) -> Tensor:
    """A scalar, differentiable in the hidden states and the head; 0 if N is 0."""
    # Weight and bias once more, by themselves: autograd sees no tensor inside `head`.
    return SumOverChunks.apply(hidden_ND, head.weight_VD, head.bias_V, head, score_chunks)  # type: ignore[no-any-return]


def head_compute_dtype(hidden: Tensor, head: Projection) -> torch.dtype:
    """The dtype of the head's products: autocast's, or that of its weights."""
    kind = hidden.device.type
    mixed = torch.is_autocast_enabled(kind) and head.weight_VD.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if mixed else head.weight_VD.dtype


def value_and_gradient(
    loss: Callable[[Tensor, slice], Tensor], values: Tensor, rows: slice
) -> tuple[Tensor, Tensor]:
    """The sum of a loss of values at some positions, and its gradient by these."""
    with torch.enable_grad():
        total = loss(values.requires_grad_(), rows).sum()
    (gradient,) = torch.autograd.grad(total, values)
    # Contiguous: autograd's may be one number that is expanded, and it is changed in place.
    return total.detach(), gradient.contiguous()


def gather_logps(log_q_CV: Tensor, targets_C: Tensor) -> Tensor:
    """Log-probabilities of the targets, [C]."""
    return log_q_CV.gather(1, targets_C[:, None])[:, 0]


def make_frozen_projection(hidden_ND: Tensor, head: Projection, dtype: torch.dtype) -> ProjectRows:
    """The logits of the positions in a slice, from products in `dtype`, without gradient."""
    low_head = head.detach().to(dtype)  # once, not per chunk

    @torch.no_grad()
    def project(rows: slice) -> Tensor:
        return low_head.logits(hidden_ND[rows].to(dtype))

    return project
