"""Weighted gradient ascent: tokens forgotten already weigh little (Wang et al. 2025)."""

from __future__ import annotations

from torch import Tensor

from undial_cli.losses.tokens import wga_of
from undial_cli.methods.base import Method, Targets
from undial_cli.methods.configs import WgaConfig


class Wga(Method):
    """Mean over target tokens of `-(q_y ** beta) CE`, the weight without gradient."""

    config: WgaConfig

    def sum(self, targets: Targets) -> Tensor:
        return targets.token_sum(lambda logps_N: wga_of(logps_N, self.config.beta))
