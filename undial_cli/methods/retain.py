"""Terms on data that is to be kept: cross entropy (gdr, and plain fine-tuning), KL (klr)."""

from __future__ import annotations

from typing import Any, ClassVar

from undial_cli.methods.base import TEACHER_LOGITS, Loss, Targets, Tensor


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


RETAIN_TERMS: dict[str, Any] = {"gdr": CrossEntropy, "klr": KlToTeacher}
