"""Negative preference optimisation against the target model as reference (arXiv 2404.05868)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from undial_cli.losses.positions import IGNORE
from undial_cli.losses.preference import npo_sum, summed_logps
from undial_cli.methods.base import REFERENCE_LOGPS, PerSequence, Targets
from undial_cli.schema import NpoConfig


class Npo(PerSequence):
    """Mean over sequences of `-(2/beta) log sigmoid(-beta (log pi - log pi_ref))`."""

    needs: ClassVar[frozenset[str]] = frozenset({REFERENCE_LOGPS})

    def __init__(self, config: NpoConfig) -> None:
        self.beta = config.beta

    def sum(self, targets: Targets) -> Tensor:
        assert targets.reference_B is not None
        rows = len(targets.labels_BT)
        logps_B = summed_logps(targets.logits_NV, targets.targets_N, targets.sequence_N, rows)
        counted_B = (targets.labels_BT[:, 1:] != IGNORE).any(1)
        return npo_sum(logps_B, targets.reference_B, counted_B, self.beta)
