"""Losses straight from hidden states: head, loss and gradient in one pass, chunk by chunk.

The gradient with respect to the logits has a closed form, so each chunk is projected, scored,
turned into its own gradient in place and multiplied back at once; no [N, V] tensor exists. Knows no
method, model or teacher: only hidden states, a projection and target tokens.

Every function takes the hidden states of N target positions (those that *predict* a target) and the
N target tokens. Half-precision products, float32 reductions; the result does not depend on the
chunk size beyond rounding, and is the same each time on a CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from undial_cli.losses import preference
from undial_cli.losses.positions import reduce, upcast

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


def cross_entropy_(
    log_q_CV: Tensor, target_CV: Tensor, weights_C: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of the cross entropies against `target_CV`; its gradient `q - p`, in place of log q."""
    loss_C = -torch.bmm(target_CV[:, None], log_q_CV[:, :, None])[:, 0, 0]
    gradient_CV = log_q_CV.exp_().sub_(target_CV)
    if weights_C is not None:
        gradient_CV *= weights_C[:, None]
        loss_C = loss_C * weights_C
    return loss_C.sum(), gradient_CV


def teacher_logits(
    hidden_ND: Tensor, head: Projection, teacher_ND: Tensor, teacher_head: Projection
) -> Project:
    """The teacher's logits of the positions in a slice, in the precision of the student's."""
    low = teacher_head.detach().to(compute_dtype(hidden_ND, head))

    def project(rows: slice) -> Tensor:
        with torch.no_grad():
            return low.logits(teacher_ND[rows].to(low.weight_VD.dtype))

    return project


