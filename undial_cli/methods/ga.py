"""Gradient ascent: raise the cross entropy of the forget set (Jang et al. 2023)."""

from __future__ import annotations

from torch import Tensor

from undial_cli.losses.fused import cross_entropy_sum
from undial_cli.methods.base import PerToken, Targets
from undial_cli.schema import GaConfig


class GradientAscent(PerToken):
    """Minus the mean cross entropy over target tokens."""

    def __init__(self, config: GaConfig) -> None:
        del config

    def sum(self, targets: Targets) -> Tensor:
        return -cross_entropy_sum(targets.hidden_ND, targets.head, targets.targets_N)
