"""From hidden states to a loss and its gradient, chunk by chunk: no [N, V] tensor.

Each chunk is projected, scored, turned into the gradient with respect to its logits and multiplied
back to hidden states and head at once. Knows no loss by name: one is given as the formula of a
chunk's logits, or of the targets' log-probabilities, and differentiated here; or, where that pays,
as a formula of log q together with its gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from undial_cli.losses.positions import sum_by_sequence, upcast

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


def as_projection(head: Tensor | Projection) -> Projection:
    """A bare weight [V, D] as a projection."""
    return head if isinstance(head, Projection) else Projection(head)


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


def logits_sum(
    hidden_ND: Tensor,
    head: Projection,
    loss: Callable[[Tensor, slice], Tensor],
    size: int | None = None,
) -> Tensor:
    """Sum of a loss of each position's logits, which autograd differentiates.

    Args:
        loss: given logits [C, V], float32 at least, of the positions in a slice: their losses [C]
            (or any tensor that adds up to them), differentiable.
        size: positions per chunk.
    """

    def steps(project: Project) -> Steps:
        for rows in chunks(0, len(hidden_ND), rows_per_chunk(hidden_ND, head, size)):
            yield rows, *differentiate(loss, project(rows), rows)

    return fused(hidden_ND, head, steps)


def distribution_sum(
    hidden_ND: Tensor,
    head: Projection,
    loss: Callable[[Tensor, slice], tuple[Tensor, Tensor]],
    size: int | None = None,
) -> Tensor:
    """Sum of a loss of each position's distribution, whose gradient is written by hand.

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
        loss: given the log-probabilities [n] of the positions in a slice, their losses [n] (or any
            tensor that adds up to them), differentiable.
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
            logps_n = torch.cat([*logps, logps_of(log_q, targets_N[last])])
            value, slope_n = differentiate(loss, logps_n, slice(first, last.stop))
            for rows in reversed(block):
                if rows is not last:
                    log_q, value = project(rows).log_softmax(-1), torch.zeros_like(value)
                gradient_CV = log_q.exp_()  # slope * (onehot - q), from here on
                index = targets_N[rows, None]
                gradient_CV.scatter_add_(1, index, -torch.ones_like(index, dtype=log_q.dtype))
                gradient_CV *= -slope_n[rows.start - first : rows.stop - first, None]
                yield rows, value, gradient_CV

    return fused(hidden_ND, head, steps)


def differentiate(
    loss: Callable[[Tensor, slice], Tensor], given: Tensor, rows: slice
) -> tuple[Tensor, Tensor]:
    """The sum of a loss of what is given of some positions, and its gradient by that."""
    with torch.enable_grad():
        value = loss(given.requires_grad_(), rows).sum()
    (gradient,) = torch.autograd.grad(value, given)
    return value.detach(), gradient.contiguous()  # autograd's may be one number in many places


def logps_of(log_q_CV: Tensor, targets_C: Tensor) -> Tensor:
    """Log-probabilities of the targets, [C]."""
    return log_q_CV.gather(1, targets_C[:, None])[:, 0]


def sequences_sum(
    hidden_ND: Tensor,
    head: Projection,
    targets_N: Tensor,
    sequence_N: Tensor,
    counts: list[int],
    loss: Callable[[Tensor], Tensor],
    group: int = 1,
    size: int | None = None,
) -> Tensor:
    """Sum of a loss of B sequences' log-probabilities, over those that have a target.

    Args:
        sequence_N: [N] the sequence of each position, in order; `counts`: positions of each.
        loss: given summed log-probabilities (float64 [B], as a reference's are summed),
            differentiable losses [B / group]. Those of sequences in other blocks are passed as 0,
            and what becomes of them is left out.
        group: consecutive sequences that one loss needs; it counts if any of them has a target.
        size: positions per chunk.
    """
    units = [sum(counts[start : start + group]) for start in range(0, len(counts), group)]

    def of_block(logps_n: Tensor, rows: slice) -> Tensor:
        rows_n = sequence_N[rows]
        losses_U = loss(sum_by_sequence(logps_n, rows_n, len(counts)))
        counted_U = torch.zeros_like(losses_U, dtype=torch.bool)
        return sum_where(counted_U.index_fill(0, rows_n // group, True), losses_U)

    return logps_sum(hidden_ND, head, targets_N, of_block, units, size)


def sum_where(counted_B: Tensor, losses_B: Tensor) -> Tensor:
    """Sum of the losses that count; the others are not looked at, whatever they are."""
    return torch.where(counted_B, losses_B, 0).sum()


def frozen_logits(hidden_ND: Tensor, head: Projection, dtype: torch.dtype) -> Project:
    """The logits of the positions in a slice, from products in `dtype`, without gradient."""
    low = head.detach().to(dtype)

    @torch.no_grad()
    def project(rows: slice) -> Tensor:
        return low.logits(hidden_ND[rows].to(dtype))

    return project


def target_logps(
    hidden_ND: Tensor, head: Projection, targets_N: Tensor, size: int | None = None
) -> Tensor:
    """The targets' log-probabilities without gradient, float64 [N]."""
    project = frozen_logits(hidden_ND, head, compute_dtype(hidden_ND, head))
    logps_N = torch.empty(len(targets_N), dtype=torch.float64, device=hidden_ND.device)
    for rows in chunks(0, len(hidden_ND), rows_per_chunk(hidden_ND, head, size)):
        logps_N[rows] = logps_of(project(rows).log_softmax(-1), targets_N[rows])
    return logps_N
