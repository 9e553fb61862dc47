"""Terms on data that is to be kept: cross entropy (gdr, and plain fine-tuning), KL (klr)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from undial_cli.losses.tokens import cross_entropy_sum, kl_sum
from undial_cli.methods.base import TEACHER_LOGITS, PerToken, Targets


class CrossEntropy(PerToken):
    """Mean negative log-likelihood of the target tokens."""

    def sum(self, targets: Targets) -> Tensor:
        return cross_entropy_sum(targets.logits_NV, targets.targets_N)


class KlToTeacher(PerToken):
    """Mean `KL(teacher || student)` over the target positions."""

    needs: ClassVar[frozenset[str]] = frozenset({TEACHER_LOGITS})

    def sum(self, targets: Targets) -> Tensor:
        assert targets.teacher_NV is not None
        return kl_sum(targets.logits_NV, targets.teacher_NV)
