"""UnDIAL: distil the model into itself with the target token's logit lowered (arXiv 2402.10052)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from undial_cli.losses.fused import undial_sum
from undial_cli.methods.base import TEACHER_LOGITS, PerToken, Targets
from undial_cli.schema import UndialConfig


class Undial(PerToken):
    """Mean over target tokens of the cross entropy against the lowered teacher."""

    needs: ClassVar[frozenset[str]] = frozenset({TEACHER_LOGITS})

    def __init__(self, config: UndialConfig) -> None:
        self.strength = config.strength

    def sum(self, targets: Targets) -> Tensor:
        return undial_sum(
            targets.hidden_ND, targets.head, *targets.teacher, targets.targets_N, self.strength
        )
