"""Negative preference optimisation against the target model as reference (arXiv 2404.05868)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from undial_cli.losses.preference import npo_of
from undial_cli.methods.base import REFERENCE_LOGPS, Method, Targets
from undial_cli.methods.configs import NpoConfig


class Npo(Method):
    """Mean over sequences of `-(2/beta) log sigmoid(-beta (log pi - log pi_ref))`."""

    needs: ClassVar[frozenset[str]] = frozenset({REFERENCE_LOGPS})
    per: ClassVar[str] = "sequence"
    config: NpoConfig

    def sum(self, targets: Targets) -> Tensor:
        reference_B = targets.reference_B
        return targets.sequence_sum(lambda logps_B: npo_of(logps_B, reference_B, self.config.beta))
