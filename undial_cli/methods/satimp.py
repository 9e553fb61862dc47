"""SatImp: gradient ascent weighted by saturation and importance (Yang et al. 2025)."""

from __future__ import annotations

from torch import Tensor

from undial_cli.losses.tokens import satimp_of
from undial_cli.methods.base import Method, Targets
from undial_cli.methods.configs import SatimpConfig


class SatImp(Method):
    """Mean over target tokens of `-(q_y ** beta1) ((1 - q_y) ** beta2) CE`, weights detached."""

    config: SatimpConfig

    def sum(self, targets: Targets) -> Tensor:
        beta1, beta2 = self.config.beta1, self.config.beta2
        return targets.token_sum(lambda logps_N: satimp_of(logps_N, beta1, beta2))
