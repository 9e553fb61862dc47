"""The seam between a method and everything else.

A method says what it needs from the frozen teacher and turns one micro-batch of target positions
into a sum; the trainer alone divides by the weight of the global batch. A method knows neither
trainer, cache nor model; they know no method by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from undial_cli.losses.chunked import Projection

TEACHER_LOGITS = "teacher_logits"
REFERENCE_LOGPS = "reference_logps"


@dataclass
class Signal:
    """What the frozen teacher says of N target positions in B sequences.

    `hidden_ND` and `head`, which projects them, make its logits; `logps_B` are the sequences'
    log-probabilities. Each is there only for a loss that needs it; `head` None is the student's.
    """

    hidden_ND: Tensor | None = None
    head: Projection | None = None
    logps_B: Tensor | None = None


@dataclass
class Targets:
    """The target positions of one micro-batch: N positions in B sequences, those in order.

    `hidden_ND`: the student's hidden states at them; `head` projects these to logits; `counts`:
    positions of each sequence.
    """

    hidden_ND: Tensor
    head: Projection
    targets_N: Tensor
    sequence_N: Tensor
    counts: list[int]
    signal: Signal

    @property
    def teacher(self) -> tuple[Tensor, Projection]:
        """The teacher's hidden states and what projects them."""
        assert self.signal.hidden_ND is not None
        return self.signal.hidden_ND, self.signal.head or self.head


class Loss(Protocol):
    """One term of a method."""

    needs: ClassVar[frozenset[str]]

    def weight(self, counts: list[int]) -> int:
        """How much a micro-batch counts: what the sum is divided by, globally."""
        ...

    def sum(self, targets: Targets) -> Tensor:
        """The loss summed over the micro-batch; 0 with the graph attached if nothing is scored."""
        ...


class PerToken:
    """A loss that counts target tokens."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def weight(self, counts: list[int]) -> int:
        return sum(counts)


class PerSequence:
    """A loss that counts sequences with at least one target token."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def weight(self, counts: list[int]) -> int:
        return sum(count > 0 for count in counts)
