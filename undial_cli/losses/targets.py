"""The target positions of a micro-batch, and the sums of a loss over them, chunk by chunk.

A loss is the formula of a chunk's logits or of the targets' log-probabilities, which is
differentiated here; or, where that pays, of log q together with its gradient. Knows none by name.

Shapes: B sequences, N target positions of all B, n or C of them in a chunk, V vocabulary, D width,
U units: sequences, or groups of them that one loss needs together.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from undial_cli.losses.chunked import (
    LOGITS_PER_CHUNK,
    ChunkGradients,
    Projection,
    ProjectRows,
    as_projection,
    gather_logps,
    group_into_blocks,
    head_compute_dtype,
    make_frozen_projection,
    split_into_chunks,
    sum_over_chunks,
    value_and_gradient,
)
from undial_cli.losses.positions import sum_by_sequence


@dataclass
class TeacherSignal:
    """What the frozen teacher says of N target positions in B sequences.

    `hidden_ND` and `head`, which projects them, make its logits; `logps_B` are the sequences'
    log-probabilities; `layer_ND` its activations at a loss's layer; `prior_N` the targets'
    log-probabilities under other questions. Each is there only for a loss that needs it; `head`
    None is the student's.
    """

    hidden_ND: Tensor | None = None
    head: Projection | None = None
    logps_B: Tensor | None = None
    layer_ND: Tensor | None = None
    prior_N: Tensor | None = None


@dataclass
class Targets:
    """The target positions of one micro-batch: N positions in B sequences, those in order.

    `hidden_ND`: the student's hidden states that predict the targets, which `head` projects to
    logits; for a loss with a `layer`, this layer's activations at the targets' own positions.
    `counts`: positions of each sequence; `focus_N`: which targets overlap the sample's focus;
    `size`: positions whose logits exist at one time (None: what suits the device).

    What a loss is given in a sum is differentiable; what it gives back may be any tensor that adds
    up to the losses it stands for.
    """

    hidden_ND: Tensor
    head: Projection
    targets_N: Tensor
    sequence_N: Tensor
    counts: list[int]
    focus_N: Tensor
    signal: TeacherSignal = field(default_factory=TeacherSignal)
    size: int | None = None

    @property
    def compute_dtype(self) -> torch.dtype:
        """The dtype of the head's products."""
        return head_compute_dtype(self.hidden_ND, self.head)

    @functools.cached_property
    def teacher_logits(self) -> ProjectRows:
        """Gives the teacher's logits [n, V] of the positions in a slice; they have no gradient."""
        assert self.signal.hidden_ND is not None
        teacher_head = self.signal.head or self.head
        return make_frozen_projection(self.signal.hidden_ND, teacher_head, self.compute_dtype)

    @property
    def reference_B(self) -> Tensor:
        """The sequences' log-probabilities under the teacher."""
        assert self.signal.logps_B is not None
        return self.signal.logps_B

    @property
    def prior_N(self) -> Tensor:
        """The targets' log-probabilities under other questions."""
        assert self.signal.prior_N is not None
        return self.signal.prior_N

    @property
    def chunk_size(self) -> int:
        """Positions per chunk."""
        logits = LOGITS_PER_CHUNK.get(self.hidden_ND.device.type, LOGITS_PER_CHUNK["cuda"])
        return self.size or max(1, logits // len(self.head.weight_VD))

    @property
    def chunks(self) -> list[slice]:
        """All positions, in chunks."""
        return split_into_chunks(0, len(self.hidden_ND), self.chunk_size)

    def logits_sum(self, loss: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Sum of a loss of positions' logits: given [n, V] and which of N they are, losses [n]."""

        def score_chunks(project: ProjectRows) -> ChunkGradients:
            for rows in self.chunks:
                yield rows, *value_and_gradient(loss, project(rows), rows)

        return sum_over_chunks(self.hidden_ND, self.head, score_chunks)

    def distribution_sum(self, loss: Callable[[Tensor, slice], tuple[Tensor, Tensor]]) -> Tensor:
        """Sum of a loss whose gradient is written by hand.

        Given log q [n, V], which it may overwrite, and which of N they are, it gives the sum of
        their losses and its gradient with respect to the logits, [n, V].
        """

        def score_chunks(project: ProjectRows) -> ChunkGradients:
            for rows in self.chunks:
                # Not passed on by name: the logits are freed once log q is there.
                yield rows, *loss(project(rows).log_softmax(-1), rows)

        return sum_over_chunks(self.hidden_ND, self.head, score_chunks)

    def token_sum(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Sum of a loss of the targets' log-probabilities: given some of them [n], losses [n]."""
        # No token's loss needs another token: each chunk is a block, and projected once.
        return self.blocks_sum(lambda logps_n, _: loss(logps_n), [[rows] for rows in self.chunks])

    def sequence_sum(
        self,
        loss: Callable[[Tensor], Tensor],
        group: int = 1,
        score: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Sum of a loss of sequences' summed log-probabilities, over those that have a target.

        Args:
            loss: given float64 [B], losses [B / group]. Sequences in other blocks are passed as 0,
                and what becomes of them is left out.
            group: consecutive sequences that one loss needs; it counts if any of them has a target.
            score: what is summed in place of the log-probabilities, given these [n].
        """
        starts = range(0, len(self.counts), group)
        units = [sum(self.counts[start : start + group]) for start in starts]

        # A sequence is never cut apart into blocks, so each sum here is whole.
        def sum_block(logps_n: Tensor, rows: slice) -> Tensor:
            sequence_n = self.sequence_N[rows]
            scores_n = logps_n if score is None else score(logps_n)
            losses_U = loss(sum_by_sequence(scores_n, sequence_n, len(self.counts)))
            counted_U = torch.zeros_like(losses_U, dtype=torch.bool)
            return sum_counted(counted_U.index_fill(0, sequence_n // group, True), losses_U)

        return self.blocks_sum(sum_block, group_into_blocks(units, self.chunk_size))

    def blocks_sum(
        self, loss: Callable[[Tensor, slice], Tensor], blocks: list[list[slice]]
    ) -> Tensor:
        """Sum of a loss of log-probabilities that must be seen whole by the block.

        A block is one or more chunks; those before its last are projected twice: their gradient
        needs the loss's slope at the whole block, and their logits are not kept until it is known.
        """

        def score_chunks(project: ProjectRows) -> ChunkGradients:
            for block in blocks:
                first, last = block[0].start, block[-1]
                logps = [
                    gather_logps(project(rows).log_softmax(-1), self.targets_N[rows])
                    for rows in block[:-1]
                ]
                log_q_CV = project(last).log_softmax(-1)
                logps_n = torch.cat([*logps, gather_logps(log_q_CV, self.targets_N[last])])
                value, slope_n = value_and_gradient(loss, logps_n, slice(first, last.stop))
                for rows in reversed(block):  # the last chunk's log q is still there
                    if rows is not last:
                        log_q_CV, value = project(rows).log_softmax(-1), torch.zeros_like(value)
                    # In place: slope (onehot - q), the gradient of log q_y times the loss's slope.
                    gradient_CV, index = log_q_CV.exp_(), self.targets_N[rows, None]
                    minus_one = -torch.ones_like(index, dtype=gradient_CV.dtype)
                    gradient_CV.scatter_add_(1, index, minus_one)
                    gradient_CV *= -slope_n[rows.start - first : rows.stop - first, None]
                    yield rows, value, gradient_CV

        return sum_over_chunks(self.hidden_ND, self.head, score_chunks)

    def select_sequences(self, chosen: Sequence[bool]) -> Targets:
        """The positions of some sequences alone, all others empty; without the teacher's signal."""
        places = [k for k, count in zip(chosen, self.counts, strict=True) for _ in range(count)]
        index_n = torch.tensor(
            [i for i, is_chosen in enumerate(places) if is_chosen],
            dtype=torch.long,
            device=self.targets_N.device,
        )
        return dataclasses.replace(
            self,
            hidden_ND=self.hidden_ND.index_select(0, index_n),
            targets_N=self.targets_N[index_n],
            sequence_N=self.sequence_N[index_n],
            counts=[count if k else 0 for k, count in zip(chosen, self.counts, strict=True)],
            focus_N=self.focus_N[index_n],
            signal=TeacherSignal(),
        )

    def sequence_logps(self) -> Tensor:
        """The sequences' summed log-probabilities without gradient, float64 [B]."""
        return sum_by_sequence(self.own_logps(), self.sequence_N, len(self.counts))

    def own_logps(self) -> Tensor:
        """The targets' log-probabilities without gradient, [N]."""
        return self.frozen_logps(
            make_frozen_projection(self.hidden_ND, self.head, self.compute_dtype)
        )

    def teacher_logps(self) -> Tensor:
        """The teacher's log-probabilities of the targets, [N]."""
        return self.frozen_logps(self.teacher_logits)

    def frozen_logps(self, project: ProjectRows) -> Tensor:
        """Log-probabilities of the targets without gradient, [N], by the logits of `project`."""
        logps = [
            gather_logps(project(rows).log_softmax(-1), self.targets_N[rows])
            for rows in self.chunks
        ]
        return torch.cat([self.hidden_ND.new_empty(0), *logps])


def as_targets(
    hidden: Tensor,
    head: Tensor | Projection,
    targets: Tensor,
    counts: list[int] | None = None,
    signal: TeacherSignal | None = None,
    size: int | None = None,
) -> Targets:
    """N positions in sequences of `counts` (None: each is one), none of them in focus."""
    counts = [1] * len(hidden) if counts is None else counts
    lengths_B = torch.tensor(counts, dtype=torch.long, device=hidden.device)
    sequence_N = torch.arange(len(counts), device=hidden.device).repeat_interleave(lengths_B)
    focus_N = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
    return Targets(
        hidden,
        as_projection(head),
        targets,
        sequence_N,
        counts,
        focus_N,
        signal or TeacherSignal(),
        size,
    )


def sum_counted(counted_B: Tensor, losses_B: Tensor) -> Tensor:
    """Sum of the losses that count; the others are not looked at, whatever they are."""
    # Not times 0, which an infinite one would make NaN.
    return torch.where(counted_B, losses_B, 0).sum()
