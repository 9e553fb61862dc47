"""Terms on data that is to be kept: cross entropy (gdr, and plain fine-tuning), KL (klr)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from undial_cli.losses.fused import cross_entropy_sum, kl_sum
from undial_cli.methods.base import TEACHER_LOGITS, Loss, Targets


class CrossEntropy(Loss):
    """Mean negative log-likelihood of the target tokens."""

    def sum(self, targets: Targets) -> Tensor:
        return cross_entropy_sum(targets.hidden_ND, targets.head, targets.targets_N)


class KlToTeacher(Loss):
    """Mean `KL(teacher || student)` over the target positions."""

    needs: ClassVar[frozenset[str]] = frozenset({TEACHER_LOGITS})

    def sum(self, targets: Targets) -> Tensor:
        return kl_sum(targets.hidden_ND, targets.head, *targets.teacher)


RETAIN: dict[str, Any] = {"gdr": CrossEntropy, "klr": KlToTeacher}
