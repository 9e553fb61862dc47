"""The seam between a method and everything else.

A method says what it needs and turns one micro-batch of target positions into a sum; the trainer
alone divides by the weight of the global batch. A method knows neither trainer, cache nor model;
they know no method by name. Imports no torch, so that `--help` can read every method's file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from undial_cli.config.fields import key
from undial_cli.config.methods import FocusSource, MethodConfig, OtherQuestions

if TYPE_CHECKING:
    from torch import Tensor

    from undial_cli.losses.targets import Targets
else:
    Targets = Tensor = Any  # methods name them in annotations alone

__all__ = [
    "PRIOR_LOGPS", "REFERENCE_LOGPS", "RETAIN_TERMS", "TEACHER_LAYER", "TEACHER_LOGITS",
    "CrossEntropy", "FocusSource", "JsToTeacher", "KlToTeacher", "Loss", "Method", "MethodConfig",
    "MethodEntry", "OtherQuestions", "Targets", "Tensor", "key",
]  # fmt: skip

# What a loss can need of the frozen teacher: its logits, its sequences' log-probabilities, its
# activations at the loss's own layer, its targets' log-probabilities where other questions stand
# before the answers. Names, as the teacher caches only what is asked for.
TEACHER_LOGITS = "teacher_logits"
REFERENCE_LOGPS = "reference_logps"
TEACHER_LAYER = "teacher_layer"
PRIOR_LOGPS = "prior_logps"


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
        # Pairs follow each other: an answer, then its alternative.
        return sum(a + b > 0 for a, b in zip(counts[::2], counts[1::2], strict=True))

    def sum(self, targets: Targets) -> Tensor:
        """The loss summed over the micro-batch; 0 with the graph attached if nothing is scored."""
        raise NotImplementedError


class CrossEntropy(Loss):
    """Mean negative log-likelihood of the target tokens."""

    def sum(self, targets: Targets) -> Tensor:
        return targets.token_sum(lambda logps_N: -logps_N)


class KlToTeacher(Loss):
    """Mean `KL(teacher || student)` over the target positions."""

    needs: ClassVar[frozenset[str]] = frozenset({TEACHER_LOGITS})

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.undial import kl_sum

        return kl_sum(targets)


class JsToTeacher(Loss):
    """Mean `JS(teacher, student)` over the target positions."""

    needs: ClassVar[frozenset[str]] = frozenset({TEACHER_LOGITS})

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.divergences import js_per_position

        def loss(logits_NV: Tensor, rows: slice) -> Tensor:
            log_p_NV = targets.teacher_logits(rows).log_softmax(-1)
            return js_per_position(logits_NV.log_softmax(-1), log_p_NV)

        return targets.logits_sum(loss)


RETAIN_TERMS: dict[str, Any] = {"gdr": CrossEntropy, "klr": KlToTeacher, "js": JsToTeacher}


class Method(Loss):
    """The forget loss of a method, and what the method does beyond it.

    `alternatives`: each sample is an answer and, as the next sequence, an answer to prefer:
    `refusals` drawn anew each epoch, or those of the `data`. `focus`: samples carry focus words.
    `other_questions`: what a loss that needs PRIOR_LOGPS has the teacher asked.
    `parameters`: regular expression of the parameters that are trained (None: all). `adapts`:
    `after_step` is to be called. `statistics`: what `sum` adds up of a step beside the loss; the
    processes' are added up before `after_step`, which empties it. `from_start`: `finish` is given
    the weights before training. `contrasts`: the checkpoint is two models, decoded together.
    """

    alternatives: str | None = None
    focus: FocusSource | None = None
    other_questions: OtherQuestions | None = None
    parameters: str | None = None
    adapts: ClassVar[bool] = False
    statistics: Tensor | None = None
    from_start: ClassVar[bool] = False
    contrasts: ClassVar[bool] = False

    def __init__(self, config: Any, seed: int = 0) -> None:
        self.config = config
        self.parameters = getattr(config, "parameters", None) or self.parameters

    def retain(self) -> Loss | None:
        """The retain term that the config names, or None."""
        return None if self.config.retain == "none" else RETAIN_TERMS[self.config.retain]()

    def terms(self) -> dict[str, Loss]:
        """The terms by the set that they are over; one of weight 0 that is not read is left out."""
        terms: dict[str, Loss] = {}
        if self.config.gamma:
            terms["forget"] = self
        retain = self.retain() if self.config.alpha or self.config.rectify else None
        if retain is not None:
            terms["retain"] = retain
        return terms

    def coefficient(self, term: str) -> float:
        """What a term is multiplied with, now."""
        return self.config.gamma if term == "forget" else self.config.alpha

    def after_step(self, losses: dict[str, float], epoch: float) -> None:
        """Learn the terms' means over the global batch of the step that was taken."""

    def state_dict(self) -> dict[str, Any]:
        """What changes in training, as JSON holds it: saved to resume from; floats are logged."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""

    def finish(self, checkpoint: Path, start: Path | None) -> None:
        """Change the saved checkpoint (one process); `start` holds the weights before training."""


class MethodEntry(NamedTuple):
    """What the name of a method stands for: its keys, and the method that they make."""

    config: type[MethodConfig]
    method: type[Method]
