"""Weighted gradient ascent: tokens forgotten already weigh little (Wang et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass

from undial_cli.methods.base import Method, MethodConfig, Targets, Tensor, key


@dataclass
class WgaConfig(MethodConfig):
    """Weighted gradient ascent (Wang et al. 2025)."""

    beta: float = key(1.0, "exponent of the token's probability in its weight", minimum=0)


class Wga(Method):
    """Mean over target tokens of `-(q_y ** beta) CE`, the weight without gradient."""

    config: WgaConfig

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.tokens import wga_per_token

        return targets.token_sum(lambda logps_N: wga_per_token(logps_N, self.config.beta))
