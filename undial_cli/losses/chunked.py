"""From hidden states to a loss and its gradient, chunk by chunk: no [N, V] tensor.

The gradient with respect to the logits has a closed form, so each chunk is projected, scored,
turned into its own gradient in place and multiplied back at once. Knows no loss by name: one is
given as a function of a chunk's log q, or of the targets' log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from undial_cli.losses.positions import upcast

# Logits that exist at one time, as a number of elements: what a chunk's products need to be fast.
CHUNK = {"cpu": 2**23, "cuda": 2**26}


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
        return self.after(upcast(F.linear(hidden_ND, self.weight_VD, self.bias_V)))

    def to(self, where: torch.dtype | torch.device) -> Projection:
        """The same projection in another dtype or on another device."""
        bias_V = None if self.bias_V is None else self.bias_V.to(where)
        return Projection(self.weight_VD.to(where), bias_V, self.scale, self.cap)

    def detach(self) -> Projection:
        """The same projection, without gradient."""
        bias_V = None if self.bias_V is None else self.bias_V.detach()
        return Projection(self.weight_VD.detach(), bias_V, self.scale, self.cap)


Project = Callable[[slice], Tensor]


# Of each chunk: its rows, its share of the loss, and the gradient with respect to its logits.
Steps = Iterator[tuple[slice, Tensor, Tensor]]


def chunks(start: int, end: int, size: int) -> list[slice]:
    """`start` to `end` in as few equal slices as hold at most `size` each."""
    even = math.ceil((end - start) / max(1, math.ceil((end - start) / size)))
    return [slice(i, min(i + even, end)) for i in range(start, end, max(1, even))]


def blocks(counts: list[int], size: int) -> list[list[slice]]:
    """Consecutive units of `counts` positions each, together while they fit into a chunk.

    A unit that does not fit is a block of its own, of several chunks.
    """
    found, start, end = [], 0, 0
    for count in counts:
        if end > start and end + count - start > size:
            found.append(chunks(start, end, size))
            start = end
        end += count
    return [*found, chunks(start, end, size)] if end > start else found


class Fused(torch.autograd.Function):
    """The sum of a loss over N positions; its gradients are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        head: Projection,
        steps: Callable[[Project], Steps],
    ) -> Tensor:
        kind, dtype = hidden_ND.device.type, compute_dtype(hidden_ND, head)
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


def fused(hidden_ND: Tensor, head: Projection, steps: Callable[[Project], Steps]) -> Tensor:
    """A scalar of `steps`, differentiable in the hidden states and the head; 0 if N is 0."""
    return Fused.apply(hidden_ND, head.weight_VD, head.bias_V, head, steps)  # type: ignore[no-any-return]


def compute_dtype(hidden: Tensor, head: Projection) -> torch.dtype:
    """The dtype of the head's products: autocast's, or that of its weights."""
    kind = hidden.device.type
    mixed = torch.is_autocast_enabled(kind) and head.weight_VD.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if mixed else head.weight_VD.dtype


def rows_per_chunk(hidden: Tensor, head: Projection, given: int | None = None) -> int:
    """Positions per chunk."""
    return given or max(1, CHUNK.get(hidden.device.type, CHUNK["cuda"]) // len(head.weight_VD))


def distribution_sum(
    hidden_ND: Tensor,
    head: Projection,
    loss: Callable[[Tensor, slice], tuple[Tensor, Tensor]],
    size: int | None = None,
) -> Tensor:
    """Sum of a loss of each position's whole distribution.

    Args:
        loss: given log q [C, V] of the positions in a slice, which it may overwrite: the sum of
            their losses and its gradient with respect to the logits, [C, V].
        size: positions per chunk.
    """

    def steps(project: Project) -> Steps:
        for rows in chunks(0, len(hidden_ND), rows_per_chunk(hidden_ND, head, size)):
            yield rows, *loss(project(rows).log_softmax(-1), rows)

    return fused(hidden_ND, head, steps)


def logps_sum(
    hidden_ND: Tensor,
    head: Projection,
    targets_N: Tensor,
    loss: Callable[[Tensor, slice], Tensor],
    counts: list[int] | None = None,
    size: int | None = None,
) -> Tensor:
    """Sum of a loss of the target tokens' log-probabilities.

    Args:
        loss: given the log-probabilities [n] of the positions in a slice, their loss (scalar,
            differentiable).
        counts: positions of each unit (a sequence, or a pair of them) that `loss` must see whole,
            in order; None: each position is one. A unit longer than a chunk is projected twice.
        size: positions per chunk.
    """
    size = rows_per_chunk(hidden_ND, head, size)
    alone = [[rows] for rows in chunks(0, len(hidden_ND), size)]

    def steps(project: Project) -> Steps:
        for block in alone if counts is None else blocks(counts, size):
            first, last = block[0].start, block[-1]
            logps = [
                logps_of(project(rows).log_softmax(-1), targets_N[rows]) for rows in block[:-1]
            ]
            log_q = project(last).log_softmax(-1)
            logps_n = torch.cat([*logps, logps_of(log_q, targets_N[last])]).requires_grad_()
            with torch.enable_grad():
                value = loss(logps_n, slice(first, last.stop))
            (slope_n,) = torch.autograd.grad(value, logps_n)
            value = value.detach()
            for rows in reversed(block):
                if rows is not last:
                    log_q, value = project(rows).log_softmax(-1), torch.zeros_like(value)
                gradient_CV = log_q.exp_()  # slope * (onehot - q), from here on
                index = targets_N[rows, None]
                gradient_CV.scatter_add_(1, index, -torch.ones_like(index, dtype=log_q.dtype))
                gradient_CV *= -slope_n[rows.start - first : rows.stop - first, None]
                yield rows, value, gradient_CV

    return fused(hidden_ND, head, steps)


def logps_of(log_q_CV: Tensor, targets_C: Tensor) -> Tensor:
    """Log-probabilities of the targets, [C]."""
    return log_q_CV.gather(1, targets_C[:, None])[:, 0]
