"""SimNPO: NPO on the length-normalised loss, without a reference (Fan et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from undial_cli.methods.base import Method, Targets, Tensor, key
from undial_cli.methods.npo import NpoConfig


@dataclass
class SimnpoConfig(NpoConfig):
    """NPO without a reference (Fan et al. 2024)."""

    delta: float = key(0.0, "margin of the mean token loss, nats")


class SimNpo(Method):
    """Mean over sequences of `-(2/beta) log sigmoid(beta (nll / len - delta))`."""

    per: ClassVar[str] = "sequence"
    config: SimnpoConfig

    def sum(self, targets: Targets) -> Tensor:
        from undial_cli.losses.preference import simnpo_per_sequence

        lengths_B = targets.targets_N.new_tensor(targets.counts)
        beta, delta = self.config.beta, self.config.delta
        return targets.sequence_sum(
            lambda logps_B: simnpo_per_sequence(logps_B, lengths_B, beta, delta)
        )
