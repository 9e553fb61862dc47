"""The seam between a method and everything else.

A method says what it needs from the frozen teacher and turns one micro-batch of target positions
into a sum; the trainer alone divides by the weight of the global batch. A method knows neither
trainer, cache nor model; they know no method by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from undial_cli.losses.positions import IGNORE

TEACHER_LOGITS = "teacher_logits"
REFERENCE_LOGPS = "reference_logps"


@dataclass
class Targets:
    """The target positions of one micro-batch: N positions in B sequences.

    `teacher_NV` and `reference_B` are there only for a loss that needs them.
    """

    logits_NV: Tensor
    targets_N: Tensor
    sequence_N: Tensor
    labels_BT: Tensor
    teacher_NV: Tensor | None = None
    reference_B: Tensor | None = None


class Loss(Protocol):
    """One term of a method."""

    needs: ClassVar[frozenset[str]]

    def weight(self, labels_BT: Tensor) -> Tensor:
        """How much a micro-batch counts (int64 scalar): what the sum is divided by, globally."""
        ...

    def sum(self, targets: Targets) -> Tensor:
        """The loss summed over the micro-batch; 0 with the graph attached if nothing is scored."""
        ...


class PerToken:
    """A loss that counts target tokens."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def weight(self, labels_BT: Tensor) -> Tensor:
        return (labels_BT[:, 1:] != IGNORE).sum()


class PerSequence:
    """A loss that counts sequences with at least one target token."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def weight(self, labels_BT: Tensor) -> Tensor:
        return (labels_BT[:, 1:] != IGNORE).any(1).sum()
