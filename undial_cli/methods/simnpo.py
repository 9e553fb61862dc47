"""SimNPO: NPO on the length-normalised loss, without a reference (Fan et al. 2024)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from undial_cli.losses.preference import simnpo_of
from undial_cli.methods.base import Method, Targets
from undial_cli.methods.configs import SimnpoConfig


class SimNpo(Method):
    """Mean over sequences of `-(2/beta) log sigmoid(beta (nll / len - delta))`."""

    per: ClassVar[str] = "sequence"
    config: SimnpoConfig

    def sum(self, targets: Targets) -> Tensor:
        lengths_B = torch.tensor(targets.counts, device=targets.hidden_ND.device)
        beta, delta = self.config.beta, self.config.delta
        return targets.sequence_sum(lambda logps_B: simnpo_of(logps_B, lengths_B, beta, delta))
