"""The seam between a method and everything else.

A method says what it needs and turns one micro-batch of target positions into a sum; the trainer
alone divides by the weight of the global batch. A method knows neither trainer, cache nor model;
they know no method by name. Imports no torch, so that `--help` can read every method's file.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from undial_cli.fields import key
from undial_cli.schema import MethodConfig

if TYPE_CHECKING:
    from torch import Tensor

    from undial_cli.losses.chunked import Project, Projection

__all__ = [
    "REFERENCE_LOGPS", "TEACHER_LAYER", "TEACHER_LOGITS", "Entry", "Focus", "Loss", "Method",
    "MethodConfig", "Signal", "Targets", "key",
]  # fmt: skip

# What a loss can need of the frozen teacher: its logits, its sequences' log-probabilities, its
# activations at the loss's own layer.
TEACHER_LOGITS = "teacher_logits"
REFERENCE_LOGPS = "reference_logps"
TEACHER_LAYER = "teacher_layer"


@dataclass
class Signal:
    """What the frozen teacher says of N target positions in B sequences.

    `hidden_ND` and `head`, which projects them, make its logits; `logps_B` are the sequences'
    log-probabilities; `layer_ND` its activations at a loss's layer. Each is there only for a loss
    that needs it; `head` None is the student's.
    """

    hidden_ND: Tensor | None = None
    head: Projection | None = None
    logps_B: Tensor | None = None
    layer_ND: Tensor | None = None


@dataclass
class Targets:
    """The target positions of one micro-batch: N positions in B sequences, those in order.

    `hidden_ND`: the student's hidden states that predict the targets, which `head` projects to
    logits; for a loss with a `layer`, this layer's activations at the targets' own positions.
    `counts`: positions of each sequence; `focus_N`: which targets overlap the sample's focus.

    The sums go through the head chunk by chunk, and what a loss is given is differentiable: it is
    written as its formula, without a gradient.
    """

    hidden_ND: Tensor
    head: Projection
    targets_N: Tensor
    sequence_N: Tensor
    counts: list[int]
    focus_N: Tensor
    signal: Signal

    @property
    def teacher(self) -> tuple[Tensor, Projection]:
        """The teacher's hidden states and what projects them."""
        assert self.signal.hidden_ND is not None
        return self.signal.hidden_ND, self.signal.head or self.head

    @functools.cached_property
    def teacher_logits(self) -> Project:
        """Gives the teacher's logits [n, V] of the positions in a slice; they have no gradient."""
        from undial_cli.losses.chunked import compute_dtype, frozen_logits

        return frozen_logits(*self.teacher, compute_dtype(self.hidden_ND, self.head))

    @property
    def reference_B(self) -> Tensor:
        """The sequences' log-probabilities under the teacher."""
        assert self.signal.logps_B is not None
        return self.signal.logps_B

    def token_sum(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Sum of a loss of the targets' log-probabilities: given some of them [n], losses [n]."""
        from undial_cli.losses.chunked import logps_sum

        return logps_sum(self.hidden_ND, self.head, self.targets_N, lambda logps, _: loss(logps))

    def sequence_sum(self, loss: Callable[[Tensor], Tensor], group: int = 1) -> Tensor:
        """Sum of a loss of sequences' summed log-probabilities: given [B], losses [B / group]."""
        from undial_cli.losses.chunked import sequences_sum

        return sequences_sum(
            self.hidden_ND, self.head, self.targets_N, self.sequence_N, self.counts, loss, group
        )

    def logits_sum(self, loss: Callable[[Tensor, slice], Tensor]) -> Tensor:
        """Sum of a loss of positions' logits: given [n, V] and which of N they are, losses [n]."""
        from undial_cli.losses.chunked import logits_sum

        return logits_sum(self.hidden_ND, self.head, loss)

    def distribution_sum(self, loss: Callable[[Tensor, slice], tuple[Tensor, Tensor]]) -> Tensor:
        """A loss with its gradient written by hand, as in `chunked.distribution_sum`."""
        from undial_cli.losses.chunked import distribution_sum

        return distribution_sum(self.hidden_ND, self.head, loss)


class Loss:
    """One term of what is minimised.

    `needs`: what the teacher must say. `per`: what the loss is a mean over: `token`, `sequence`
    (with a target token) or `pair` of sequences. `layer`: the loss sees the activations of this
    layer (counted from 0), and the model's forward matters only up to it.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    per: ClassVar[str] = "token"
    layer: int | None = None

    def weight(self, counts: list[int]) -> int:
        """How much a micro-batch counts: what the sum is divided by, globally."""
        if self.per == "token":
            return sum(counts)
        if self.per == "sequence":
            return sum(count > 0 for count in counts)
        return sum(a + b > 0 for a, b in zip(counts[::2], counts[1::2], strict=True))

    def sum(self, targets: Targets) -> Tensor:
        """The loss summed over the micro-batch; 0 with the graph attached if nothing is scored."""
        raise NotImplementedError


@dataclass(frozen=True)
class Focus:
    """Where focus words come from: `column`, `entities` or `noun_chunks` of a spaCy pipeline."""

    source: str
    pipeline: str | None = None


class Method(Loss):
    """The forget loss of a method, and what the method does beyond it.

    `alternatives`: each sample is an answer and, as the next sequence, an answer to prefer:
    `refusals` drawn anew each epoch, or those of the `data`. `focus`: samples carry focus words.
    `parameters`: regular expression of the parameters that are trained (None: all). `adapts`:
    `after_step` is to be called. `from_start`: `finish` is given the weights before training.
    `contrasts`: the checkpoint is two models that are decoded together.
    """

    alternatives: str | None = None
    focus: Focus | None = None
    parameters: str | None = None
    adapts: ClassVar[bool] = False
    from_start: ClassVar[bool] = False
    contrasts: ClassVar[bool] = False

    def __init__(self, config: Any, seed: int = 0) -> None:
        self.config = config

    def retain(self) -> Loss | None:
        """The retain term that the config names, or None."""
        from undial_cli.methods.retain import RETAIN

        return None if self.config.retain == "none" else RETAIN[self.config.retain]()

    def terms(self) -> dict[str, Loss]:
        """The terms by the set that they are over; one of weight 0 is not there."""
        found: dict[str, Loss] = {"forget": self} if self.config.gamma else {}
        retain = self.retain() if self.config.alpha else None
        return found | ({"retain": retain} if retain is not None else {})

    def coefficient(self, term: str) -> float:
        """What a term is multiplied with, now."""
        return self.config.gamma if term == "forget" else self.config.alpha

    def after_step(self, losses: dict[str, float], epoch: float) -> None:
        """Learn the terms' means over the global batch of the step that was taken."""

    def state_dict(self) -> dict[str, float]:
        """What changes during training: saved to resume from, and logged."""
        return {}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from a saved state."""

    def finish(self, checkpoint: Path, start: Path | None) -> None:
        """Change the saved checkpoint (one process); `start` holds the weights before training."""


class Entry(NamedTuple):
    """What the name of a method stands for: its keys, and the method that they make."""

    config: type[MethodConfig]
    method: type[Method]
