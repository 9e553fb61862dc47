"""Gradient ascent: raise the cross entropy of the forget set (Jang et al. 2023)."""

from __future__ import annotations

from torch import Tensor

from undial_cli.losses.fused import cross_entropy_sum
from undial_cli.methods.base import Method, Targets


class GradientAscent(Method):
    """Minus the mean cross entropy over target tokens."""

    def sum(self, targets: Targets) -> Tensor:
        return -cross_entropy_sum(targets.hidden_ND, targets.head, targets.targets_N)