def undial_sum(
    hidden_ND: Tensor,
    head: Projection,
    teacher_ND: Tensor,
    teacher_head: Projection,
    targets_N: Tensor,
    strength: float,
    weights_N: Tensor | None = None,
    size: int | None = None,
) -> Tensor:
    """Sum of UnDIAL's loss, see `fused_undial_loss`."""
    teacher = teacher_logits(hidden_ND, head, teacher_ND, teacher_head)

    def loss(log_q_CV: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        lowered_CV, index = teacher(rows), targets_N[rows, None]
        lowered_CV.scatter_add_(1, index, torch.full_like(index, -strength, dtype=log_q_CV.dtype))
        weights_C = None if weights_N is None else weights_N[rows].to(log_q_CV.dtype)
        return cross_entropy_(log_q_CV, lowered_CV.softmax(-1), weights_C)

    return distribution_sum(hidden_ND, head, loss, size)


def kl_sum(
    hidden_ND: Tensor,
    head: Projection,
    teacher_ND: Tensor,
    teacher_head: Projection,
    size: int | None = None,
) -> Tensor:
    """Sum of `KL(teacher || student)`, see `fused_kl_loss`."""
    teacher = teacher_logits(hidden_ND, head, teacher_ND, teacher_head)

    def loss(log_q_CV: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        log_p_CV = teacher(rows).log_softmax(-1)
        target_CV = log_p_CV.exp()
        entropy = -torch.bmm(target_CV[:, None], log_p_CV[:, :, None]).sum()
        total, gradient_CV = cross_entropy_(log_q_CV, target_CV)
        return total - entropy, gradient_CV

    return distribution_sum(hidden_ND, head, loss, size)


@torch.no_grad()
def sequence_logps(
    hidden_ND: Tensor,
    head: Projection,
    targets_N: Tensor,
    sequence_N: Tensor,
    rows: int,
    size: int | None = None,
) -> Tensor:
    """Log-probability of each of `rows` sequences, summed over its targets: float64 [rows]."""
    low = head.detach().to(compute_dtype(hidden_ND, head))
    logps_B = torch.zeros(rows, dtype=torch.float64, device=hidden_ND.device)
    for part in chunks(0, len(hidden_ND), rows_per_chunk(hidden_ND, head, size)):
        logits_CV = low.logits(hidden_ND[part].to(low.weight_VD.dtype))
        logps_C = logps_of(logits_CV.log_softmax(-1), targets_N[part])
        logps_B.index_add_(0, sequence_N[part], logps_C.double())
    return logps_B


def cross_entropy_sum(
    hidden_ND: Tensor, head: Projection, targets_N: Tensor, size: int | None = None
) -> Tensor:
    """Summed negative log-likelihood of the targets, see `fused_cross_entropy_loss`."""
    return logps_sum(hidden_ND, head, targets_N, lambda logps, _: -logps.sum(), size=size)


def npo_sum(
    hidden_ND: Tensor,
    head: Projection,
    targets_N: Tensor,
    sequence_N: Tensor,
    counts: list[int],
    reference_B: Tensor,
    beta: float,
    size: int | None = None,
) -> Tensor:
    """Sum of NPO's loss over sequences that have a target, see `fused_npo_loss`."""

    def loss(logps_n: Tensor, rows: slice) -> Tensor:
        rows_n = sequence_N[rows]
        logps_B = logps_n.new_zeros(len(reference_B)).index_add(0, rows_n, logps_n)
        here_B = torch.zeros_like(logps_B).index_fill(0, rows_n, 1)
        return preference.npo_sum(logps_B, reference_B.to(logps_B.dtype), here_B, beta)

    return logps_sum(hidden_ND, head, targets_N, loss, counts, size)


def as_projection(head: Tensor | Projection) -> Projection:
    """A bare weight [V, D] as a projection."""
    return head if isinstance(head, Projection) else Projection(head)


def fused_undial_loss(
    hidden: Tensor,
    head: Tensor | Projection,
    teacher_hidden: Tensor,
    teacher_head: Tensor | Projection,
    targets: Tensor,
    strength: float,
    weights: Tensor | None = None,
    num_items_in_batch: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """UnDIAL's loss from hidden states: what `undial_loss` is of their logits.

    Source: Dong et al., UnDIAL, NAACL 2025, https://arxiv.org/abs/2402.10052.

    Args:
        hidden: [N, D], the student's, at the positions that predict a target.
        head: the student's weight [V, D], or a `Projection` where there is more to it.
        teacher_hidden: [N, D], the frozen teacher's at the same positions.
        teacher_head: the teacher's weight or projection; it may be the student's.
        targets: [N] token ids.
        strength: how far the target token's logit is lowered (>= 0).
        weights: [N], of each position; the divisor stays the number of targets.
        num_items_in_batch: divisor of the sum; None for N.
        chunk_size: positions whose logits exist at one time; None for what suits the device.

    Returns:
        Scalar in nats, float32 at least; 0 with its graph if N is 0. It goes backward once.
    """
    total = undial_sum(
        hidden, as_projection(head), teacher_hidden, as_projection(teacher_head), targets,
        strength, weights, chunk_size,
    )  # fmt: skip
    return reduce(total, len(targets), num_items_in_batch)


def fused_kl_loss(
    hidden: Tensor,
    head: Tensor | Projection,
    teacher_hidden: Tensor,
    teacher_head: Tensor | Projection,
    num_items_in_batch: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """`KL(teacher || student)`, mean over N positions; arguments as in `fused_undial_loss`."""
    total = kl_sum(
        hidden, as_projection(head), teacher_hidden, as_projection(teacher_head), chunk_size
    )
    return reduce(total, len(hidden), num_items_in_batch)


def fused_cross_entropy_loss(
    hidden: Tensor,
    head: Tensor | Projection,
    targets: Tensor,
    num_items_in_batch: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Mean negative log-likelihood of N targets; arguments as in `fused_undial_loss`."""
    total = cross_entropy_sum(hidden, as_projection(head), targets, chunk_size)
    return reduce(total, len(targets), num_items_in_batch)


def fused_ga_loss(
    hidden: Tensor,
    head: Tensor | Projection,
    targets: Tensor,
    num_items_in_batch: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Gradient ascent: minus `fused_cross_entropy_loss`."""
    return -fused_cross_entropy_loss(hidden, head, targets, num_items_in_batch, chunk_size)


def fused_npo_loss(
    hidden: Tensor,
    head: Tensor | Projection,
    targets: Tensor,
    counts: list[int],
    reference_logps: Tensor,
    beta: float,
    num_items_in_batch: Tensor | float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Negative preference optimisation, mean over sequences that have a target.

    Source: Zhang et al. 2024, https://arxiv.org/abs/2404.05868.

    Args:
        hidden: [N, D], the positions of sequence 0 first, then those of sequence 1, and so on.
        head: the weight [V, D], or a `Projection`.
        targets: [N] token ids.
        counts: positions of each of B sequences; they add up to N.
        reference_logps: [B] summed log-probabilities under the reference model.
        beta: inverse temperature (> 0).
        num_items_in_batch: divisor of the sum; None for the number of sequences with a target.
        chunk_size: positions whose logits exist at one time; a longer sequence is projected twice.
    """
    lengths = torch.tensor(counts, dtype=torch.long, device=targets.device)
    sequence = torch.arange(len(counts), device=targets.device).repeat_interleave(lengths)
    total = npo_sum(
        hidden, as_projection(head), targets, sequence, counts, reference_logps, beta, chunk_size
    )
    return reduce(total, sum(count > 0 for count in counts), num_items_in_batch)
