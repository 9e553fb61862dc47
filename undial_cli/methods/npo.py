"""Negative preference optimisation against the target model as reference (arXiv 2404.05868)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from undial_cli.methods.base import REFERENCE_LOGPS, Method, MethodConfig, Targets, Tensor, key


@dataclass
class NpoConfig(MethodConfig):
    """Negative preference optimisation (Zhang et al. 2024)."""

    beta: float = key(0.1, "inverse temperature", above=0)


class Npo(Method):
    """Mean over sequences of `-(2/beta) log sigmoid(-beta (log pi - log pi_ref))`."""

    needs: ClassVar[frozenset[str]] = frozenset({REFERENCE_LOGPS})
    per: ClassVar[str] = "sequence"
    config: NpoConfig

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.preference import npo_per_sequence

        reference_B = targets.reference_B
        return targets.sequence_sum(
            lambda logps_B: npo_per_sequence(logps_B, reference_B, self.config.beta)
        )
