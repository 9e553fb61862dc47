"""Negative preference optimisation against the target model as reference (arXiv 2404.05868)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from undial_cli.losses.fused import npo_sum
from undial_cli.methods.base import REFERENCE_LOGPS, PerSequence, Targets
from undial_cli.schema import NpoConfig


class Npo(PerSequence):
    """Mean over sequences of `-(2/beta) log sigmoid(-beta (log pi - log pi_ref))`."""

    needs: ClassVar[frozenset[str]] = frozenset({REFERENCE_LOGPS})

    def __init__(self, config: NpoConfig) -> None:
        self.beta = config.beta

    def sum(self, targets: Targets) -> Tensor:
        assert targets.signal.logps_B is not None
        return npo_sum(
            targets.hidden_ND,
            targets.head,
            targets.targets_N,
            targets.sequence_N,
            targets.counts,
            targets.signal.logps_B,
            self.beta,
        )
