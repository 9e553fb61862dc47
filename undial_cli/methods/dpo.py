"""Direct preference of another answer over the true one: a refusal (TOFU's IdkDPO), or one that the
data gives (AltPO, Mekala et al. 2025)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from undial_cli.losses.preference import dpo_of
from undial_cli.methods.base import REFERENCE_LOGPS, Method, Targets
from undial_cli.methods.configs import DpoConfig


class Dpo(Method):
    """Mean over pairs of `-(2/beta) log sigmoid(beta (D_alt - D_true))`, D = log(pi / pi_ref)."""

    needs: ClassVar[frozenset[str]] = frozenset({REFERENCE_LOGPS})
    per: ClassVar[str] = "pair"
    config: DpoConfig

    def __init__(self, config: DpoConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.alternatives = config.alternatives

    def sum(self, targets: Targets) -> Tensor:
        reference_B, beta = targets.reference_B, self.config.beta
        return targets.sequence_sum(lambda logps_B: dpo_of(logps_B, reference_B, beta), group=2)
