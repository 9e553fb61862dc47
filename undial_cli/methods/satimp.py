"""SatImp: gradient ascent weighted by saturation and importance (Yang et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass

from undial_cli.methods.base import Method, MethodConfig, Targets, Tensor, key


@dataclass
class SatimpConfig(MethodConfig):
    """Saturation and importance (Yang et al. 2025)."""

    beta1: float = key(5.0, "exponent of the token's probability", minimum=0)
    beta2: float = key(1.0, "exponent of one minus the token's probability", minimum=0)


class SatImp(Method):
    """Mean over target tokens of `-(q_y ** beta1) ((1 - q_y) ** beta2) CE`, weights detached."""

    config: SatimpConfig

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.tokens import satimp_per_token

        beta1, beta2 = self.config.beta1, self.config.beta2
        return targets.token_sum(lambda logps_N: satimp_per_token(logps_N, beta1, beta2))
